#pragma once

/// Ranks of magnitudes inside rows of any length: one sort. For any execution policy of Thrust.

#include <braid/backend/cuda/algorithms/gather_rows.cuh>
#include <braid/backend/cuda/equal_places.cuh>

#include <thrust/sort.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Key and column of the elements of a row.
template <class Magnitude>
struct rank_key {
  Magnitude magnitude;
  index_t cols;
  std::uint64_t* key;
  std::uint32_t* column;

  BRAID_HD void operator()(index_t i) const noexcept {
    item_place const p(i, cols);
    key[i] = static_cast<std::uint64_t>(p.row) << 31 | magnitude(p.row, p.at);
    column[i] = static_cast<std::uint32_t>(p.at);
  }
};

struct write_rank {
  std::uint64_t const* key;
  std::uint32_t const* column;
  index_t cols;
  std::uint32_t* rank;

  BRAID_HD void operator()(index_t i) const noexcept {
    item_place const p(i, cols);
    rank[p.row * cols + column[i]] = static_cast<std::uint32_t>(twice_mean_place(key + p.row * cols, cols, p.at));
  }
};

/// rank[row, column] = twice the ascending rank of a magnitude in its row; equal ones share the mean of theirs.
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
  thrust::sort_by_key(policy, key, key + n, column);
  thrust::for_each_n(policy, first, n, write_rank{key, column, cols, rank});
}

}  // namespace detail
BRAID_NAMESPACE_END
