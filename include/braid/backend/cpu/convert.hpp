#pragma once

/// Rows of any storage type to float32 and back, a segment at a time. The storage type is a run-time value here:
/// one indirect call for 512 elements costs nothing, and the policies' code is compiled once, not once per type.

#include <braid/backend/cpu/dispatch.hpp>
#include <braid/core/dtype.hpp>

#include <array>
#include <cstring>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// W-wide vectors of the compiler's own. Those called memory are how rows are accessed: they alias anything and need
/// their elements' alignment only. Vectors are passed by reference, never by value, so that no calling convention
/// depends on the instruction set. A cast between two of them, such as
/// `(u32)x`, keeps the bits.
template <int W>
struct wide {
  typedef float f32 __attribute__((vector_size(W * 4)));
  typedef std::uint32_t u32 __attribute__((vector_size(W * 4)));
  typedef std::int32_t i32 __attribute__((vector_size(W * 4)));
  typedef std::uint16_t u16 __attribute__((vector_size(W * 2)));
  typedef float f32_memory __attribute__((vector_size(W * 4), aligned(4), may_alias));
  typedef std::uint16_t u16_memory __attribute__((vector_size(W * 2), aligned(2), may_alias));
  typedef std::uint32_t u32_memory __attribute__((vector_size(W * 4), aligned(2), may_alias));  // pairs of 16 bits
};

/// How a storage type is read and written W elements at a time. `vectorised` is false where a table or scalar code
/// serves better.
template <class T, int W>
struct lane_codec {
  static constexpr bool vectorised = false;
};

template <int W>
struct lane_codec<float, W> {
  static constexpr bool vectorised = true;
  BRAID_ALWAYS_INLINE static void load(float const* p, typename wide<W>::f32& out) noexcept {
    out = *reinterpret_cast<typename wide<W>::f32_memory const*>(p);
  }
  BRAID_ALWAYS_INLINE static void store(typename wide<W>::f32 const& x, float* p) noexcept {
    *reinterpret_cast<typename wide<W>::f32_memory*>(p) = x;
  }
};

template <int W>
struct lane_codec<bfloat16, W> {
  static constexpr bool vectorised = true;
  using u32 = typename wide<W>::u32;
  using u16 = typename wide<W>::u16;
  BRAID_ALWAYS_INLINE static void load(bfloat16 const* p, typename wide<W>::f32& out) noexcept {
    u32 const bits = __builtin_convertvector(*reinterpret_cast<typename wide<W>::u16_memory const*>(p), u32) << 16;
    out = (typename wide<W>::f32)bits;
  }
  BRAID_ALWAYS_INLINE static void store(typename wide<W>::f32 const& x, bfloat16* p) noexcept {
    u32 const u = (u32)x;
    u32 const rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
    // NaN keeps its upper payload; one whose payload lies in the lower half gets the quiet bit.
    u32 const upper = u >> 16;
    u32 const is_nan = (u32)((u & 0x7FFFFFFFu) > 0x7F800000u);
    u32 const no_payload = (u32)((upper & 0x7Fu) == 0u);
    u32 const nan = upper | (no_payload & 0x40u);
    u32 const bits = (is_nan & nan) | (~is_nan & rounded);
    *reinterpret_cast<typename wide<W>::u16_memory*>(p) = __builtin_convertvector(bits, u16);
  }
};

template <int W>
struct lane_codec<float16, W> {
  static constexpr bool vectorised = true;
  using f32 = typename wide<W>::f32;
  using u32 = typename wide<W>::u32;
  using i32 = typename wide<W>::i32;
  using u16 = typename wide<W>::u16;
  BRAID_ALWAYS_INLINE static void load(float16 const* p, f32& out) noexcept {
    u32 const h = __builtin_convertvector(*reinterpret_cast<typename wide<W>::u16_memory const*>(p), u32);
    u32 const magnitude = h & 0x7FFFu;
    u32 const special = (u32)(magnitude >= 0x7C00u);
    u32 const tiny = (u32)(magnitude < 0x400u);
    u32 const normal = (magnitude << 13) + ((112u << 23) & ~special) + ((224u << 23) & special);
    f32 const scaled = __builtin_convertvector((i32)magnitude, f32) * 0x1p-24f;
    u32 const bits = (tiny & (u32)scaled) | (~tiny & normal) | ((h & 0x8000u) << 16);
    out = (f32)bits;
  }
  BRAID_ALWAYS_INLINE static void store(f32 const& x, float16* p) noexcept {
    u32 const u = (u32)x;
    u32 const a = u & 0x7FFFFFFFu;
    u32 const normal = (a + 0xC8000FFFu + ((a >> 13) & 1u)) >> 13;
    // Below 2^-14: adding 0.5, whose last bit is 2^-24, rounds to a multiple of the smallest subnormal.
    f32 const shifted = (f32)a + 0.5f;
    u32 const subnormal = (u32)shifted - 0x3F000000u;
    u32 const payload = (a >> 13) & 0x3FFu;
    u32 const no_payload = (u32)(payload == 0u);
    u32 const nan = 0x7C00u | payload | (no_payload & 0x200u);
    u32 const is_tiny = (u32)(a < 0x38800000u);
    u32 const is_large = (u32)(a >= 0x47800000u);
    u32 const is_nan = (u32)(a > 0x7F800000u);
    u32 const finite = (is_tiny & subnormal) | (~is_tiny & normal);
    u32 const large = (is_nan & nan) | (~is_nan & 0x7C00u);
    u32 const bits = (is_large & large) | (~is_large & finite) | ((u >> 16) & 0x8000u);
    *reinterpret_cast<typename wide<W>::u16_memory*>(p) = __builtin_convertvector(bits, u16);
  }
};

