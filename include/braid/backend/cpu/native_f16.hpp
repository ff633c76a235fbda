#pragma once

/// float16 to float32 by the machine's own instruction, where it has one.

#include <braid/backend/cpu/dispatch.hpp>
#include <braid/core/float_types.hpp>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

BRAID_NAMESPACE_BEGIN
namespace detail {

#if defined(__x86_64__)

// In functions of their own: an instruction set can't be inlined into bodies that are compiled for several. As assembly,
// since nvcc's front end knows no such builtin.
__attribute__((noinline, target("avx2,f16c"))) inline void widen_f16_by_f16c(float16 const* from, char const* ahead, float* to,
                                                                              index_t count) noexcept {
  typedef std::uint16_t u16 __attribute__((vector_size(16), aligned(2), may_alias));
  typedef float f32 __attribute__((vector_size(32), aligned(4), may_alias));
  index_t c = 0;
  for (; c + 8 <= count; c += 8) {
    if (c % 32 == 0) { __builtin_prefetch(ahead + 2 * c, 0, 2); }
    float __attribute__((vector_size(32))) x;
    asm("vcvtph2ps %1, %0" : "=x"(x) : "m"(*reinterpret_cast<u16 const*>(from + c)));
    *reinterpret_cast<f32*>(to + c) = x;
  }
  for (; c < count; ++c) { to[c] = static_cast<float>(from[c]); }
}

__attribute__((noinline, target("avx512f,avx512bw,avx512dq,avx512vl"))) inline void widen_f16_by_avx512(
    float16 const* from, char const* ahead, float* to, index_t count) noexcept {
  typedef std::uint16_t u16 __attribute__((vector_size(32), aligned(2), may_alias));
  typedef float f32 __attribute__((vector_size(64), aligned(4), may_alias));
  index_t c = 0;
  for (; c + 16 <= count; c += 16) {
    if (c % 32 == 0) { __builtin_prefetch(ahead + 2 * c, 0, 2); }
    float __attribute__((vector_size(64))) x;
    asm("vcvtph2ps %1, %0" : "=v"(x) : "m"(*reinterpret_cast<u16 const*>(from + c)));
    *reinterpret_cast<f32*>(to + c) = x;
  }
  for (; c < count; ++c) { to[c] = static_cast<float>(from[c]); }
}

inline bool machine_has_f16c() noexcept {
  static bool const has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1u) != 0;
  }();
  return has;
}

#endif

/// Whether `widen_native_f16` may be called: with the active instruction set.
inline bool has_native_f16() noexcept {
#if defined(__x86_64__)
  simd_level const level = active_simd_level();
  return level == simd_level::avx512 || (level == simd_level::avx2 && machine_has_f16c());
#else
  return false;
#endif
}

/// to[c] = from[c] in float32. The bits of the conversion in core/float_types.hpp, but that a signalling NaN comes out
/// quiet: what its product with anything would be.
/// @param ahead  what to fetch into the second cache meanwhile, as many bytes
inline void widen_native_f16([[maybe_unused]] float16 const* from, [[maybe_unused]] char const* ahead, [[maybe_unused]] float* to,
                             [[maybe_unused]] index_t count) noexcept {
#if defined(__x86_64__)
  if (active_simd_level() == simd_level::avx512) {
    widen_f16_by_avx512(from, ahead, to, count);
  } else {
    widen_f16_by_f16c(from, ahead, to, count);
  }
#endif
}

}  // namespace detail
BRAID_NAMESPACE_END
