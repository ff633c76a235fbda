#pragma once

/// How a row's residual is stored: the numbers of the format (docs/format.md). residual/decode.hpp is the one decoder.

#include <braid/core/float_types.hpp>
#include <braid/core/types.hpp>

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

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

BRAID_NAMESPACE_END
