#pragma once

/// How a row's residual is stored: the numbers of the format (docs/format.md) and the one decoder.

#include <braid/core/float_types.hpp>
#include <braid/residual/detail/trellis_table.hpp>

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

/// The residual of an expert's row against the row that its group shares. Values are those of `braid.code.T`.
enum class residual_code : std::uint8_t {
  none = 0,      ///< the shared row is the expert's row
  sign1 = 1,     ///< 1 bit an element: plus or minus a scale
  sign2 = 2,     ///< 2 bits: two such passes, each with its scale
  sign3 = 3,     ///< 3 bits
  ternary = 4,   ///< minus, zero or plus a scale; five elements a byte
  trellis1 = 5,  ///< 1 bit an element: a path through a trellis of 256 states
  trellis2 = 6   ///< 2 bits
};

inline constexpr int residual_codes = 7;

[[nodiscard]] constexpr std::string_view name_of(residual_code code) noexcept {
  constexpr std::array<std::string_view, residual_codes> names{"none",    "sign1",    "sign2",   "sign3",
                                                               "ternary", "trellis1", "trellis2"};
  return names[static_cast<std::size_t>(code)];
}

/// @return nothing for a name that no code has
[[nodiscard]] constexpr std::optional<residual_code> residual_code_named(std::string_view name) noexcept {
  for (int c = 0; c < residual_codes; ++c) {
    auto const code = static_cast<residual_code>(c);
    if (name_of(code) == name) { return code; }
  }
  return std::nullopt;
}

/// Scales of a row.
[[nodiscard]] constexpr int residual_scales(residual_code code) noexcept {
  constexpr std::array<int, residual_codes> scales{0, 1, 2, 3, 1, 1, 1};
  return scales[static_cast<std::size_t>(code)];
}

/// Bytes of the packed planes of a row of `cols` elements.
[[nodiscard]] constexpr index_t residual_bytes(residual_code code, index_t cols) noexcept {
  switch (code) {
    case residual_code::none: return 0;
    case residual_code::sign1:
    case residual_code::trellis1: return (cols + 7) / 8;
    case residual_code::sign2: return 2 * ((cols + 7) / 8);
    case residual_code::sign3: return 3 * ((cols + 7) / 8);
    case residual_code::ternary: return (cols + 4) / 5;
    case residual_code::trellis2: return (cols + 3) / 4;
  }
  return 0;
}

namespace detail {

inline unsigned plane_byte(std::byte const* plane, index_t i) noexcept {
  return std::to_integer<unsigned>(plane[i]);
}

/// A set bit is minus.
inline float signed_scale(std::byte const* plane, index_t col, float scale) noexcept {
  unsigned const bit = plane_byte(plane, col >> 3) >> (col & 7) & 1u;
  return bit != 0 ? -scale : scale;
}

template <int Bits>
void decode_trellis(std::byte const* plane, float scale, index_t cols, float* out) noexcept {
  unsigned state = 0;
  for (index_t c = 0; c < cols; ++c) {
    index_t const at = c * Bits;
    unsigned const bits = plane_byte(plane, at >> 3) >> (at & 7) & ((1u << Bits) - 1u);
    state = (state << Bits | bits) & 255u;
    out[c] = scale * trellis_value<Bits>(state);
  }
}

}  // namespace detail

/// The residual of a row, in float32: what is added to the shared row before the one rounding to its type.
/// @param plane  [residual_bytes(code, cols)]
/// @param scale  [residual_scales(code)]
/// @param out    [cols]
inline void decode_residual(residual_code code, std::byte const* plane, bfloat16 const* scale, index_t cols, float* out) {
  switch (code) {
    case residual_code::none:
      for (index_t c = 0; c < cols; ++c) { out[c] = 0.0f; }
      return;
    case residual_code::sign1:
    case residual_code::sign2:
    case residual_code::sign3: {
      index_t const stride = (cols + 7) / 8;
      float const first = static_cast<float>(scale[0]);
      for (index_t c = 0; c < cols; ++c) { out[c] = detail::signed_scale(plane, c, first); }
      for (int pass = 1; pass < residual_scales(code); ++pass) {
        float const s = static_cast<float>(scale[pass]);
        std::byte const* const p = plane + pass * stride;
        for (index_t c = 0; c < cols; ++c) { out[c] = out[c] + detail::signed_scale(p, c, s); }
      }
      return;
    }
    case residual_code::ternary: {
      float const s = static_cast<float>(scale[0]);
      float const digit[3] = {-s, 0.0f, s};
      for (index_t c = 0; c < cols;) {
        unsigned five = detail::plane_byte(plane, c / 5);
        for (int i = 0; i < 5 && c < cols; ++i, ++c) {
          out[c] = digit[five % 3];
          five /= 3;
        }
      }
      return;
    }
    case residual_code::trellis1: detail::decode_trellis<1>(plane, static_cast<float>(scale[0]), cols, out); return;
    case residual_code::trellis2: detail::decode_trellis<2>(plane, static_cast<float>(scale[0]), cols, out); return;
  }
}

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
