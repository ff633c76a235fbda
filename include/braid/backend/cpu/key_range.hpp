#pragma once

/// Counting of magnitudes by their bits, a segment of a row at a time.

#include <braid/backend/cpu/lanes.hpp>
#include <braid/backend/cpu/row_select.hpp>

#include <bit>
#include <cstring>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// For each value, whether its key (the bits of its magnitude, each flipped where `flip` has a one) lies in a range, as a byte;
/// adds the number of those above to `*above`.
struct in_range_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, int count, std::uint32_t flip, std::uint32_t low, std::uint32_t width,
                                      std::uint8_t* inside, std::uint64_t* above) noexcept {
    using u32 = typename wide<W>::u32;
    using i32 = typename wide<W>::i32;
    auto const high = static_cast<std::int32_t>(low + width);
    i32 larger{};
    int c = 0;
    for (; c + W <= count; c += W) {
      u32 const key = (*reinterpret_cast<typename wide<W>::u32_memory const*>(x + c) & 0x7FFFFFFFu) ^ flip;
      larger -= (i32)key > high;
      u32 const within = (u32)(key - low <= width) & 1u;
      store_bytes<W>(within, inside + c);
    }
    std::uint64_t total = 0;
    for (int l = 0; l < W; ++l) { total += static_cast<std::uint64_t>(larger[l]); }
    for (; c < count; ++c) {
      std::uint32_t const key = magnitude_bits(x[c]) ^ flip;
      total += key > low + width ? 1u : 0u;
      inside[c] = key - low <= width ? 1 : 0;
    }
    *above += total;
  }
};

/// Adds to `*equal` the number of values with that key.
struct equal_key_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, int count, std::uint32_t flip, std::uint32_t wanted, std::uint64_t* equal) noexcept {
    using u32 = typename wide<W>::u32;
    u32 found{};
    int c = 0;
    for (; c + W <= count; c += W) {
      u32 const key = (*reinterpret_cast<typename wide<W>::u32_memory const*>(x + c) & 0x7FFFFFFFu) ^ flip;
      found -= (u32)(key == wanted);
    }
    std::uint64_t total = 0;
    for (int l = 0; l < W; ++l) { total += found[l]; }
    for (; c < count; ++c) { total += (magnitude_bits(x[c]) ^ flip) == wanted ? 1u : 0u; }
    *equal += total;
  }
};

inline std::uint64_t count_key(float const* x, int n, std::uint32_t flip, std::uint32_t wanted) {
  std::uint64_t equal = 0;
  dispatch<equal_key_body>(x, n, flip, wanted, &equal);
  return equal;
}

/// A range of keys, in at most 2^16 bins of 2^shift keys.
struct key_range {
  static constexpr std::uint32_t largest_key = 0x7FFFFFFFu;

  std::uint32_t low = 0;
  std::uint32_t width = largest_key;  ///< keys, less one
  int shift = 15;

  [[nodiscard]] static constexpr key_range of(std::uint32_t low, std::uint32_t high) noexcept {
    auto const bits = static_cast<int>(std::bit_width(high - low));
    return {low, high - low, bits > 16 ? bits - 16 : 0};
  }

  [[nodiscard]] constexpr std::uint32_t high() const noexcept { return low + width; }
  [[nodiscard]] constexpr std::uint32_t bins() const noexcept { return (width >> shift) + 1; }
  [[nodiscard]] constexpr key_range bin(std::uint32_t b) const noexcept {
    std::uint32_t const from = low + (b << shift);
    std::uint32_t const last = from + ((1u << shift) - 1);
    return of(from, last < high() ? last : high());
  }

  /// Counts at most a segment of values: those above the range, and each bin of it.
  /// @param room [count] overwritten
  void count(float const* x, int n, std::uint32_t flip, std::uint32_t* room, std::uint64_t& above, std::uint64_t* bin) const noexcept {
    if (width == largest_key) {
      for (int c = 0; c < n; ++c) { ++bin[(magnitude_bits(x[c]) ^ flip) >> shift]; }
      return;
    }
    constexpr int word = 8;
    alignas(64) std::uint8_t flag[sum_order::segment + word];
    dispatch<in_range_body>(x, n, flip, low, width, static_cast<std::uint8_t*>(flag), &above);
    std::memset(flag + n, 0, word);
    int found = 0;
    for (int c = 0; c < n; c += word) {
      std::uint64_t some = 0;
      std::memcpy(&some, flag + c, word);
      if (some == 0) { continue; }
      int const last = n - c < word ? n : c + word;
      for (int i = c; i < last; ++i) {  // without a branch
        room[found] = (magnitude_bits(x[i]) ^ flip) - low;
        found += flag[i];
      }
    }
    for (int i = 0; i < found; ++i) { ++bin[room[i] >> shift]; }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
