#pragma once

/// Selection and ranking by magnitude inside one row that lies in cache.

#include <braid/backend/cpu/dispatch.hpp>
#include <braid/core/concepts.hpp>

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

constexpr std::uint32_t magnitude_bits(float x) noexcept { return bits_as<std::uint32_t>(x) & 0x7FFFFFFFu; }

/// Workspace for rows; grows to the longest row once.
struct row_workspace {
  std::vector<std::uint32_t> keys;
  std::vector<std::uint32_t> counts, bins, fine;
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

/// Bits of a row's magnitudes, and what of them matters.
struct row_keys_body {
  /// @param keys  [count]
  /// @param of    all bits that occur; the largest; the least that isn't zero, less one; how many have lower bits
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* row, std::size_t count, std::uint32_t* keys, std::uint32_t* of) noexcept {
    std::uint32_t some = 0;
    std::uint32_t most = 0;
    std::uint32_t least = ~0u;
    std::uint32_t fine = 0;
    for (std::size_t c = 0; c < count; ++c) {
      std::uint32_t const key = magnitude_bits(row[c]);
      keys[c] = key;
      some |= key;
      most = key > most ? key : most;
      least = key - 1u < least ? key - 1u : least;
      fine += (key & 0xFFFFu) != 0 ? 1u : 0u;
    }
    of[0] = some;
    of[1] = most;
    of[2] = least;
    of[3] = fine;
  }
};

/// Numbers of bins: 0 for zeros, else how far the upper half of a magnitude is above `offset`.
struct row_bins_body {
  static constexpr std::size_t block = 16;
  /// @param fine  of each block of columns, the lower bits that occur
  template <int W>
  BRAID_ALWAYS_INLINE static void run(std::uint32_t const* keys, std::size_t count, std::uint32_t offset, std::uint32_t* bins,
                                      std::uint32_t* fine) noexcept {
    std::size_t c = 0;
    for (; c + block <= count; c += block) {
      std::uint32_t some = 0;
      for (std::size_t i = c; i < c + block; ++i) {
        std::uint32_t const key = keys[i];
        std::uint32_t const bin = (key >> 16) - offset;
        bins[i] = key == 0 ? 0u : bin;
        some |= key & 0xFFFFu;
      }
      fine[c / block] = some;
    }
    if (c < count) { fine[c / block] = 1; }
    for (; c < count; ++c) { bins[c] = keys[c] == 0 ? 0u : (keys[c] >> 16) - offset; }
  }
};

/// to[i] = ranks[bins[i]].
struct row_lookup_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(std::uint32_t const* bins, std::size_t count, std::uint32_t const* ranks,
                                      std::uint32_t* to) noexcept {
    for (std::size_t c = 0; c < count; ++c) { to[c] = ranks[bins[c]]; }
  }
};

/// Twice the ranks of sorted elements, `at(i)` their keys: equals share the mean of their ranks. Calls `give(i, twice)`.
template <class At, class Give>
void share_ranks(std::size_t n, At const& at, Give const& give) {
  for (std::size_t first = 0; first < n;) {
    std::size_t last = first;
    while (last + 1 < n && at(last + 1) == at(first)) { ++last; }
    for (std::size_t i = first; i <= last; ++i) { give(i, static_cast<std::uint32_t>(first + last)); }
    first = last + 1;
  }
}

