#pragma once

/// Rows rebuilt from signs and ternary digits in one pass: decoded, added and rounded in registers.

#include <braid/backend/cpu/native_f16.hpp>
#include <braid/residual/detail/bit_planes.hpp>
#include <braid/residual/detail/ternary_digits.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Magnitudes from this on don't fit the type, or aren't finite: bits of float32.
template <class T>
inline constexpr std::uint32_t first_beyond = 0x7F800000u;
template <>
inline constexpr std::uint32_t first_beyond<bfloat16> = 0x7F7F8000u;  // half way to what would be the next number
template <>
inline constexpr std::uint32_t first_beyond<native_float16> = 0x477FF000u;

/// Rounded as lane_codec rounds, of numbers that fit.
template <class T, int W>
BRAID_ALWAYS_INLINE void store_fitting(typename wide<W>::f32 const& x, T* p) noexcept {
  if constexpr (std::is_same_v<T, bfloat16>) {
    using u32 = typename wide<W>::u32;
    u32 const u = (u32)x;
    u32 const bits = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
    *reinterpret_cast<typename wide<W>::u16_memory*>(p) = __builtin_convertvector(bits, typename wide<W>::u16);
  } else {
    lane_codec<T, W>::store(x, p);
  }
}

/// Scales with the signs of planes; `read_planes_body` in registers.
template <int Planes>
struct sign_columns {
  std::byte const* plane;
  index_t stride;
  float scale[3];

  template <int W>
  struct reader {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    sign_columns const& from;
    u32 size[3];
    u32 place;
    std::uint32_t bits[3];

    BRAID_ALWAYS_INLINE reader(sign_columns const& s, index_t) noexcept : from(s) {
      for (int l = 0; l < W; ++l) { place[l] = W == 4 ? 1u << l : static_cast<std::uint32_t>(31 - l); }
      BRAID_UNROLL
      for (int p = 0; p < Planes; ++p) { size[p] = (u32)(f32{} + s.scale[p]); }
    }
    /// Of 16 columns from `c` on.
    BRAID_ALWAYS_INLINE void begin(index_t c) noexcept {
      BRAID_UNROLL
      for (int p = 0; p < Planes; ++p) {
        std::uint16_t two;
        std::memcpy(&two, from.plane + p * from.stride + c / 8, sizeof two);
        bits[p] = two;
      }
    }
    BRAID_ALWAYS_INLINE void read(index_t, int at, f32& sum) const noexcept {
      BRAID_UNROLL
      for (int p = 0; p < Planes; ++p) {
        u32 const all = u32{} + (bits[p] >> at);
        u32 minus;
        if constexpr (W == 4) {  // no shift by lanes there
          minus = (u32)((all & place) != 0u) & 0x80000000u;
        } else {
          minus = all << place & 0x80000000u;
        }
        f32 const term = (f32)(size[p] ^ minus);
        if (p == 0) {
          sum = term;
        } else {
          sum = sum + term;
        }
      }
    }
  };
};

/// A scale times ternary digits; `read_ternary_body` in registers.
struct ternary_columns {
  std::byte const* plane;
  float scale;

  template <int W>
  struct reader {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    using i32 = typename wide<W>::i32;
    typedef std::int8_t i8_memory __attribute__((vector_size(W), aligned(1), may_alias));
    u32 size;
    std::int8_t digit[648];  // of a piece

    BRAID_ALWAYS_INLINE reader(ternary_columns const& t, index_t count) noexcept : size((u32)(f32{} + t.scale)) {
      for (index_t i = 0; i < (count + 4) / 5; ++i) {
        std::memcpy(digit + 5 * i, &ternary_digits[std::to_integer<std::size_t>(t.plane[i])], 8);
      }
    }
    BRAID_ALWAYS_INLINE void begin(index_t) noexcept {}
    BRAID_ALWAYS_INLINE void read(index_t c, int at, f32& sum) const noexcept {
      i32 const d = __builtin_convertvector(*reinterpret_cast<i8_memory const*>(digit + c + at), i32);
      sum = (f32)((size & (u32)(d != 0)) ^ ((u32)d & 0x80000000u));
    }
  };
};

/// out = round(shared + column * residual), if all sums fit the type; otherwise `out` is worth nothing.
/// @param count  columns, a multiple of 16, at most 640
/// @param fits   whether they do
template <class T, class Columns>
struct rebuild_piece_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(T const* shared, Columns coded, bfloat16 const* column, index_t count, T* out, bool* fits) noexcept {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    typename Columns::template reader<W> residual(coded, count);
    u32 beyond{};
    for (index_t c = 0; c < count; c += sum_order::lanes) {
      residual.begin(c);
      BRAID_UNROLL
      for (int at = 0; at < sum_order::lanes; at += W) {
        f32 sum;
        residual.read(c, at, sum);
        if (column != nullptr) {
          f32 factor;
          lane_codec<bfloat16, W>::load(column + c + at, factor);
          sum = factor * sum;
        }
        f32 row;
        lane_codec<T, W>::load(shared + c + at, row);
        sum = row + sum;
        beyond |= ((u32)sum & 0x7FFFFFFFu) + (0x80000000u - first_beyond<T>);
        store_fitting<T, W>(sum, out + c + at);
      }
    }
    std::uint32_t any = 0;
    for (int l = 0; l < W; ++l) { any |= beyond[l]; }
    *fits = any >> 31 == 0;
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
