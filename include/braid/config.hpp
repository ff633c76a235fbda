#pragma once

/// What differs between compilers, and nothing else. `__CUDACC__` is asked here and in the gate of
/// `.cuh` files only: a template body that asked it would have two meanings in one program.

#include <braid/version.hpp>

#if __cplusplus < 202002L
#error "braid needs C++20: compile with -std=c++20 (CMake: target_compile_features(your_target PRIVATE cxx_std_20))"
#endif

// Two versions of braid in one program are two sets of symbols.
#define BRAID_NAMESPACE_BEGIN \
  namespace braid {           \
  inline namespace v0_1 {
#define BRAID_NAMESPACE_END \
  }                         \
  }

#if defined(__CUDACC__)
#define BRAID_HD __host__ __device__
#else
#define BRAID_HD
#endif

// Bodies that must melt into a function compiled for a wider instruction set.
#define BRAID_ALWAYS_INLINE inline __attribute__((always_inline))

// Products and sums are rounded separately, everywhere: results are a promise (docs/design.md). A compiler that
// fuses a * b + c, as g++ does by default under -march=native, would break it. The CMake target adds
// -ffp-contract=off; these pragmas protect whoever uses a plain -I. nvcc's front end knows neither pragma.
#if defined(__CUDACC__)
#define BRAID_STRICT_FP_BEGIN
#define BRAID_STRICT_FP_END
#elif defined(__clang__)
#define BRAID_STRICT_FP_BEGIN \
  _Pragma("float_control(push)") _Pragma("clang fp contract(off)")
#define BRAID_STRICT_FP_END _Pragma("float_control(pop)")
#elif defined(__GNUC__)
#define BRAID_STRICT_FP_BEGIN \
  _Pragma("GCC push_options") _Pragma("GCC optimize(\"fp-contract=off\")")
#define BRAID_STRICT_FP_END _Pragma("GCC pop_options")
#else
#define BRAID_STRICT_FP_BEGIN
#define BRAID_STRICT_FP_END
#endif

// The same promise for one function, where the front end (nvcc's) drops the pragmas above but keeps attributes.
#if defined(__GNUC__) && !defined(__clang__)
#define BRAID_STRICT_FP_FUNCTION __attribute__((optimize("fp-contract=off")))
#else
#define BRAID_STRICT_FP_FUNCTION
#endif

// Loops over a constant count that are to become SIMD: a compiler that unrolls them first sees no loop any more.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define BRAID_VECTORISE _Pragma("GCC unroll 1")
#else
#define BRAID_VECTORISE
#endif

// Loops over a small constant count whose arrays must become registers, also at -O2.
#if defined(__clang__)
#define BRAID_UNROLL _Pragma("unroll")
#elif defined(__GNUC__) && !defined(__CUDACC__)
#define BRAID_UNROLL _Pragma("GCC unroll 64")
#else
#define BRAID_UNROLL
#endif
