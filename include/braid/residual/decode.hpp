#pragma once

/// The one decoder of residuals, for whole rows and for pieces of them. The same bits with every instruction set.

#include <braid/residual/code.hpp>
#include <braid/residual/detail/bit_planes.hpp>
#include <braid/residual/detail/ternary_digits.hpp>
#include <braid/residual/detail/trellis_table.hpp>

#include <array>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// A piece begins at a multiple of so many columns: whole bytes in every code (eight, five or four elements a byte).
inline constexpr index_t residual_grain = 40;

/// Columns that are decoded at once: some grains, and whole vectors.
inline constexpr index_t residual_piece = 640;
static_assert(residual_piece % residual_grain == 0);

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
  BRAID_ALWAYS_INLINE static void run(std::byte const* plane, unsigned before, float scale, index_t count, float* out) noexcept {
    constexpr int each = 8 / Bits;  // elements a byte
    float value[256];
    for (unsigned s = 0; s < 256; ++s) { value[s] = scale * trellis_value<Bits>(s); }
    unsigned window = reversed_byte<Bits>[before];
    index_t c = 0;
    for (; c + each <= count; c += each) {
      window = window << 8 | reversed_byte<Bits>[std::to_integer<unsigned>(plane[c / each])];
      for (int i = 0; i < each; ++i) { out[c + i] = value[window >> (8 - Bits - i * Bits) & 255u]; }
      window &= 255u;
    }
    if (c < count) {
      window = window << 8 | reversed_byte<Bits>[std::to_integer<unsigned>(plane[c / each])];
      for (int i = 0; c < count; ++i, ++c) { out[c] = value[window >> (8 - Bits - i * Bits) & 255u]; }
    }
  }
};


template <int Planes>
void decode_planes(std::byte const* plane, index_t stride, bfloat16 const* scale, index_t count, float* out) noexcept {
  float wide_scale[static_cast<std::size_t>(Planes)];
  for (int p = 0; p < Planes; ++p) { wide_scale[p] = static_cast<float>(scale[p]); }
  dispatch<read_planes_body<Planes>>(plane, stride, static_cast<float const*>(wide_scale), count, out);
}

template <int Bits>
void decode_trellis(std::byte const* plane, index_t first, float scale, index_t count, float* out) noexcept {
  std::byte const* const from = plane + first * Bits / 8;
  unsigned const before = first == 0 ? 0u : std::to_integer<unsigned>(from[-1]);
  dispatch<decode_trellis_body<Bits>>(from, before, scale, count, out);
}

/// Columns `first .. first + count` of a row's residual.
/// @param plane [residual_bytes(code, cols)]: of the whole row
/// @param first a multiple of `residual_grain`
/// @param out   [count]
inline void decode_residual_piece(residual_code code, std::byte const* plane, bfloat16 const* scale, index_t cols,
                                  index_t first, index_t count, float* out) {
  index_t const stride = (cols + 7) / 8;
  switch (code) {
    case residual_code::none:
      for (index_t c = 0; c < count; ++c) { out[c] = 0.0f; }
      return;
    case residual_code::sign1: decode_planes<1>(plane + first / 8, stride, scale, count, out); return;
    case residual_code::sign2: decode_planes<2>(plane + first / 8, stride, scale, count, out); return;
    case residual_code::sign3: decode_planes<3>(plane + first / 8, stride, scale, count, out); return;
    case residual_code::ternary:
      dispatch<read_ternary_body>(plane + first / 5, static_cast<float>(scale[0]), count, out);
      return;
    case residual_code::trellis1: decode_trellis<1>(plane, first, static_cast<float>(scale[0]), count, out); return;
    case residual_code::trellis2: decode_trellis<2>(plane, first, static_cast<float>(scale[0]), count, out); return;
  }
}

}  // namespace detail

/// The residual of a row, in float32: what is added to the shared row before the one rounding to its type.
/// @param plane  [residual_bytes(code, cols)]
/// @param scale  [residual_scales(code)]
/// @param out    [cols]
inline void decode_residual(residual_code code, std::byte const* plane, bfloat16 const* scale, index_t cols, float* out) {
  detail::decode_residual_piece(code, plane, scale, cols, 0, cols, out);
}

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
