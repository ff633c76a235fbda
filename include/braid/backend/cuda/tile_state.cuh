#pragma once

/// What the threads of a block know of their channel beside its rows, and which experts share a row bit for bit.

#include <braid/backend/cuda/row_tile.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

struct tile_state {
  static constexpr int most = most_tile_experts;
  static constexpr int pairs = most * (most + 1) / 2;

  float dots[pairs];        // the Gram matrix before the similarity has scaled it
  int distinct;             // rows that differ, numbered by first appearance
  int of_expert[most];      // which of them an expert has
  int first[most];          // the first expert that has it
  int weight[most];         // how many have it
  double norm[most];        // the length that scales it
  int label[most];          // its group
  int groups;
  bool clustered;           // whether there was anything to choose
  std::uint32_t members[most];   // of each group: a bit for each expert
  std::uint32_t rows[most];      // and for each distinct row
  double best_score[8];     // of each warp
  std::uint64_t best_label[8];
  std::uint64_t copies;     // the barrier of the rows' arrival
  bool unusual;             // equal rows, or numbers that aren't finite, may be there
  std::uint8_t differs[8][pairs];  // by block of the cluster and pair
};

struct row_pair {
  int i;
  int j;
};

/// The pair at a place of a lower triangle.
__device__ inline row_pair pair_at(int place) noexcept {
  int i = 0;
  while (tile_pair(i + 1, 0) <= place) { ++i; }
  return {i, place - tile_pair(i, 0)};
}

/// Numbers the rows that differ. With `by_dots`, only pairs whose dot products are those of equal rows are compared.
/// All threads of all blocks of the cluster.
template <class T>
__device__ void find_distinct_rows(row_tile<T> const& tile, int experts, bool by_dots, tile_state& state) {
  int const thread = static_cast<int>(threadIdx.x);
  auto const may_be_equal = [&](int i, int j) {
    std::uint32_t const both = __float_as_uint(state.dots[tile_pair(i, j)]);
    return !by_dots || (both == __float_as_uint(state.dots[tile_pair(i, i)]) && both == __float_as_uint(state.dots[tile_pair(j, j)]));
  };
  bool suspicion = false;
  if (thread < tile_pair(experts, 0)) {
    row_pair const p = pair_at(thread);
    suspicion = p.i != p.j && may_be_equal(p.i, p.j);
  }
  if (__syncthreads_or(suspicion) == 0) {
    if (thread < experts) {
      state.of_expert[thread] = thread;
      state.first[thread] = thread;
      state.weight[thread] = 1;
    }
    if (thread == 0) { state.distinct = experts; }
    __syncthreads();
    return;
  }
  auto const cluster = static_cast<std::uint32_t>(tile.plan.cluster);
  std::uint32_t const rank = cluster > 1 ? ptx::cluster_rank() : 0;
  for (int i = 1; i < experts; ++i) {
    for (int j = 0; j < i; ++j) {
      bool const differ = !may_be_equal(i, j) || __syncthreads_or(tile.differ(1 + i, 1 + j)) != 0;
      if (thread != 0) { continue; }
      std::uint8_t* const here = &state.differs[rank][tile_pair(i, j)];
      if (cluster == 1) {
        *here = differ ? 1 : 0;
      } else {
        for (std::uint32_t r = 0; r < cluster; ++r) { ptx::store_in_cluster(here, r, differ ? 1u : 0u); }
      }
    }
  }
  if (cluster > 1) {
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
  if (thread == 0) {
    int count = 0;
    for (int e = 0; e < experts; ++e) {
      int d = 0;
      for (; d < count; ++d) {
        unsigned differ = 0;
        for (std::uint32_t r = 0; r < cluster; ++r) { differ |= state.differs[r][tile_pair(e, state.first[d])]; }
        if (differ == 0) { break; }
      }
      if (d == count) {
        state.first[count] = e;
        state.weight[count] = 0;
        ++count;
      }
      ++state.weight[d];
      state.of_expert[e] = d;
    }
    state.distinct = count;
  }
  __syncthreads();
}

}  // namespace detail
BRAID_NAMESPACE_END
