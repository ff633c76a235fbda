#pragma once

/// Minus, zero, plus: five digits of base 3 a byte, the first column in the lowest place. Part of the format
/// (docs/format.md).

#include <braid/backend/cpu/lanes.hpp>

#include <array>
#include <cstddef>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// The five digits of every byte, less one, a byte each from the lowest place on.
inline constexpr std::array<std::uint64_t, 256> ternary_digits = [] {
  std::array<std::uint64_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    unsigned rest = byte;
    for (int i = 0; i < 5; ++i, rest /= 3) {
      table[byte] |= static_cast<std::uint64_t>((rest % 3 + 255u) & 255u) << (8 * i);
    }
  }
  return table;
}();

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
      float const* const from = whole_chunk<ternary_chunk>(x + first, count, last);
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

/// out = minus scale, zero or plus scale.
struct read_ternary_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(std::byte const* plane, float scale, index_t cols, float* out) noexcept {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    using i32 = typename wide<W>::i32;
    typedef std::int8_t i8_memory __attribute__((vector_size(W), aligned(1), may_alias));
    u32 const size = (u32)(f32{} + scale);
    std::int8_t digit[static_cast<std::size_t>(ternary_chunk + 8)];
    float last[static_cast<std::size_t>(ternary_chunk)];
    for (index_t first = 0; first < cols; first += ternary_chunk) {
      index_t const count = cols - first < ternary_chunk ? cols - first : ternary_chunk;
      if (count < ternary_chunk) { std::memset(digit, 0, sizeof digit); }
      for (index_t i = 0; i < (count + 4) / 5; ++i) {
        std::memcpy(digit + 5 * i, &ternary_digits[std::to_integer<std::size_t>(plane[first / 5 + i])], 8);
      }
      float* const to = count < ternary_chunk ? last : out + first;
      for (int c = 0; c < ternary_chunk; c += W) {
        i32 const d = __builtin_convertvector(*reinterpret_cast<i8_memory const*>(digit + c), i32);
        u32 const bits = (size & (u32)(d != 0)) ^ ((u32)d & 0x80000000u);
        store_lanes<W>((f32)bits, to + c);
      }
      if (to == last) {
        for (index_t i = 0; i < count; ++i) { out[first + i] = last[i]; }
      }
    }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
