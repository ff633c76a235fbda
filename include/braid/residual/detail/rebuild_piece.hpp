#pragma once

/// Rows rebuilt from signs and ternary digits in one pass: decoded, added and rounded in registers.

#include <braid/backend/cpu/native_f16.hpp>
#include <braid/residual/code.hpp>
#include <braid/residual/detail/bit_planes.hpp>
#include <braid/residual/detail/ternary_digits.hpp>

#include <cstring>
#include <type_traits>

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

/// The signs that a byte of a plane means, as masks of eight floats.
struct sign_masks {
  alignas(64) std::uint32_t of[256][8];
};
inline constexpr sign_masks byte_signs = [] {
  sign_masks m{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    for (unsigned i = 0; i < 8; ++i) { m.of[byte][i] = (byte >> i & 1u) << 31; }
  }
  return m;
}();

/// Columns that readers are told of at a time: whole bytes of every code, and whole segments of the order of sums.
inline constexpr index_t reader_block = 5 * sum_order::segment;

/// Scales with the signs of planes: `read_planes_body` in registers.
template <int Planes>
struct sign_columns {
  std::byte const* plane;  // from a block's first column on
  index_t stride;
  float scale[3];

  [[nodiscard]] bool readable() const noexcept { return true; }

  template <int W>
  struct reader {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    std::byte const* block = nullptr;
    index_t stride;
    u32 size[3];
    u32 place;

