#pragma once

/// Selection and ranking by magnitude inside one row that lies in cache.

#include <braid/backend/cpu/dispatch.hpp>
#include <braid/core/concepts.hpp>

#include <algorithm>
#include <bit>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

constexpr std::uint32_t magnitude_bits(float x) noexcept { return bits_as<std::uint32_t>(x) & 0x7FFFFFFFu; }

/// Workspace for rows; grows to the longest row once.
struct row_workspace {
  std::vector<std::uint32_t> keys;
  std::vector<std::uint32_t> counts;
  std::vector<std::uint64_t> order, other_order;  // key and column of each element
  void fit(std::size_t cols) {
    if (keys.size() < cols) { keys.resize(cols); }
  }
};

/// The cut that keeps exactly `keep` elements of `row[0 .. cols)`, lower columns first among equals.
inline magnitude_cut row_cut(float const* row, index_t cols, index_t keep, row_workspace& work) {
  if (keep <= 0) { return {0xFFFFFFFFu, -1}; }
  if (keep >= cols) { return {0u, cols}; }
  work.fit(static_cast<std::size_t>(cols));
  std::uint32_t* const keys = work.keys.data();
  for (index_t c = 0; c < cols; ++c) { keys[c] = magnitude_bits(row[c]); }
  std::nth_element(keys, keys + (keep - 1), keys + cols, [](std::uint32_t a, std::uint32_t b) { return a > b; });
  std::uint32_t const bits = keys[keep - 1];
  index_t larger = 0;
  for (index_t c = 0; c < cols; ++c) { larger += magnitude_bits(row[c]) > bits ? 1 : 0; }
  index_t last = -1;
  for (index_t equal = keep - larger; equal > 0;) {
    ++last;
    if (magnitude_bits(row[last]) == bits) { --equal; }
  }
  return {bits, last};
}

/// The magnitudes of a row as numbers of few bits in the same order: what all of them share is left out.
struct row_keys_body {
  /// @param keys    [count]
  /// @param largest of the numbers
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* row, std::size_t count, std::uint32_t* keys, std::uint32_t* largest) noexcept {
    std::uint32_t some = 0;
    std::uint32_t most = 0;
    std::uint32_t least = ~0u;  // less one, so that zeros, which are numbered apart, don't count
    for (std::size_t c = 0; c < count; ++c) {
      std::uint32_t const key = magnitude_bits(row[c]);
      keys[c] = key;
      some |= key;
      most = key > most ? key : most;
      least = key - 1u < least ? key - 1u : least;
    }
    int const shift = some == 0 ? 0 : std::countr_zero(some);
    std::uint32_t const offset = some == 0 ? 0u : ((least + 1u) >> shift) - 1u;
    for (std::size_t c = 0; c < count; ++c) {
      std::uint32_t const number = (keys[c] >> shift) - offset;
      keys[c] = keys[c] == 0 ? 0u : number;
    }
    *largest = (most >> shift) - offset;
  }
};

inline constexpr std::size_t row_parts = 4;

/// Calls `f(column, part)` for all columns of a row, from the last to the first in each of four parts, the parts side by side:
/// equal keys in a row then don't wait for each other's counter. Part 0 is the end of the row.
template <class F>
BRAID_ALWAYS_INLINE void for_each_in_parts(std::size_t cols, F const& f) {
  std::size_t const length = cols / row_parts;
  for (std::size_t c = cols; c-- > row_parts * length;) { f(c, std::size_t{0}); }
  for (std::size_t i = length; i-- > 0;) {
    f(3 * length + i, std::size_t{0});
    f(2 * length + i, std::size_t{1});
    f(length + i, std::size_t{2});
    f(i, std::size_t{3});
  }
}

/// Turns counts into the number of elements in the bins before each.
inline void running_totals(std::uint32_t* counts, std::size_t bins) noexcept {
  std::uint32_t total = 0;
  for (std::size_t b = 0; b < bins; ++b) {
    std::uint32_t const here = counts[b];
    counts[b] = total;
    total += here;
  }
}

/// Ascending ranks of the magnitudes of `row[0 .. cols)` into `rank`; of equals the lower column ranks higher.
/// Counts the magnitudes where they have few values; else a least-significant-digit radix sort of at most three digits, stable
/// from the last column to the first.
inline void row_ranks(float const* row, index_t cols, row_workspace& work, std::uint32_t* rank) {
  auto const n = static_cast<std::size_t>(cols);
  work.fit(n);
  std::uint32_t const* const keys = work.keys.data();
  std::uint32_t largest = 0;
  dispatch<row_keys_body>(row, n, work.keys.data(), &largest);
  if (largest < n) {
    std::size_t const bins = row_parts * (std::size_t{largest} + 1);
    work.counts.assign(bins, 0);
    std::uint32_t* const count = work.counts.data();
    for_each_in_parts(n, [&](std::size_t c, std::size_t part) { ++count[row_parts * keys[c] + part]; });
    running_totals(count, bins);
    for_each_in_parts(n, [&](std::size_t c, std::size_t part) { rank[c] = count[row_parts * keys[c] + part]++; });
    return;
  }
  auto const bits = static_cast<int>(std::bit_width(largest));
  int const digits = bits <= 22 ? 2 : 3;
  int const width = (bits + digits - 1) / digits;
  std::size_t const radix = std::size_t{1} << width;
  auto const mask = static_cast<std::uint32_t>(radix - 1);
  work.counts.assign((row_parts + 2) * radix, 0);
  std::uint32_t* const first = work.counts.data();  // [radix, parts]
  std::uint32_t* const second = first + row_parts * radix;
  std::uint32_t* const third = second + radix;
  for_each_in_parts(n, [&](std::size_t c, std::size_t part) {
    ++first[row_parts * (keys[c] & mask) + part];
    ++second[(keys[c] >> width) & mask];
  });
  for (std::size_t c = 0; digits == 3 && c < n; ++c) { ++third[keys[c] >> 2 * width]; }
  running_totals(first, row_parts * radix);
  running_totals(second, radix);
  running_totals(third, radix);
  if (work.order.size() < n) {
    work.order.resize(n);
    work.other_order.resize(n);
  }
  // An element is what is left of its key, above its column.
  std::uint64_t* const order = work.order.data();
  for_each_in_parts(n, [&](std::size_t c, std::size_t part) {
    order[first[row_parts * (keys[c] & mask) + part]++] = (std::uint64_t{keys[c] >> width} << 32) | c;
  });
  std::uint64_t const* from = order;
  if (digits == 3) {
    for (std::size_t i = 0; i < n; ++i) {
      auto const key = static_cast<std::uint32_t>(from[i] >> 32);
      work.other_order[second[key & mask]++] = (std::uint64_t{key >> width} << 32) | (from[i] & 0xFFFFFFFFu);
    }
    from = work.other_order.data();
  }
  std::uint32_t* const last = digits == 2 ? second : third;
  for (std::size_t i = 0; i < n; ++i) {
    rank[static_cast<std::uint32_t>(from[i])] = last[static_cast<std::uint32_t>(from[i] >> 32)]++;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
