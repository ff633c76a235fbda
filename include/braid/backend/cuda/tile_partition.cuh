#pragma once

/// cluster::exact by all threads of a block: every set is scored by a thread of its own, in the order of operations of the
/// host's search, and every thread tries some of the partitions.

#include <braid/backend/cuda/device_similarity.cuh>
#include <braid/backend/cuda/tile_state.cuh>
#include <braid/cluster/detail/agreement.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The lengths that scale the distinct rows, as `shared_norms` of the CPU finds them.
__device__ inline void tile_norms(double const* of_experts, int experts, tile_state& state) {
  int const d = static_cast<int>(threadIdx.x);
  if (d < state.distinct) {
    double norm = of_experts[state.first[d]];
    if (state.weight[d] != 1) {
      double inverse = 0.0;
      for (int e = 0; e < experts; ++e) {
        if (state.of_expert[e] == d && of_experts[e] > 0.0) { inverse += 1.0 / of_experts[e]; }
      }
      if (inverse > 0.0) { norm = state.weight[d] / inverse; }
    }
    state.norm[d] = norm;
  }
  __syncthreads();
}

/// The Gram matrix [distinct, distinct] in the similarity's own space.
__device__ inline void tile_normalise(device_similarity similarity, tile_state const& state, double* gram) {
  int const n = state.distinct;
  for (int place = static_cast<int>(threadIdx.x); place < tile_pair(n, 0); place += static_cast<int>(blockDim.x)) {
    row_pair const p = pair_at(place);
    auto const dot = [&](int a, int b) {
      int const i = state.first[a];
      int const j = state.first[b];
      float const x = state.dots[i > j ? tile_pair(i, j) : tile_pair(j, i)];
      return (__float_as_uint(x) & 0x7F800000u) == 0x7F800000u ? 0.0 : static_cast<double>(x);
    };
    double both[4] = {dot(p.i, p.i), dot(p.i, p.j), dot(p.j, p.i), dot(p.j, p.j)};
    double const norms[2] = {state.norm[p.i], state.norm[p.j]};
    similarity.normalise(both, 2, norms);
    gram[p.i * n + p.j] = p.i == p.j ? both[0] : both[2];
    gram[p.j * n + p.i] = p.i == p.j ? both[0] : both[2];
  }
  __syncthreads();
}

/// The score of every set of distinct rows, [2^distinct].
__device__ inline void tile_score_sets(device_similarity similarity, tile_state const& state, double const* gram, double* score) {
  int const n = state.distinct;
  int const sets = 1 << n;
  for (int set = 1 + static_cast<int>(threadIdx.x); set < sets; set += static_cast<int>(blockDim.x)) {
    double total = 0.0;
    double trace = 0.0;
    double size = 0.0;
    for (int low = n - 1; low >= 0; --low) {  // from the last member on, so that the others are there already
      if ((set >> low & 1) == 0) { continue; }
      double const w = state.weight[low];
      double cross = 0.0;
      for (int j = low + 1; j < n; ++j) {
        if ((set >> j & 1) != 0) { cross += state.weight[j] * gram[low * n + j]; }
      }
      double const self = gram[low * n + low];
      total = total + w * (2.0 * cross + w * self);
      trace = trace + w * self;
      size = size + w;
    }
    score[set] = similarity.group_score(total, trace, size);
  }
  __syncthreads();
}

/// A thread's search. Labels are hexadecimal digits, the first row's the highest, so that numbers compare as labels do.
struct partition_search {
  double const* score;
  int count;
  int groups;
  double best_score = 0.0;
  std::uint64_t best = ~std::uint64_t{0};  // nothing found

  __device__ static int shift(int i) noexcept { return 4 * (most_tile_experts - 1 - i); }
  __device__ static int label(std::uint64_t labels, int i) noexcept { return static_cast<int>(labels >> shift(i) & 15u); }

  /// Whether no partition comes before this one: 0 ... 0 1 2 3.
  __device__ bool is_first(std::uint64_t labels) const noexcept {
    for (int i = 0; i < count; ++i) {
      int const g = i - (count - groups);
      if (label(labels, i) != (g > 0 ? g : 0)) { return false; }
    }
    return true;
  }