/// All 256 values of an 8-bit float.
template <class T>
inline constexpr std::array<float, 256> f8_values = [] {
  std::array<float, 256> values{};
  for (unsigned b = 0; b < 256; ++b) { values[b] = static_cast<float>(T::from_bits(static_cast<std::uint8_t>(b))); }
  return values;
}();

template <class T>
BRAID_ALWAYS_INLINE float widen_one(T x) noexcept {
  if constexpr (sizeof(T) == 1) {
    return f8_values<T>[x.bits];
  } else {
    return static_cast<float>(x);
  }
}

template <class T>
struct widen_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(T const* from, float* to, int count) noexcept {
    int c = 0;
    if constexpr (lane_codec<T, W>::vectorised) {
      for (; c + W <= count; c += W) {
        typename wide<W>::f32 x;
        lane_codec<T, W>::load(from + c, x);
        *reinterpret_cast<typename wide<W>::f32_memory*>(to + c) = x;
      }
    }
    for (; c < count; ++c) { to[c] = widen_one(from[c]); }
  }
};

/// to = from - base, in float32.
template <class T>
struct delta_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(T const* from, float const* base, float* to, int count) noexcept {
    int c = 0;
    if constexpr (lane_codec<T, W>::vectorised) {
      for (; c + W <= count; c += W) {
        typename wide<W>::f32 x;
        lane_codec<T, W>::load(from + c, x);
        *reinterpret_cast<typename wide<W>::f32_memory*>(to + c) = x - *reinterpret_cast<typename wide<W>::f32_memory const*>(base + c);
      }
    }
    for (; c < count; ++c) { to[c] = widen_one(from[c]) - base[c]; }
  }
};

/// to = round(base + lambda * merged). The only rounding to the storage type.
template <class T>
struct finish_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* base, float const* merged, float lambda, T* to, int count) noexcept {
    int c = 0;
    if constexpr (lane_codec<T, W>::vectorised) {
      using f32 = typename wide<W>::f32;
      for (; c + W <= count; c += W) {
        f32 const x = *reinterpret_cast<typename wide<W>::f32_memory const*>(base + c) + *reinterpret_cast<typename wide<W>::f32_memory const*>(merged + c) * lambda;
        lane_codec<T, W>::store(x, to + c);
      }
    }
    for (; c < count; ++c) { to[c] = T(base[c] + merged[c] * lambda); }
  }
};

/// Calls `f` with a null pointer of the storage type that `t` names. The caller has checked `is_computable(t)`.
template <class F>
decltype(auto) visit_dtype(dtype t, F const& f) {
  switch (t) {
    case dtype::f16: return f(static_cast<float16*>(nullptr));
    case dtype::bf16: return f(static_cast<bfloat16*>(nullptr));
    case dtype::f8_e4m3: return f(static_cast<float8_e4m3*>(nullptr));
    case dtype::f8_e5m2: return f(static_cast<float8_e5m2*>(nullptr));
    default: return f(static_cast<float*>(nullptr));
  }
}

inline void widen(dtype t, std::byte const* from, float* to, int count) {
  visit_dtype(t, [&]<class T>(T*) { dispatch<widen_body<T>>(reinterpret_cast<T const*>(from), to, count); });
}

inline void subtract_base(dtype t, std::byte const* from, float const* base, float* to, int count) {
  visit_dtype(t, [&]<class T>(T*) { dispatch<delta_body<T>>(reinterpret_cast<T const*>(from), base, to, count); });
}

inline void add_base(dtype t, float const* base, float const* merged, float lambda, std::byte* to, int count) {
  visit_dtype(t, [&]<class T>(T*) { dispatch<finish_body<T>>(base, merged, lambda, reinterpret_cast<T*>(to), count); });
}

/// Elements `count` of type `from_type` at `from`, in `to_type` at `to`; bit for bit where the types agree.
inline void convert(dtype from_type, std::byte const* from, dtype to_type, std::byte* to, index_t count) {
  if (count == 0) { return; }  // then an address may be null
  if (from_type == to_type) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * size_of(to_type));
    return;
  }
  constexpr int chunk = 512;
  float wide_values[chunk];
  for (index_t done = 0; done < count; done += chunk) {
    int const n = static_cast<int>(count - done < chunk ? count - done : chunk);
    widen(from_type, from + static_cast<std::size_t>(done) * size_of(from_type), wide_values, n);
    visit_dtype(to_type, [&]<class T>(T*) {
      T* const out = reinterpret_cast<T*>(to) + done;
      for (int c = 0; c < n; ++c) { out[c] = T(wide_values[c]); }
    });
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
