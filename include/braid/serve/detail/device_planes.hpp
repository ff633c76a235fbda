#pragma once

/// Residuals as a device reads them: whole words for 128 columns at a time, whatever the code.

#include <braid/core/float_types.hpp>
#include <braid/residual/code.hpp>
#include <braid/residual/decode.hpp>

#include <cstdint>
#include <span>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Columns of a piece. Of each plane it has four words of 32 bits, one plane's behind the other's.
inline constexpr int coded_piece = 128;
inline constexpr int plane_words = coded_piece / 32;

/// Planes of a code: bits of signs; ternary numbers in two, "not zero" and "minus"; what a trellis takes in, whose piece is one
/// string of bits, the first column highest, so that the states are windows of it.
constexpr int device_planes(residual_code code) noexcept {
  switch (code) {
    case residual_code::none: return 0;
    case residual_code::sign1:
    case residual_code::trellis1: return 1;
    case residual_code::sign2:
    case residual_code::ternary:
    case residual_code::trellis2: return 2;
    case residual_code::sign3: return 3;
  }
  return 0;
}

/// Appends a row's planes, zeros behind its last column.
/// @param plane  [residual_bytes(code, cols)], as in docs/format.md
inline void append_device_planes(residual_code code, std::byte const* plane, index_t cols, std::vector<std::uint32_t>& words) {
  auto const planes = static_cast<std::size_t>(device_planes(code));
  std::size_t const begin = words.size();
  words.resize(begin + static_cast<std::size_t>((cols + coded_piece - 1) / coded_piece) * planes * plane_words);
  auto const byte_of = [plane](index_t at) { return std::to_integer<std::uint32_t>(plane[at]); };
  auto const word_of = [&](std::size_t p, index_t column) -> std::uint32_t& {
    auto const c = static_cast<std::size_t>(column);
    return words[begin + (c / coded_piece * planes + p) * plane_words + c % coded_piece / 32];
  };
  switch (code) {
    case residual_code::none: break;
    case residual_code::sign1:
    case residual_code::sign2:
    case residual_code::sign3: {
      index_t const stride = (cols + 7) / 8;
      for (std::size_t p = 0; p < planes; ++p) {
        for (index_t i = 0; i < stride; ++i) { word_of(p, 8 * i) |= byte_of(static_cast<index_t>(p) * stride + i) << (8 * i % 32); }
      }
      break;
    }
    case residual_code::ternary:
      for (index_t c = 0; c < cols;) {
        std::uint32_t rest = byte_of(c / 5);
        for (int digit = 0; digit < 5 && c < cols; ++digit, ++c, rest /= 3) {
          std::uint32_t const bit = 1u << (c % 32);
          if (rest % 3 != 1) { word_of(0, c) |= bit; }
          if (rest % 3 == 0) { word_of(1, c) |= bit; }
        }
      }
      break;
    case residual_code::trellis1:
    case residual_code::trellis2:
      for (index_t i = 0; i < residual_bytes(code, cols); ++i) {
        auto const& reversed = code == residual_code::trellis1 ? reversed_byte<1> : reversed_byte<2>;
        words[begin + static_cast<std::size_t>(i / 4)] |= std::uint32_t{reversed[byte_of(i)]} << (24 - i % 4 * 8);
      }
      break;
  }
}

/// The values of the trellises' states, 256 of one bit and 256 of two, for a scale of one. bf16 has all of their digits.
inline std::vector<bfloat16> device_trellis() {
  std::vector<bfloat16> values;
  for (unsigned s = 0; s < 256; ++s) { values.emplace_back(trellis_value<1>(s)); }
  for (unsigned s = 0; s < 256; ++s) { values.emplace_back(trellis_value<2>(s)); }
  return values;
}

}  // namespace detail
BRAID_NAMESPACE_END
