#pragma once

/// The usual case of clustering, three or four experts whose rows differ, by one warp in registers.

#include <braid/backend/cuda/tile_partition.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int most_warp_experts = 4;

/// Writes groups, labels and the normalised Gram matrix; or, where rows may be equal or numbers not finite, only says so in
/// `state.unusual`. All threads of one warp.
/// @param sums [pairs, segments] @param gram [experts, experts], out
__device__ inline void choose_in_warp(float const* sums, int segments, int experts, int groups, device_similarity similarity,
                                      double const* norms, double* gram, tile_state& state) {
  constexpr unsigned all = 0xFFFFFFFFu;
  int const lane = static_cast<int>(threadIdx.x) % 32;
  int const pairs = tile_pair(experts, 0);
  int const i = lane < 1 ? 0 : lane < 3 ? 1 : lane < 6 ? 2 : 3;
  int const j = lane - tile_pair(i, 0);
  bool const mine = lane < pairs;
  float total = 0.0f;
  if (mine) {
    float const* const of_pair = sums + lane * segments;
#pragma unroll 4
    for (int s = 0; s < segments; ++s) { total = total + of_pair[s]; }
  }
  float const ii = __shfl_sync(all, total, tile_pair(i, i));
  float const jj = __shfl_sync(all, total, tile_pair(j, j));
  auto const finite = [](float x) { return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u; };
  bool const same = __float_as_uint(total) == __float_as_uint(ii) && __float_as_uint(total) == __float_as_uint(jj);
  if (__any_sync(all, mine && (i == j ? !finite(total) : same))) {
    if (lane == 0) { state.unusual = true; }
    return;
  }
  if (mine) {
    double const ij = finite(total) ? static_cast<double>(total) : 0.0;
    double both[4] = {static_cast<double>(ii), ij, ij, static_cast<double>(jj)};
    double const lengths[2] = {norms[i], norms[j]};
    similarity.normalise(both, 2, lengths);
    double const entry = i == j ? both[0] : both[2];
    gram[i * experts + j] = entry;
    gram[j * experts + i] = entry;
  }
  __syncwarp();

  // The score of the set of rows whose bits make the number of this lane: as tile_score_sets, where all weights are 1.
  double score = 0.0;
  if (lane > 0 && lane < 1 << experts) {
    double sum = 0.0;
    double trace = 0.0;
    double size = 0.0;
#pragma unroll
    for (int low = most_warp_experts - 1; low >= 0; --low) {
      if ((lane >> low & 1) == 0) { continue; }
      double cross = 0.0;
#pragma unroll
      for (int k = low + 1; k < most_warp_experts; ++k) {
        if ((lane >> k & 1) != 0) { cross += gram[low * experts + k]; }
      }
      double const self = gram[low * experts + low];
      sum = sum + (2.0 * cross + self);
      trace = trace + self;
      size = size + 1.0;
    }
    score = similarity.group_score(sum, trace, size);
  }

  // This lane's partition: row i has one of the labels 0 .. i.
  constexpr std::uint32_t nothing = ~0u;
  int const label[most_warp_experts] = {0, lane % 2, lane / 2 % 3, lane / 6};
  std::uint32_t labels = 0;
  int used = 1;
  bool valid = lane < (experts == 4 ? 24 : 6);
#pragma unroll
  for (int e = 1; e < most_warp_experts; ++e) {
    if (e >= experts) { continue; }
    valid = valid && label[e] <= used;
    used = label[e] == used ? used + 1 : used;
    labels |= static_cast<std::uint32_t>(label[e]) << 4 * (most_warp_experts - 1 - e);
  }
  valid = valid && used == groups;
  double best_score = 0.0;
  for (int g = 0; g < groups; ++g) {
    int set = 0;
#pragma unroll
    for (int e = 0; e < most_warp_experts; ++e) { set |= e < experts && label[e] == g ? 1 << e : 0; }
    best_score += __shfl_sync(all, score, set);
  }
  std::uint32_t best = valid ? labels : nothing;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    double const other_score = __shfl_xor_sync(all, best_score, step);
    std::uint32_t const other = __shfl_xor_sync(all, best, step);
    bool const better = other != nothing && (best == nothing || other_score > best_score || (other_score == best_score && other < best));
    best_score = better ? other_score : best_score;
    best = better ? other : best;
  }
  int const group = lane < experts ? static_cast<int>(best >> 4 * (most_warp_experts - 1 - lane) & 15u) : -1;
  for (int g = 0; g < groups; ++g) {
    std::uint32_t const members = __ballot_sync(all, group == g);
    if (lane == 0) {
      state.members[g] = members;
      state.rows[g] = members;
    }
  }
  if (lane < experts) {
    state.label[lane] = group;
    state.of_expert[lane] = lane;
    state.weight[lane] = 1;
  }
  if (lane == 0) {
    state.groups = groups;
    state.distinct = experts;
    state.clustered = true;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
