#pragma once

/// Planes of bits, and the sums of signed scales that they mean. Part of the format (docs/format.md).

#include <braid/backend/cpu/lanes.hpp>

#include <cstddef>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Eight bytes that are 0 or 1, the first in the lowest place, as the bits of one. No two products meet in a bit, so that
/// nothing carries.
BRAID_ALWAYS_INLINE std::byte gather_bits(std::uint64_t bytes) noexcept {
  return static_cast<std::byte>((bytes * 0x0102040810204080u) >> 56);
}

/// Writes the planes of a row: bit b of column c's code says that scale b is subtracted. |x| is above `threshold[k]`,
/// rising, for k < number of levels that it lies above; 2^(Planes - 1) - 1 thresholds.
/// @param plane [Planes, ceil(cols / 8)]
template <int Planes>
struct write_planes_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, index_t cols, float const* threshold, std::byte* plane) noexcept {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    constexpr int chunk = 64;
    float limit[3]{};
    for (int t = 0; t < (1 << (Planes - 1)) - 1; ++t) { limit[t] = threshold[t]; }
    index_t const stride = (cols + 7) / 8;
    std::uint8_t code[static_cast<std::size_t>(chunk)];
    float last[static_cast<std::size_t>(chunk)];
    for (index_t first = 0; first < cols; first += chunk) {
      index_t const count = cols - first < chunk ? cols - first : chunk;
      float const* const from = whole_chunk<chunk>(x + first, count, last);
      for (int c = 0; c < chunk; c += W) {
        f32 v;
        load_lanes<W>(from + c, v);
        u32 const minus = (u32)(v < 0.0f);
        u32 bits = minus & 1u;
        if constexpr (Planes > 1) {
          f32 size;
          magnitude<W>(v, size);
          u32 const upper = (u32)(size > limit[Planes == 2 ? 0 : 1]);
          bits |= (~upper ^ minus) & 2u;
          if constexpr (Planes > 2) {
            u32 const above_low = (u32)(size > limit[0]);
            u32 const above_high = (u32)(size > limit[2]);
            u32 const second = (upper & above_high) | (~upper & above_low);
            bits |= (~second ^ minus) & 4u;
          }
        }
        store_bytes<W>(bits, code + c);
      }
      for (index_t i = 0; i < (count + 7) / 8; ++i) {
        std::uint64_t eight;
        std::memcpy(&eight, code + 8 * i, sizeof eight);
        index_t const left = count - 8 * i;
        if (left < 8) { eight &= (std::uint64_t{1} << (8 * left)) - 1; }  // the bits beyond the row are zero
        for (int p = 0; p < Planes; ++p) {
          plane[p * stride + first / 8 + i] = gather_bits(eight >> p & 0x0101010101010101u);
        }
      }
    }
  }
};

/// out = the sum, from the left, of the scales with the signs that the planes give them.
/// @param stride bytes from one plane to the next
template <int Planes>
struct read_planes_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(std::byte const* plane, index_t stride, float const* scale, index_t cols,
                                      float* out) noexcept {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    constexpr int group = 16;
    u32 place;
    for (int l = 0; l < W; ++l) { place[l] = 1u << l; }
    u32 size[static_cast<std::size_t>(Planes)];
    BRAID_UNROLL
    for (int p = 0; p < Planes; ++p) { size[p] = (u32)(f32{} + scale[p]); }
    for (index_t c = 0; c < cols; c += group) {
      unsigned bits[static_cast<std::size_t>(Planes)];
      for (int p = 0; p < Planes; ++p) {
        std::byte const* const from = plane + p * stride + c / 8;
        bits[p] = std::to_integer<unsigned>(from[0]);
        if (cols - c > 8) { bits[p] |= std::to_integer<unsigned>(from[1]) << 8; }
      }
      float last[static_cast<std::size_t>(group)];
      float* const to = cols - c < group ? last : out + c;
      for (int first = 0; first < group; first += W) {
        f32 sum{};
        BRAID_UNROLL
        for (int p = 0; p < Planes; ++p) {
          u32 const set = (u32)(((bits[p] >> first) & place) != 0u);
          f32 const term = (f32)(size[p] ^ (set & 0x80000000u));
          if (p == 0) {
            sum = term;
          } else {
            sum = sum + term;
          }
        }
        store_lanes<W>(sum, to + first);
      }
      if (to == last) {
        for (index_t i = 0; c + i < cols; ++i) { out[c + i] = last[i]; }
      }
    }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
