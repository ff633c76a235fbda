#pragma once

/// The usual case of clustering, three or four experts whose rows differ, by one warp in registers: without branches, since
/// all other warps of the block wait for it. The operations of `cluster::exact` in their order; where a term isn't wanted, zero
/// is added, which changes no sum that began with +0.

#include <braid/backend/cuda/tile_partition.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int most_warp_experts = 4;

/// Numbers that compare as the finite float64 they are made of.
__device__ inline std::uint64_t ordered_bits(double x) noexcept {
  auto const bits = static_cast<std::uint64_t>(__double_as_longlong(x));
  return bits >> 63 != 0 ? ~bits : bits | 0x8000000000000000ull;
}

/// What a warp finds, in the registers of all its threads.
struct warp_choice {
  bool unusual = true;        // rows may be equal or numbers not finite: nothing is chosen
  std::uint32_t members[3]{};  // of each group: a bit for each expert
  int group = 0;              // of this thread's expert
};

/// A pair's dot product over a row: its segments' sums [segments] from the left.
__device__ inline float add_segments(float const* sums, int segments) noexcept {
  float total = 0.0f;
  int s = 0;
  for (; s + 8 <= segments; s += 8) {
    float part[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) { part[k] = sums[s + k]; }
#pragma unroll
    for (int k = 0; k < 8; ++k) { total = total + part[k]; }
  }
  for (; s < segments; ++s) { total = total + sums[s]; }
  return total;
}

/// Groups for 3 or 4 experts; and to `gram` [4, 4] the normalised Gram matrix, zeros beyond the experts. All threads of one warp.
/// @param total the dot product of pair number `lane`
__device__ inline warp_choice choose_in_warp(float total, int experts, int groups, device_similarity similarity, double const* norms, double* gram) {
  constexpr unsigned all = 0xFFFFFFFFu;
  constexpr int most = most_warp_experts;
  int const lane = static_cast<int>(threadIdx.x) % 32;
  int const i = lane < 1 ? 0 : lane < 3 ? 1 : lane < 6 ? 2 : 3;
  int const j = lane - tile_pair(i, 0);
  bool const mine = lane < tile_pair(experts, 0);
  warp_choice choice;
  float const ii = __shfl_sync(all, total, tile_pair(i, i));
  float const jj = __shfl_sync(all, total, tile_pair(j, j));
  auto const finite = [](float x) { return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u; };
  bool const same = __float_as_uint(total) == __float_as_uint(ii) && __float_as_uint(total) == __float_as_uint(jj);
  if (__any_sync(all, mine && (i == j ? !finite(total) : same))) {
    return choice;
  }
  if (lane < tile_pair(most, 0)) {
    double const ij = finite(total) ? static_cast<double>(total) : 0.0;
    double both[4] = {static_cast<double>(ii), ij, ij, static_cast<double>(jj)};
    double const lengths[2] = {norms[i], norms[j]};
    similarity.normalise(both, 2, lengths);
    double const entry = mine ? (i == j ? both[0] : both[2]) : 0.0;
    gram[i * most + j] = entry;
    gram[j * most + i] = entry;
  }
  __syncwarp();

  // The score of the set of rows whose bits make the number of this lane: as tile_score_sets, where all weights are 1.
  double entry[most][most];
#pragma unroll
  for (int a = 0; a < most; ++a) {
#pragma unroll
    for (int b = a; b < most; ++b) { entry[a][b] = gram[a * most + b]; }
  }
  double sum = 0.0;
  double trace = 0.0;
#pragma unroll
  for (int low = most - 1; low >= 0; --low) {
    bool const has_low = (lane >> low & 1) != 0;
    double cross = 0.0;
#pragma unroll
    for (int k = low + 1; k < most; ++k) { cross = cross + ((lane >> k & 1) != 0 ? entry[low][k] : 0.0); }
    sum = sum + (has_low ? 2.0 * cross + entry[low][low] : 0.0);
    trace = trace + (has_low ? entry[low][low] : 0.0);
  }
  double const score = lane == 0 ? 0.0 : similarity.group_score(sum, trace, static_cast<double>(__popc(static_cast<unsigned>(lane))));

  // This lane's partition: row e has one of the labels 0 .. e, so that lanes are in the order of labels.
  int const label[most] = {0, lane / 12, lane / 4 % 3, experts == 4 ? lane % 4 : 0};
  int used = 1;
  bool valid = lane < 24 && (experts == 4 || lane % 4 == 0);
#pragma unroll
  for (int e = 1; e < most; ++e) {
    bool const there = e < experts;
    valid = valid && (!there || label[e] <= used);
    used = there && label[e] == used ? used + 1 : used;
  }
  valid = valid && used == groups;
  double reached = 0.0;
#pragma unroll
  for (int g = 0; g < most - 1; ++g) {
    int set = 0;
#pragma unroll
    for (int e = 0; e < most; ++e) { set |= e < experts && label[e] == g ? 1 << e : 0; }
    reached = reached + __shfl_sync(all, score, g < groups ? set : 0);
  }
  // The best of them: the highest upper half, of those the highest lower half, of those the first.
  std::uint64_t const key = valid ? ordered_bits(reached) : 0;
  auto const upper = static_cast<std::uint32_t>(key >> 32);
  std::uint32_t const highest_upper = __reduce_max_sync(all, upper);
  bool const leads = valid && upper == highest_upper;
  std::uint32_t const lower = leads ? static_cast<std::uint32_t>(key) : 0;
  std::uint32_t const highest_lower = __reduce_max_sync(all, lower);
  bool const wins = leads && lower == highest_lower;
  int const best = __ffs(static_cast<int>(__ballot_sync(all, wins))) - 1;

  int const labels[most] = {0, best / 12, best / 4 % 3, best % 4};
  choice.unusual = false;
  choice.group = lane == 1 ? labels[1] : lane == 2 ? labels[2] : lane == 3 ? labels[3] : 0;
#pragma unroll
  for (int g = 0; g < most - 1; ++g) { choice.members[g] = __ballot_sync(all, lane < experts && choice.group == g); }
  return choice;
}

