#pragma once

/// Channel Merging in one pass: a block of threads, or a cluster of them, holds a channel's rows in shared memory from
/// their one reading to the one writing of the merged rows.

#include <braid/backend/cuda/device_buffer.cuh>
#include <braid/backend/cuda/device_merged.cuh>
#include <braid/backend/cuda/lane_gram.cuh>
#include <braid/backend/cuda/tile_merge.cuh>
#include <braid/backend/cuda/tile_partition.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Everything that a fused merge is told, by value.
template <class Plan, class Consensus>
struct fused_arguments {
  tile_plan plan;
  index_t cols;
  int experts;
  int groups;
  float lambda;
  bool clusters;  // whether there is anything to choose
  bool allow_nonfinite;
  gram_terms terms;
  device_similarity similarity;
  Consensus consensus;
  device_rows models[most_tile_experts + 1];  // the base first
  Plan plans[most_tile_experts];
  double norms[most_tile_experts];
  device_merged out;
};

/// Groups of the distinct rows, and who is in them. All threads of all blocks of the cluster.
template <class T, class Arguments>
__device__ void choose_groups(Arguments const& a, row_tile<T> const& tile, std::byte* shared, index_t channel, bool first_block,
                              tile_state& state) {
  int const thread = static_cast<int>(threadIdx.x);
  bool suspicious = false;
  if (a.clusters) {
    float const* const sums = reinterpret_cast<float const*>(shared + a.plan.sums_at);
    if (thread < tile_pair(a.experts, 0)) {
      float total = 0.0f;
      for (int s = 0; s < a.plan.segments; ++s) { total = total + sums[thread * a.plan.segments + s]; }
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

  double* const gram = reinterpret_cast<double*>(shared + a.plan.gram_at);
  if (clustered) {
    double* const score = reinterpret_cast<double*>(shared + a.plan.scores_at);
    if (a.similarity.needs_norms()) { tile_norms(a.norms, a.experts, state); }
    tile_normalise(a.similarity, state, gram);
    tile_score_sets(a.similarity, state, gram, score);
    tile_search(groups, score, state);
    if (first_block && thread < 32) {
      long long sum = tile_similarity(state, gram);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) { sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step); }
      if (thread == 0) {
        atomicAdd(&a.out.totals->similarity, static_cast<unsigned long long>(sum));
        atomicAdd(&a.out.totals->compared, static_cast<unsigned long long>(a.experts));
      }
    }
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
    if (thread == 0) { state.groups = groups; }
    if (first_block && mine >= 0) { a.out.label[channel * a.experts + thread] = static_cast<std::uint8_t>(mine); }
  }
  __syncthreads();
}

template <class T, int Most, class Plan, class Consensus>
BRAID_KERNEL void __launch_bounds__(256, Most > 4 ? 2 : 3) fused_merge_kernel(__grid_constant__ fused_arguments<Plan, Consensus> const a) {
  extern __shared__ __align__(16) std::byte shared[];
  __shared__ tile_state state;
  auto const cluster = static_cast<unsigned>(a.plan.cluster);
  unsigned const rank = cluster > 1 ? ptx::cluster_rank() : 0;
  auto const channel = static_cast<index_t>(blockIdx.x / cluster);
  int const first = static_cast<int>(rank) * a.plan.own;
  int const own = a.plan.segments - first < a.plan.own ? a.plan.segments - first : a.plan.own;
  row_tile<T> const tile{shared, a.plan, a.cols, first, own};

  for (int m = 0; m <= a.experts; ++m) { tile.load(m, a.models[m].data + channel * a.models[m].stride); }
  if (cluster > 1) { ptx::cluster_arrive(); }  // all blocks run before any writes to another's memory
  ptx::wait_for_copies();
  __syncthreads();
  if (cluster > 1) { ptx::cluster_wait(); }
  if (a.clusters) {
    segment_sums const sums{reinterpret_cast<float*>(shared + a.plan.sums_at), a.plan.segments, a.plan.cluster};
    tile_gram<T, Most>(tile, a.experts, a.terms, sums);
    if (cluster > 1) {
      ptx::cluster_arrive();
      ptx::cluster_wait();
    } else {
      __syncthreads();
    }
  }
  choose_groups(a, tile, shared, channel, rank == 0, state);

  for (int g = 0; g < state.groups; ++g) {
    if (__popc(state.rows[g]) > 1) { merge_tile_group<Most>(tile, state.members[g], a.plans, a.consensus, a.lambda, channel); }
  }
  __syncthreads();
  index_t const row_bytes = a.cols * static_cast<index_t>(sizeof(T));
  for (int g = 0; g < state.groups; ++g) {
    std::byte* const to = g == 0 ? a.out.group_zero + channel * row_bytes : a.out.extra + (channel * a.out.most_extra + g - 1) * row_bytes;
    tile.store(__ffs(static_cast<int>(state.members[g])), to);  // the place of the first member, behind the base's
  }
}

/// Enqueues a fused merge of all channels.
template <class T, int Most, class Plan, class Consensus>
void start_fused_merge(fused_arguments<Plan, Consensus> const& a, index_t channels, cudaStream_t stream) {
  auto const kernel = fused_merge_kernel<T, Most, Plan, Consensus>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(a.plan.shared_bytes)),
             "asking for shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(channels) * static_cast<unsigned>(a.plan.cluster));
  config.blockDim = dim3(static_cast<unsigned>(a.plan.threads));
  config.dynamicSmemBytes = a.plan.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(a.plan.cluster);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, a), "starting a merge");
}

}  // namespace detail
BRAID_NAMESPACE_END
