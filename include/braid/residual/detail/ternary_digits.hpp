#pragma once

/// Minus, zero, plus: five digits of base 3 a byte, the first column in the lowest place. Part of the format
/// (docs/format.md).

#include <braid/backend/cpu/lanes.hpp>

#include <cstddef>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int ternary_chunk = 320;  // columns: a multiple of 5 and of 16

/// Writes a row's digits: 2 above `threshold`, 0 below minus `threshold`, else 1. Beyond the row: 1.
/// @param plane [ceil(cols / 5)]
struct write_ternary_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, index_t cols, float threshold, std::byte* plane) noexcept {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    std::uint8_t digit[static_cast<std::size_t>(ternary_chunk + 8)]{};
    float last[static_cast<std::size_t>(ternary_chunk)];
    for (index_t first = 0; first < cols; first += ternary_chunk) {
      index_t const count = cols - first < ternary_chunk ? cols - first : ternary_chunk;
      float const* from = x + first;
      if (count < ternary_chunk) {
        for (index_t i = 0; i < ternary_chunk; ++i) { last[i] = i < count ? from[i] : 0.0f; }
        from = last;
      }
      for (int c = 0; c < ternary_chunk; c += W) {
        f32 v;
        load_lanes<W>(from + c, v);
        store_bytes<W>(1u - (u32)(v > threshold) + (u32)(v < -threshold), digit + c);
      }
      for (index_t i = 0; i < (count + 4) / 5; ++i) {
        std::uint64_t eight;
        std::memcpy(&eight, digit + 5 * i, sizeof eight);
        // Byte 4 of the product is the sum of the digits times 1, 3, 9, 27, 81; no byte below it overflows.
        std::uint64_t const product = (eight & 0xFFFFFFFFFFu) * 0x0103091B51u;
        plane[first / 5 + i] = static_cast<std::byte>(product >> 32 & 255u);
      }
    }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