/// `cluster::detail::row_agreement` of the rows that `choose_in_warp` put into groups, summed over them; all threads of a warp.
/// @param mine the group of this thread's expert
__device__ inline long long agreement_in_warp(int mine, double const* gram, int experts) {
  constexpr unsigned all = 0xFFFFFFFFu;
  constexpr int most = most_warp_experts;
  int const lane = static_cast<int>(threadIdx.x) % 32;
  int const i = lane < experts ? lane : 0;
  int label[most];
#pragma unroll
  for (int e = 0; e < most; ++e) {
    int const there = __shfl_sync(all, mine, e);
    label[e] = e < experts ? there : -1;
  }
  mine = __shfl_sync(all, mine, i);
  double cross = 0.0;  // with this row's group
#pragma unroll
  for (int e = 0; e < most; ++e) { cross = cross + (label[e] == mine ? gram[i * most + e] : 0.0); }
  double total = 0.0;
#pragma unroll
  for (int e = 0; e < most; ++e) {
    double const there = __shfl_sync(all, cross, e);
    total = total + (label[e] == mine ? there : 0.0);
  }
  double const self = gram[i * most + i];
  double const lengths = ::sqrt(self > 0.0 ? self : 0.0) * ::sqrt(total > 0.0 ? total : 0.0);
  double const cosine = lengths > 0.0 ? cross / lengths : 1.0;
  long long sum = lane < experts ? ::llround(cosine * 0x1p32) : 0;
  sum += __shfl_xor_sync(all, sum, 1);
  sum += __shfl_xor_sync(all, sum, 2);
  return sum;
}

}  // namespace detail
BRAID_NAMESPACE_END
