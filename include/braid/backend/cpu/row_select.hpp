#pragma once

/// Selection and ranking by magnitude inside one row that lies in cache.

#include <braid/core/concepts.hpp>

#include <algorithm>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

constexpr std::uint32_t magnitude_bits(float x) noexcept { return bits_as<std::uint32_t>(x) & 0x7FFFFFFFu; }

/// Workspace for rows; grows to the longest row once.
struct row_workspace {
  std::vector<std::uint32_t> keys, other_keys, order, other_order, rank;
  void fit(std::size_t cols) {
    if (keys.size() < cols) {
      for (auto* v : {&keys, &other_keys, &order, &other_order, &rank}) { v->resize(cols); }
    }
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

/// Ascending ranks of the magnitudes of `row[0 .. cols)` into `rank`; of equals the lower column ranks higher.
/// A least-significant-digit radix sort of 11, 11 and 9 bits, stable from the last column to the first.
inline void row_ranks(float const* row, index_t cols, row_workspace& work, std::uint32_t* rank) {
  constexpr int digits = 3;
  constexpr int shift[digits] = {0, 11, 22};
  constexpr std::uint32_t radix = 1u << 11;
  auto const n = static_cast<std::size_t>(cols);
  work.fit(n);
  std::uint32_t* keys = work.keys.data();
  std::uint32_t* order = work.order.data();
  std::uint32_t* next_keys = work.other_keys.data();
  std::uint32_t* next_order = work.other_order.data();
  std::uint32_t count[digits][radix] = {};
  for (std::size_t i = 0; i < n; ++i) {
    std::size_t const c = n - 1 - i;
    keys[i] = magnitude_bits(row[c]);
    order[i] = static_cast<std::uint32_t>(c);
    for (int d = 0; d < digits; ++d) { ++count[d][(keys[i] >> shift[d]) & (radix - 1)]; }
  }
  for (int d = 0; d < digits; ++d) {
    std::uint32_t position = 0;
    for (std::uint32_t bin = 0; bin < radix; ++bin) {
      std::uint32_t const here = count[d][bin];
      count[d][bin] = position;
      position += here;
    }
    for (std::size_t i = 0; i < n; ++i) {
      std::uint32_t const to = count[d][(keys[i] >> shift[d]) & (radix - 1)]++;
      next_keys[to] = keys[i];
      next_order[to] = order[i];
    }
    std::swap(keys, next_keys);
    std::swap(order, next_order);
  }
  for (std::size_t i = 0; i < n; ++i) { rank[order[i]] = static_cast<std::uint32_t>(i); }
}

}  // namespace detail
BRAID_NAMESPACE_END
