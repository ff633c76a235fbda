#pragma once

/// Ranks of magnitudes inside rows of any length: one stable sort. For any execution policy of Thrust.

#include <braid/backend/cuda/algorithms/gather_rows.cuh>

#include <thrust/sort.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Key and column of the elements of a row, from the last column to the first.
template <class Magnitude>
struct rank_key {
  Magnitude magnitude;
  index_t cols;
  std::uint64_t* key;
  std::uint32_t* column;

  BRAID_HD void operator()(index_t i) const noexcept {
    item_place const p(i, cols);
    index_t const c = cols - 1 - p.at;
    key[i] = static_cast<std::uint64_t>(p.row) << 31 | magnitude(p.row, c);
    column[i] = static_cast<std::uint32_t>(c);
  }
};

struct write_rank {
  std::uint32_t const* column;
  index_t cols;
  std::uint32_t* rank;

  BRAID_HD void operator()(index_t i) const noexcept {
    item_place const p(i, cols);
    rank[p.row * cols + column[i]] = static_cast<std::uint32_t>(p.at);
  }
};

/// rank[row, column] = the ascending rank of a magnitude in its row; of equal ones the lower column ranks higher.
/// @param magnitude  trivially copyable; `magnitude(row, column)` gives 31 bits
/// @param key        [rows, cols]: room
/// @param column     [rows, cols]: room
template <class Policy, class Magnitude>
void rank_rows(Policy const& policy, Magnitude const& magnitude, index_t rows, index_t cols, std::uint64_t* key, std::uint32_t* column,
               std::uint32_t* rank) {
  index_t const n = rows * cols;
  if (n == 0) { return; }
  thrust::counting_iterator<index_t> const first(0);
  thrust::for_each_n(policy, first, n, rank_key<Magnitude>{magnitude, cols, key, column});
  thrust::stable_sort_by_key(policy, key, key + n, column);
  thrust::for_each_n(policy, first, n, write_rank{column, cols, rank});
}

}  // namespace detail
BRAID_NAMESPACE_END
