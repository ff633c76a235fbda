#pragma once

/// Channel Merging in one pass: a block of threads, or a cluster of them, holds a channel's rows in shared memory from
/// their one reading to the one writing of the merged rows.

#include <braid/backend/cuda/device_merged.cuh>
#include <braid/backend/cuda/lane_gram.cuh>
#include <braid/backend/cuda/random_merge.cuh>
#include <braid/backend/cuda/ring_plan.hpp>
#include <braid/backend/cuda/tile_merge.cuh>
#include <braid/backend/cuda/warp_choice.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Everything that a fused merge is told, by value.
template <class Plan, class Consensus>
struct fused_arguments {
  using plan_type = Plan;
  tile_plan plan;
  ring_plan ring;
  index_t channels;
  index_t cols;
  int experts;
  int groups;
  float lambda;
  bool clusters;  // whether there is anything to choose
  bool allow_nonfinite;
  bool whole_copies;  // rows begin and end on 16 bytes
  gram_terms terms;
  device_similarity similarity;
  Consensus consensus;
  device_rows models[most_tile_experts + 1];  // the base first
  Plan plans[most_tile_experts];
  philox_keys keys;  // of all plans that take Philox words
  bool same_keys;    // whether it is so
  double norms[most_tile_experts];
  device_merged out;
  random_merge random;  // for plans that have one threshold
  index_t first = 0;  // number of the tensor's first channel here: random choices go by it
};

/// Groups of the distinct rows, and who is in them. All threads of all blocks of the cluster.
template <class T, class Arguments>
__device__ void choose_groups(Arguments const& a, row_tile<T> const& tile, std::byte* shared, index_t channel,
                              tile_state& state) {
  int const thread = static_cast<int>(threadIdx.x);
  bool suspicious = false;
  if (a.clusters) {
    float const* const sums = reinterpret_cast<float const*>(shared + tile.plan.sums_at);
    if (thread < tile_pair(a.experts, 0)) {
      float const total = add_segments(sums + thread * tile.plan.segments, tile.plan.segments);
      state.dots[thread] = total;
      row_pair const p = pair_at(thread);
      suspicious = p.i == p.j && (__float_as_uint(total) & 0x7F800000u) == 0x7F800000u;
    }
    suspicious = __syncthreads_or(suspicious) != 0;
  }
  find_distinct_rows(tile, a.experts, a.clusters, state);
  int const n = state.distinct;
  int const groups = a.groups < n ? a.groups : n;
  bool const clustered = a.clusters && groups > 1 && groups < n;

  // NaN and infinity show in the deltas' squared lengths; where there are none, elements are looked at.
  if (!a.allow_nonfinite) {
    bool bad = suspicious && thread == 0;
    if ((!clustered && (suspicious || !a.clusters)) || a.terms.signs) {
      bad = false;
      for (int m = 0; m <= a.experts; ++m) { bad = bad || !tile.finite(m); }
    }
    if (bad) { atomicMin(&a.out.totals->first_bad, static_cast<unsigned long long>(channel)); }
  }

  double* const gram = reinterpret_cast<double*>(shared + tile.plan.gram_at);
  if (clustered) {
    double* const score = reinterpret_cast<double*>(shared + tile.plan.scores_at);
    if (a.similarity.needs_norms()) { tile_norms(a.norms, a.experts, state); }
    tile_normalise(a.similarity, state, gram);
    tile_score_sets(a.similarity, state, gram, score);
    tile_search(groups, score, state);
  } else {
    if (thread < n) { state.label[thread] = groups == 1 ? 0 : thread; }
    __syncthreads();
  }

  if (thread < 32) {
    int const mine = thread < a.experts ? state.label[state.of_expert[thread]] : -1;
    int const of_row = thread < n ? state.label[thread] : -1;
    for (int g = 0; g < groups; ++g) {
      std::uint32_t const members = __ballot_sync(0xFFFFFFFFu, mine == g);
      std::uint32_t const rows = __ballot_sync(0xFFFFFFFFu, of_row == g);
      if (thread == 0) {
        state.members[g] = members;
        state.rows[g] = rows;
      }
    }
    if (thread == 0) {
      state.groups = groups;
      state.clustered = clustered;
    }
  }
  __syncthreads();
}

/// What is kept of a channel beside its rows. All threads of one warp.
/// @param mine the group of this thread's expert
/// @param agreement this thread's part of the channel's similarity, where there was anything to choose
template <class Arguments>
__device__ void write_labels(Arguments const& a, index_t channel, int mine, bool clustered, long long agreement) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
  if (lane < a.experts) { a.out.label[channel * a.experts + lane] = static_cast<std::uint8_t>(mine); }
  if (clustered && lane == 0) {
    atomicAdd(&a.out.totals->similarity, static_cast<unsigned long long>(agreement));
    atomicAdd(&a.out.totals->compared, static_cast<unsigned long long>(a.experts));
  }
}

/// Where group g's row of a channel goes.
template <class T, class Arguments>
__device__ std::byte* place_of(Arguments const& a, index_t channel, int g) {
  index_t const row_bytes = a.cols * static_cast<index_t>(sizeof(T));
  return g == 0 ? a.out.group_zero + channel * row_bytes : a.out.extra + (channel * a.out.most_extra + g - 1) * row_bytes;
}

