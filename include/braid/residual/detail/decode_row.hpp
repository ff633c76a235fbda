#pragma once

/// Pieces of a row's residual, at the speed of a copy: what `decode_residual` computes, the same bits, with the widest
/// instruction set there is.

#include <braid/backend/cpu/convert.hpp>
#include <braid/residual/code.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// A piece begins at a multiple of so many columns: whole bytes in every code (eight, five or four elements a byte).
inline constexpr index_t residual_grain = 40;

/// Columns that are decoded at once: some grains, and whole vectors.
inline constexpr index_t residual_piece = 640;
static_assert(residual_piece % residual_grain == 0);

/// Bit `i` of a byte, in lane `i`.
inline constexpr std::array<std::uint32_t, 8> bit_of_lane{1, 2, 4, 8, 16, 32, 64, 128};

/// One pass of signs. @param plane the byte that holds the first element
struct decode_signs_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(std::byte const* plane, float scale, bool add, int count, float* out) noexcept {
    typename wide<8>::u32 lane;
    std::memcpy(&lane, bit_of_lane.data(), sizeof lane);
    std::uint32_t const size = bits_as<std::uint32_t>(scale);
    int c = 0;
    for (; c + 8 <= count; c += 8) {
      std::uint32_t const byte = plane_byte(plane, c / 8);
      typename wide<8>::u32 const minus = (typename wide<8>::u32)((lane & byte) != 0u);
      typename wide<8>::f32 x = (typename wide<8>::f32)((minus & 0x80000000u) ^ size);
      if (add) { x = *reinterpret_cast<typename wide<8>::f32_memory const*>(out + c) + x; }
      *reinterpret_cast<typename wide<8>::f32_memory*>(out + c) = x;
    }
    for (; c < count; ++c) {
      float const x = signed_scale(plane, c, scale);
      out[c] = add ? out[c] + x : x;
    }
  }
};

/// The digits of every byte, least significant first: -1, 0, 1. Three zeros fill each entry up.
struct ternary_digits {
  alignas(8) std::int8_t of[256][8]{};
  constexpr ternary_digits() {
    for (int byte = 0; byte < 256; ++byte) {
      int rest = byte;
      for (int i = 0; i < 5; ++i, rest /= 3) { of[byte][i] = static_cast<std::int8_t>(rest % 3 - 1); }
    }
  }
};
inline constexpr ternary_digits ternary_table{};

struct decode_ternary_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(std::byte const* plane, float scale, int count, float* out) noexcept {
    typedef std::int8_t i8 __attribute__((vector_size(8)));
    using u32 = typename wide<8>::u32;
    std::uint32_t const size = bits_as<std::uint32_t>(scale);
    int c = 0;
    for (; c + 8 <= count; c += 5) {  // eight are written, and three of them again
      i8 digits;
      std::memcpy(&digits, ternary_table.of[plane_byte(plane, c / 5)], sizeof digits);
      u32 const digit = (u32)__builtin_convertvector(digits, typename wide<8>::i32);
      u32 const nonzero = (u32)(digit != 0u);
      *reinterpret_cast<typename wide<8>::f32_memory*>(out + c) =
          (typename wide<8>::f32)(((digit & 0x80000000u) ^ size) & nonzero);
    }
    float const value[3] = {-scale, 0.0f, scale};
    for (; c < count; ++c) { out[c] = value[ternary_table.of[plane_byte(plane, c / 5)][c % 5] + 1]; }
  }
};

/// A byte with its groups of `Bits` bits in reverse order: the newest element of a trellis is the lowest in its state.
template <int Bits>
inline constexpr std::array<std::uint8_t, 256> reversed_byte = [] {
  std::array<std::uint8_t, 256> all{};
  for (unsigned b = 0; b < 256; ++b) {
    unsigned r = 0;
    for (int at = 0; at < 8; at += Bits) { r = r << Bits | (b >> at & ((1u << Bits) - 1u)); }
    all[b] = static_cast<std::uint8_t>(r);
  }
  return all;
}();

/// @param before  what the byte before `plane` holds; zero at the beginning of a row
template <int Bits>
struct decode_trellis_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(std::byte const* plane, unsigned before, float scale, int count, float* out) noexcept {
    constexpr int each = 8 / Bits;  // elements a byte
    float value[256];
    for (unsigned s = 0; s < 256; ++s) { value[s] = scale * trellis_value<Bits>(s); }
    unsigned window = reversed_byte<Bits>[before];
    int c = 0;
    for (; c + each <= count; c += each) {
      window = window << 8 | reversed_byte<Bits>[plane_byte(plane, c / each)];
      for (int i = 0; i < each; ++i) { out[c + i] = value[window >> (8 - Bits - i * Bits) & 255u]; }
      window &= 255u;
    }
    if (c < count) {
      window = window << 8 | reversed_byte<Bits>[plane_byte(plane, c / each)];
      for (int i = 0; c < count; ++i, ++c) { out[c] = value[window >> (8 - Bits - i * Bits) & 255u]; }
    }
  }
};

/// Columns `first .. first + count` of a row's residual.
/// @param plane [residual_bytes(code, cols)]: of the whole row
/// @param first a multiple of `residual_grain`
/// @param out   [count]
inline void decode_residual_piece(residual_code code, std::byte const* plane, bfloat16 const* scale, index_t cols,
                                  index_t first, int count, float* out) {
  switch (code) {
    case residual_code::none:
      for (int c = 0; c < count; ++c) { out[c] = 0.0f; }
      return;
    case residual_code::sign1:
    case residual_code::sign2:
    case residual_code::sign3:
      for (int pass = 0; pass < residual_scales(code); ++pass) {
        dispatch<decode_signs_body>(plane + pass * ((cols + 7) / 8) + first / 8, static_cast<float>(scale[pass]), pass > 0,
                                    count, out);
      }
      return;
    case residual_code::ternary:
      dispatch<decode_ternary_body>(plane + first / 5, static_cast<float>(scale[0]), count, out);
      return;
    case residual_code::trellis1:
      dispatch<decode_trellis_body<1>>(plane + first / 8, first == 0 ? 0u : plane_byte(plane, first / 8 - 1),
                                       static_cast<float>(scale[0]), count, out);
      return;
    case residual_code::trellis2:
      dispatch<decode_trellis_body<2>>(plane + first / 4, first == 0 ? 0u : plane_byte(plane, first / 4 - 1),
                                       static_cast<float>(scale[0]), count, out);
      return;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
