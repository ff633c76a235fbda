#pragma once

/// What the general algorithms of braid::cuda compute, in the plainest code.

#include <braid/core/types.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace braid_test {

/// Sums over blocks of 256 rows, from the first to the last: [blocks, sums] of `rows` [channels, sums].
inline std::vector<double> plain_block_sums(std::vector<float> const& rows, braid::index_t channels, braid::index_t sums) {
  std::vector<double> expected(static_cast<std::size_t>((channels + 255) / 256 * sums), 0.0);
  for (braid::index_t i = 0; i < channels * sums; ++i) {
    expected[static_cast<std::size_t>(i / sums / 256 * sums + i % sums)] += static_cast<double>(rows[static_cast<std::size_t>(i)]);
  }
  return expected;
}

/// Twice the ranks within rows [rows, cols]: they rise with the magnitude, equal ones share the mean of theirs.
inline std::vector<std::uint32_t> plain_ranks(std::vector<std::uint32_t> const& bits, braid::index_t rows, braid::index_t cols) {
  std::vector<std::uint32_t> expected(bits.size());
  for (braid::index_t r = 0; r < rows; ++r) {
    std::vector<braid::index_t> column(static_cast<std::size_t>(cols));
    std::iota(column.begin(), column.end(), braid::index_t{0});
    auto const at = [&](braid::index_t c) { return bits[static_cast<std::size_t>(r * cols + c)]; };
    std::sort(column.begin(), column.end(), [&](braid::index_t a, braid::index_t b) { return at(a) < at(b); });
    for (std::size_t i = 0; i < column.size();) {
      std::size_t end = i;
      std::uint32_t ranks = 0;
      for (; end < column.size() && at(column[end]) == at(column[i]); ++end) { ranks += static_cast<std::uint32_t>(end); }
      for (auto const equals = static_cast<std::uint32_t>(end - i); i < end; ++i) {
        expected[static_cast<std::size_t>(r * cols + column[i])] = 2 * ranks / equals;
      }
    }
  }
  return expected;
}

}  // namespace braid_test