  /// Takes a whole partition where it beats the best, or equals it and comes first.
  __device__ void take(std::uint64_t labels) noexcept {
    double sum = 0.0;
    for (int g = 0; g < groups; ++g) {
      int set = 0;
      for (int i = 0; i < count; ++i) { set |= (label(labels, i) == g ? 1 : 0) << i; }
      sum += score[set];
    }
    // A NaN (possible where inputs may hold one) wins if it comes first, since nothing is larger, and never else.
    if (sum != sum) {
      if (!is_first(labels)) { return; }
      sum = __longlong_as_double(0x7FF0000000000000);
    }
    if (beats(sum, labels)) {
      best_score = sum;
      best = labels;
    }
  }

  __device__ bool beats(double other_score, std::uint64_t other) const noexcept {
    return best == ~std::uint64_t{0} || other_score > best_score || (other_score == best_score && other < best);
  }

  /// Puts rows count - Left ... into every group that they may join.
  template <int Left>
  __device__ void place(std::uint64_t labels, int used) noexcept {
    if constexpr (Left == 0) {
      if (used == groups) { take(labels); }
    } else {
      if (Left < groups - used) { return; }  // too few rows to open what is missing
      int const last = used < groups ? used : groups - 1;
      for (int g = 0; g <= last; ++g) {
        place<Left - 1>(labels | static_cast<std::uint64_t>(g) << shift(count - Left), g == used ? used + 1 : used);
      }
    }
  }
};

/// Labels of the best partition of the distinct rows into `groups` groups, 1 < groups < distinct, into `state.label`.
__device__ inline void tile_search(int groups, double const* score, tile_state& state) {
  constexpr int most_prefix = 6;
  int const thread = static_cast<int>(threadIdx.x);
  int const n = state.distinct;
  int const prefix = n < most_prefix ? n : most_prefix;
  int beginnings = 1;
  for (int i = 2; i <= prefix; ++i) { beginnings *= i; }
  partition_search search{score, n, groups};
  for (int t = thread; t < beginnings; t += static_cast<int>(blockDim.x)) {
    // Row i has one of the labels 0 .. i; those that are no numbering by first appearance are left out.
    std::uint64_t labels = 0;
    int used = 1;
    int left = t;
    bool valid = true;
    for (int i = 1; i < prefix; ++i) {
      int const g = left % (i + 1);
      left /= i + 1;
      valid = valid && g <= used && g < groups;
      used = g == used ? used + 1 : used;
      labels |= static_cast<std::uint64_t>(g) << partition_search::shift(i);
    }
    if (!valid) { continue; }
    switch (n - prefix) {
      case 0: search.place<0>(labels, used); break;
      case 1: search.place<1>(labels, used); break;
      case 2: search.place<2>(labels, used); break;
      case 3: search.place<3>(labels, used); break;
      default: search.place<4>(labels, used);
    }
  }
  int const warp = thread / 32;
  int const warps = (beginnings < static_cast<int>(blockDim.x) ? beginnings + 31 : static_cast<int>(blockDim.x)) / 32;
  if (warp < warps) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      double const score_there = __shfl_xor_sync(0xFFFFFFFFu, search.best_score, step);
      unsigned long long const there = __shfl_xor_sync(0xFFFFFFFFu, static_cast<unsigned long long>(search.best), step);
      if (there != ~0ull && search.beats(score_there, there)) {
        search.best_score = score_there;
        search.best = there;
      }
    }
    if (thread % 32 == 0) {
      state.best_score[warp] = search.best_score;
      state.best_label[warp] = search.best;
    }
  }
  __syncthreads();
  if (thread == 0) {
    for (int w = 1; w < warps; ++w) {
      if (state.best_label[w] != ~std::uint64_t{0} && search.beats(state.best_score[w], state.best_label[w])) {
        search.best_score = state.best_score[w];
        search.best = state.best_label[w];
      }
    }
    for (int i = 0; i < n; ++i) { state.label[i] = partition_search::label(search.best, i); }
  }
  __syncthreads();
}

/// Row i's part of `merged_block::similarity`: the cosine to its group's sum, in fixed point, for all experts
/// that have the row.
__device__ inline long long tile_similarity(tile_state const& state, double const* gram, int i) {
  int const n = state.distinct;
  if (i >= n) { return 0; }
  return cluster::detail::row_agreement({n, 0, gram, state.weight, 0, 0}, state.label, i);
}

}  // namespace detail
BRAID_NAMESPACE_END
