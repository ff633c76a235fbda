#pragma once

/// float16 to float32 by the machine's own instruction, where it has one.

#include <braid/backend/cpu/convert.hpp>

// clang checks the size of assembly's operands against the file's instruction set, not the function's: there the portable
// conversion stays.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define BRAID_NATIVE_F16 1
#include <cpuid.h>
#else
#define BRAID_NATIVE_F16 0
#endif

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A float16 that `lane_codec` widens and rounds by the machine's instructions: the bits of the conversion in core/float_types.hpp, but
/// that a signalling NaN comes out quiet, as its product with anything would. Only behind `has_native_f16`, and only in
/// bodies that `dispatch` runs.
struct native_float16 {
  std::uint16_t bits;
};

template <int W>
struct lane_codec<native_float16, W> {
  static constexpr bool vectorised = true;
#if BRAID_NATIVE_F16
  // As assembly: a builtin would want the whole body compiled for one instruction set only.
  BRAID_ALWAYS_INLINE static void load(native_float16 const* p, typename wide<W>::f32& out) noexcept {
    asm("vcvtph2ps %1, %0" : "=v"(out) : "m"(*reinterpret_cast<typename wide<W>::u16_memory const*>(p)));
  }
  /// Rounds to nearest even, whatever the thread's mode. Of a NaN other bits than those of the portable conversion.
  BRAID_ALWAYS_INLINE static void store(typename wide<W>::f32 const& x, native_float16* p) noexcept {
    asm("vcvtps2ph $0, %1, %0" : "=m"(*reinterpret_cast<typename wide<W>::u16_memory*>(p)) : "v"(x));
  }
#else
  BRAID_ALWAYS_INLINE static void load(native_float16 const* p, typename wide<W>::f32& out) noexcept {
    lane_codec<float16, W>::load(reinterpret_cast<float16 const*>(p), out);
  }
  BRAID_ALWAYS_INLINE static void store(typename wide<W>::f32 const& x, native_float16* p) noexcept {
    lane_codec<float16, W>::store(x, reinterpret_cast<float16*>(p));
  }
#endif
};

inline bool machine_has_f16c() noexcept {
#if BRAID_NATIVE_F16
  static bool const has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1u) != 0;
  }();
  return has;
#else
  return false;
#endif
}

/// Whether the active instruction set has the conversion.
inline bool has_native_f16() noexcept {
  simd_level const level = active_simd_level();
  return BRAID_NATIVE_F16 != 0 && (level == simd_level::avx512 || (level == simd_level::avx2 && machine_has_f16c()));
}

}  // namespace detail
BRAID_NAMESPACE_END