    BRAID_ALWAYS_INLINE explicit reader(sign_columns const& s) noexcept : stride(s.stride) {
      for (int l = 0; l < W; ++l) { place[l] = W == 4 ? 1u << l : static_cast<std::uint32_t>(31 - l); }
      BRAID_UNROLL
      for (int p = 0; p < Planes; ++p) { size[p] = (u32)(f32{} + s.scale[p]); }
    }
    BRAID_ALWAYS_INLINE void enter(sign_columns const& s, index_t first, index_t) noexcept { block = s.plane + first / 8; }
    /// Of columns c + at to c + at + W - 1 of the block; c is a multiple of 16.
    BRAID_ALWAYS_INLINE void read(index_t c, int at, f32& sum) const noexcept {
      BRAID_UNROLL
      for (int p = 0; p < Planes; ++p) {
        std::byte const* const from = block + p * stride + (c + at) / 8;
        u32 minus;
        if constexpr (W == 8) {
          minus = *reinterpret_cast<typename wide<W>::u32_memory const*>(byte_signs.of[std::to_integer<std::size_t>(*from)]);
        } else if constexpr (W == 4) {  // no shift by lanes there
          minus = (u32)(((u32{} + (std::to_integer<std::uint32_t>(*from) >> at % 8)) & place) != 0u) & 0x80000000u;
        } else {
          std::uint16_t two;
          std::memcpy(&two, from, sizeof two);
          minus = (u32{} + two) << place & 0x80000000u;
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

/// The five digits of every byte, less one. Of 16 bits, since g++ 12 widens vectors of eight bytes one by one.
struct ternary_numbers {
  alignas(16) std::int16_t of[256][8];
};
inline constexpr ternary_numbers byte_digits = [] {
  ternary_numbers n{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    unsigned rest = byte;
    for (int i = 0; i < 5; ++i, rest /= 3) { n.of[byte][i] = static_cast<std::int16_t>(static_cast<int>(rest % 3) - 1); }
  }
  return n;
}();

/// A scale times ternary digits: `read_ternary_body` in registers.
struct ternary_columns {
  std::byte const* plane;
  float scale;

  /// Of others a digit times the scale isn't what the format says: zero has no sign there, and infinity times it is nothing.
  [[nodiscard]] bool readable() const noexcept { return scale >= 0.0f && scale < 0x1p128; }

  template <int W>
  struct reader {
    using f32 = typename wide<W>::f32;
    using i32 = typename wide<W>::i32;
    typedef std::int16_t i16_memory __attribute__((vector_size(2 * W), aligned(2), may_alias));
    f32 size;
    std::int16_t digit[static_cast<std::size_t>(reader_block + 8)];

    BRAID_ALWAYS_INLINE explicit reader(ternary_columns const& t) noexcept : size(f32{} + t.scale) {}
    BRAID_ALWAYS_INLINE void enter(ternary_columns const& t, index_t first, index_t count) noexcept {
      std::byte const* const from = t.plane + first / 5;
      for (index_t i = 0; i < (count + 4) / 5; ++i) {
        std::memcpy(digit + 5 * i, byte_digits.of[std::to_integer<std::size_t>(from[i])], 16);
      }
    }
    BRAID_ALWAYS_INLINE void read(index_t c, int at, f32& sum) const noexcept {
      i32 const d = __builtin_convertvector(*reinterpret_cast<i16_memory const*>(digit + c + at), i32);
      sum = __builtin_convertvector(d, f32) * size;
    }
  };
};

/// sum = shared + column * residual, of the W columns `at` behind a reader's column `c`, not rounded.
/// @param shared, column  of these columns; `column` may be nullptr
template <class T, int W, class Reader>
BRAID_ALWAYS_INLINE void sum_with_residual(Reader const& residual, index_t c, int at, T const* shared, bfloat16 const* column,
                                           typename wide<W>::f32& sum) noexcept {
  residual.read(c, at, sum);
  if (column != nullptr) {
    typename wide<W>::f32 factor;
    lane_codec<bfloat16, W>::load(column, factor);
    sum = factor * sum;
  }
  typename wide<W>::f32 row;
  lane_codec<T, W>::load(shared, row);
  sum = row + sum;
}

/// out = round(shared + column * residual), if all sums fit the type; otherwise `out` is worth nothing.
/// @param count  columns, a multiple of 16, at most 640
/// @param fits   whether they do
template <class T, class Columns>
struct rebuild_piece_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(T const* shared, Columns coded, bfloat16 const* column, index_t count, T* out, bool* fits) noexcept {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    typename Columns::template reader<W> residual(coded);
    residual.enter(coded, 0, count);
    u32 beyond{};
    for (index_t c = 0; c < count; c += sum_order::lanes) {
      BRAID_UNROLL
      for (int at = 0; at < sum_order::lanes; at += W) {
        f32 sum;
        sum_with_residual<T, W>(residual, c, at, shared + c + at, column == nullptr ? nullptr : column + c + at, sum);
        beyond |= ((u32)sum & 0x7FFFFFFFu) + (0x80000000u - first_beyond<T>);
        store_fitting<T, W>(sum, out + c + at);
      }
    }
    std::uint32_t any = 0;
    for (int l = 0; l < W; ++l) { any |= beyond[l]; }
    *fits = any >> 31 == 0;
  }
};

/// Calls `f(columns, static_cast<T*>(nullptr))` for a code and a type that are rebuilt in one pass. @return false for others
/// @param first  the column that `columns` begin with, a multiple of `residual_grain`
template <class F>
bool visit_one_pass(dtype type, residual_code code, std::byte const* plane, bfloat16 const* scale, index_t cols, index_t first,
                    F const& f) {
  auto const as = [&](auto const& coded) {
    if (!coded.readable()) { return false; }
    switch (type) {
      case dtype::bf16: f(coded, static_cast<bfloat16*>(nullptr)); return true;
      case dtype::f32: f(coded, static_cast<float*>(nullptr)); return true;
      case dtype::f16:
        if (!has_native_f16()) { return false; }
        f(coded, static_cast<native_float16*>(nullptr));
        return true;
      default: return false;
    }
  };
  auto const signs = [&]<int Planes>(std::integral_constant<int, Planes>) {
    sign_columns<Planes> coded{plane + first / 8, (cols + 7) / 8, {}};
    for (int p = 0; p < Planes; ++p) { coded.scale[p] = static_cast<float>(scale[p]); }
    return as(coded);
  };
  switch (code) {
    case residual_code::sign1: return signs(std::integral_constant<int, 1>{});
    case residual_code::sign2: return signs(std::integral_constant<int, 2>{});
    case residual_code::sign3: return signs(std::integral_constant<int, 3>{});
    case residual_code::ternary: return as(ternary_columns{plane + first / 5, static_cast<float>(scale[0])});
    default: return false;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
