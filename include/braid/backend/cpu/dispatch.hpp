#pragma once

#include <braid/core/types.hpp>

#include <atomic>

BRAID_NAMESPACE_BEGIN

/// Instruction sets that the CPU kernels are compiled for, whatever the user's flags. The widest one that the machine
/// has is chosen at run time. All of them give the same bits.
enum class simd_level : int {
  portable,  ///< what the compiler targets: SSE2 on x86-64, NEON on AArch64
  avx2,
  avx512  ///< F, BW, DQ, VL
};

namespace detail {

inline std::atomic<int>& simd_limit() noexcept {
  static std::atomic<int> limit{static_cast<int>(simd_level::avx512)};
  return limit;
}

inline simd_level machine_simd_level() noexcept {
#if defined(__x86_64__)
  static simd_level const level = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      return simd_level::avx512;
    }
    return __builtin_cpu_supports("avx2") ? simd_level::avx2 : simd_level::portable;
  }();
  return level;
#else
  return simd_level::portable;
#endif
}

// Each entry below is one body, compiled for one instruction set: `Body::run<W>` and all that it inlines.
// W = floats in a register. No contraction: see config.hpp.
template <class Body, class... Args>
__attribute__((noinline, flatten)) BRAID_STRICT_FP_FUNCTION void run_portable(Args... args) {
  Body::template run<4>(args...);
}
#if defined(__x86_64__)
template <class Body, class... Args>
__attribute__((noinline, flatten, target("avx2"))) BRAID_STRICT_FP_FUNCTION void run_avx2(Args... args) {
  Body::template run<8>(args...);
}
template <class Body, class... Args>
__attribute__((noinline, flatten, target("avx512f,avx512bw,avx512dq,avx512vl"))) BRAID_STRICT_FP_FUNCTION void run_avx512(
    Args... args) {
  Body::template run<16>(args...);
}
#endif

}  // namespace detail

/// The instruction set that kernels use now.
inline simd_level active_simd_level() noexcept {
  int const machine = static_cast<int>(detail::machine_simd_level());
  int const limit = detail::simd_limit().load(std::memory_order_relaxed);
  return static_cast<simd_level>(machine < limit ? machine : limit);
}

/// Uses no wider instruction set than `level`, in the whole process. For tests and measurements.
inline void limit_simd_level(simd_level level) noexcept {
  detail::simd_limit().store(static_cast<int>(level), std::memory_order_relaxed);
}

namespace detail {

/// Runs `Body` for the active instruction set. Arguments are passed by value: pointers and small structs.
template <class Body, class... Args>
void dispatch(Args... args) {
#if defined(__x86_64__)
  switch (active_simd_level()) {
    case simd_level::avx512: run_avx512<Body, Args...>(args...); return;
    case simd_level::avx2: run_avx2<Body, Args...>(args...); return;
    case simd_level::portable: break;
  }
#endif
  run_portable<Body, Args...>(args...);
}

}  // namespace detail

BRAID_NAMESPACE_END