/// Ranks of a row most of whose magnitudes end in 16 zeros, as differences of bf16 numbers do: those are counted by their upper
/// half, the few others sorted.
/// @param least, most  upper halves of the work's keys, of all that aren't zero
inline void count_row_ranks(std::size_t n, std::uint32_t least, std::uint32_t most, row_workspace& work, std::uint32_t* twice) {
  std::uint32_t const* const keys = work.keys.data();
  std::uint32_t const offset = least - 1u;
  std::size_t const bins = most - offset + 1u;
  if (work.bins.size() < n) { work.bins.resize(n); }
  work.fine.resize(n / row_bins_body::block + 1);
  std::uint32_t* const bin = work.bins.data();
  dispatch<row_bins_body>(keys, n, offset, bin, work.fine.data());
  // Two counters a bin: equal ones in a row then wait less for each other.
  work.counts.assign(2 * bins, 0);
  std::uint32_t* const even = work.counts.data();
  std::uint32_t* const odd = even + bins;
  for (std::size_t c = 0; c + 1 < n; c += 2) {
    ++even[bin[c]];
    ++odd[bin[c + 1]];
  }
  if (n % 2 != 0) { ++even[bin[n - 1]]; }
  work.order.clear();
  for (std::size_t b = 0; b * row_bins_body::block < n; ++b) {
    if (work.fine[b] == 0) { continue; }
    std::size_t const end = std::min(n, (b + 1) * row_bins_body::block);
    for (std::size_t c = b * row_bins_body::block; c < end; ++c) {
      if ((keys[c] & 0xFFFFu) == 0) { continue; }
      work.order.push_back(std::uint64_t{keys[c]} << 32 | c);
      --even[bin[c]];
    }
  }
  std::sort(work.order.begin(), work.order.end());
  // The others of a bin are larger than its equals.
  std::size_t const others = work.order.size();
  auto const key_of = [&work](std::size_t i) { return static_cast<std::uint32_t>(work.order[i] >> 32); };
  work.other_order.resize(others);  // equals below each
  std::uint32_t counted = 0;
  std::size_t next = 0;
  std::uint32_t next_bin = others == 0 ? ~0u : (key_of(0) >> 16) - offset;
  for (std::uint32_t b = 0; b < bins; ++b) {
    std::uint32_t const here = even[b] + odd[b];  // modulo 2^32: elements that aren't counted have been taken from one of the two
    even[b] = 2 * (counted + static_cast<std::uint32_t>(next)) + here - 1u;
    counted += here;
    while (next_bin == b) {
      work.other_order[next++] = counted;
      next_bin = next == others ? ~0u : (key_of(next) >> 16) - offset;
    }
  }
  dispatch<row_lookup_body>(static_cast<std::uint32_t const*>(bin), n, static_cast<std::uint32_t const*>(even), twice);
  share_ranks(others, key_of, [&work, twice](std::size_t i, std::uint32_t of_others) {
    twice[static_cast<std::uint32_t>(work.order[i])] = 2 * static_cast<std::uint32_t>(work.other_order[i]) + of_others;
  });
}

/// Ranks of a row of any magnitudes: a least-significant-digit radix sort of at most three digits.
/// @param some, least, most  what all of them have, and leave out
inline void sort_row_ranks(std::size_t n, std::uint32_t some, std::uint32_t least, std::uint32_t most, row_workspace& work,
                           std::uint32_t* twice) {
  std::uint32_t* const keys = work.keys.data();
  int const shift = std::countr_zero(some);
  std::uint32_t const offset = (least >> shift) - 1u;
  std::uint32_t const largest = (most >> shift) - offset;
  for (std::size_t c = 0; c < n; ++c) { keys[c] = keys[c] == 0 ? 0u : (keys[c] >> shift) - offset; }
  auto const bits = static_cast<int>(std::bit_width(largest));
  int const digits = bits <= 22 ? 2 : 3;
  int const width = (bits + digits - 1) / digits;
  std::size_t const radix = std::size_t{1} << width;
  auto const mask = static_cast<std::uint32_t>(radix - 1);
  work.order.resize(n);
  work.other_order.resize(n);
  work.counts.resize(radix);
  for (std::size_t c = 0; c < n; ++c) { work.order[c] = std::uint64_t{keys[c]} << 32 | c; }
  for (int d = 0; d < digits; ++d) {
    auto const digit = [&](std::uint64_t x) { return static_cast<std::uint32_t>(x >> (32 + d * width)) & mask; };
    std::fill(work.counts.begin(), work.counts.end(), 0u);
    for (std::uint64_t const x : work.order) { ++work.counts[digit(x)]; }
    std::uint32_t total = 0;
    for (std::uint32_t& count : work.counts) { total += std::exchange(count, total); }
    for (std::uint64_t const x : work.order) { work.other_order[work.counts[digit(x)]++] = x; }
    std::swap(work.order, work.other_order);
  }
  share_ranks(n, [&](std::size_t i) { return work.order[i] >> 32; },
              [&](std::size_t i, std::uint32_t of_both) { twice[static_cast<std::uint32_t>(work.order[i])] = of_both; });
}

/// Twice the ascending ranks of the magnitudes of `row[0 .. cols)`; equals share the mean of their ranks (`magnitude_ranks`).
/// Counts the magnitudes where nearly all of them end in zeros, else sorts.
inline void row_ranks(float const* row, index_t cols, row_workspace& work, std::uint32_t* twice) {
  auto const n = static_cast<std::size_t>(cols);
  work.fit(n);
  std::uint32_t of[4] = {};
  dispatch<row_keys_body>(row, n, work.keys.data(), static_cast<std::uint32_t*>(of));
  if (of[0] == 0) {  // zeros
    std::fill_n(twice, n, n == 0 ? 0u : static_cast<std::uint32_t>(n - 1));
    return;
  }
  std::uint32_t const least = of[2] + 1u;
  if (of[3] <= n / 16 && (of[1] >> 16) - (least >> 16) <= 4 * n + 256) {
    count_row_ranks(n, least >> 16, of[1] >> 16, work, twice);
  } else {
    sort_row_ranks(n, of[0], least, of[1], work, twice);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