/// A channel whose rows are in shared memory: who belongs together, and each group's row in the place of its first member's.
/// All threads of all blocks of the cluster. @return whether one warp has chosen
template <int Most, class T, class Arguments>
__device__ bool merge_in_block(Arguments const& a, row_tile<T> const& tile, std::byte* shared, index_t channel, unsigned rank, tile_state& state) {
  int const thread = static_cast<int>(threadIdx.x);
  float* const sums = reinterpret_cast<float*>(shared + tile.plan.sums_at);
  if (a.clusters) {
    segment_sums const all{sums, tile.plan.segments};
    tile_gram<T, Most>(tile, a.experts, a.terms, all);
    __syncthreads();
    if (tile.plan.cluster > 1) {
      all.share(tile_pair(a.experts, 0), tile.first_segment, tile.own, tile.plan.cluster, rank);
      ptx::cluster_arrive();
      ptx::cluster_wait();
    }
  }
  bool chosen = false;
  if (Most <= most_warp_experts && a.clusters && (!a.terms.signs || a.allow_nonfinite)) {
    if (thread < 32) {
      float const total = thread < tile_pair(a.experts, 0) ? add_segments(sums + thread * tile.plan.segments, tile.plan.segments) : 0.0f;
      warp_choice const choice = choose_in_warp(total, a.experts, a.groups, a.similarity, a.norms, reinterpret_cast<double*>(shared + tile.plan.gram_at));
      if (thread < a.experts) {
        state.label[thread] = choice.group;
        state.of_expert[thread] = thread;
      }
      if (thread == 0) {
        for (int g = 0; g < 3; ++g) {
          state.members[g] = choice.members[g];
          state.rows[g] = choice.members[g];
        }
        state.groups = a.groups;
        state.clustered = true;
        state.unusual = choice.unusual;
      }
    }
    __syncthreads();
    chosen = !state.unusual;
  }
  if (!chosen) { choose_groups(a, tile, shared, channel, state); }
  for (int g = 0; g < state.groups; ++g) {
    if (__popc(state.rows[g]) > 1) { merge_tile_group<Most>(tile, __shfl_sync(0xFFFFFFFFu, state.members[g], 0), a, a.first + channel); }
  }
  return chosen;
}

/// Labels and similarity of a channel that `merge_in_block` has merged, by one warp.
template <class T, class Arguments>
__device__ void write_labels_of_block(Arguments const& a, row_tile<T> const& tile, std::byte* shared, index_t channel, bool by_warp,
                                      tile_state const& state) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
  int const mine = lane < a.experts ? state.label[state.of_expert[lane]] : -1;
  long long agreement = 0;
  if (state.clustered) {
    double const* const gram = reinterpret_cast<double const*>(shared + tile.plan.gram_at);
    if (by_warp) {
      agreement = agreement_in_warp(mine, gram, a.experts);
    } else {
      agreement = tile_similarity(state, gram, lane);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) { agreement += __shfl_xor_sync(0xFFFFFFFFu, agreement, step); }
    }
  }
  write_labels(a, channel, mine, state.clustered, agreement);
}

/// A cluster of blocks for each channel.
template <class T, int Most, class Plan, class Consensus>
BRAID_KERNEL void __launch_bounds__(Most > 4 ? 256 : 320, 2) fused_merge_kernel(__grid_constant__ fused_arguments<Plan, Consensus> const a) {
  BRAID_BLOCK_MEMORY(shared);
  BRAID_BLOCK_OBJECT(tile_state, state);
  int const thread = static_cast<int>(threadIdx.x);
  auto const cluster = static_cast<unsigned>(a.plan.cluster);
  unsigned const rank = cluster > 1 ? ptx::cluster_rank() : 0;
  auto const channel = static_cast<index_t>(blockIdx.x / cluster);
  int const first = static_cast<int>(rank) * a.plan.own;
  int const own = a.plan.segments - first < a.plan.own ? a.plan.segments - first : a.plan.own;
  row_tile<T> const tile{shared, a.plan, a.cols, first, own};

  // The rows come in.
  if (thread == 0) {
    ptx::make_barrier(&state.copies, 1);
    ptx::publish_barriers();
  }
  __syncthreads();
  if (a.whole_copies) {
    int const end = tile.width(own - 1);
    if (thread == 0) {
      auto const columns = static_cast<std::uint32_t>((own - 1) * sum_order::segment + end);
      ptx::expect_copies(&state.copies, static_cast<std::uint32_t>(a.experts + 1) * columns * sizeof(T));
    }
    if (thread < own * (a.experts + 1)) {
      int const m = thread / own;
      tile.copy_in(m, thread - m * own, a.models[m].data + channel * a.models[m].stride, &state.copies);
    }
    if (end < sum_order::segment) {
      for (int m = 0; m <= a.experts; ++m) { tile.clear_end(m); }
    }
    if (cluster > 1) { ptx::cluster_arrive(); }  // all blocks run before any writes to another's memory
    ptx::wait_for(&state.copies, 0);
  } else {
    for (int m = 0; m <= a.experts; ++m) { tile.load(m, a.models[m].data + channel * a.models[m].stride); }
    if (cluster > 1) { ptx::cluster_arrive(); }
  }
  __syncthreads();
  if (cluster > 1) { ptx::cluster_wait(); }

  bool const by_warp = merge_in_block<Most>(a, tile, shared, channel, rank, state);

  // The groups' rows go out: by threads, since tools that look for memory that nobody wrote don't see other copies.
  __syncthreads();
  for (int g = 0; g < state.groups; ++g) {
    int const source = __ffs(static_cast<int>(state.members[g]));  // behind the base's
    if (a.whole_copies) {
      tile.store_pieces(source, place_of<T>(a, channel, g));
    } else {
      tile.store(source, place_of<T>(a, channel, g));
    }
  }
  if (rank == 0 && thread >= 32 && thread < 64) { write_labels_of_block(a, tile, shared, channel, by_warp, state); }
}

}  // namespace detail
BRAID_NAMESPACE_END
