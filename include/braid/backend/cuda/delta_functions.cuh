#pragma once

/// What the task-arithmetic family computes at one position, and the sums that rescaling needs.

#include <braid/backend/cpu/delta_pruning.hpp>
#include <braid/backend/cuda/map_kernel.cuh>
#include <braid/backend/cuda/sum_kernel.cuh>
#include <braid/consensus/weighted.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Plans of up to `Most` models: of a tensor by value, or of each row in device memory.
template <class Plan, int Most, bool ByRow>
struct model_plans {
  using plan_type = Plan;
  static constexpr bool by_row = ByRow;

  std::conditional_t<ByRow, Plan const*, Plan[Most]> plans;  // [channels, models]
  int count;
  survivors kept[Most];
  random_keys keys;  // of all plans that take random words

  __device__ Plan const& of(int i, index_t row) const noexcept {
    if constexpr (ByRow) {
      return plans[row * count + i];
    } else {
      return plans[i];
    }
  }
  template <tile_layout L>
  __device__ void prune(int i, random_room* room, tile_place const& at, float (&x)[tile_elements]) const noexcept {
    if (kept[i] == survivors::some) {
      prune_tile<L>(of(i, at.row), keys, room, at, x);
    } else if (kept[i] == survivors::none) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { x[j] = 0.0f; }
    }
  }
  __device__ float prune_one(int i, float x, index_t row, index_t col) const noexcept {
    return kept[i] == survivors::all ? x : kept[i] == survivors::none ? 0.0f : of(i, row)(x, row, col);
  }
};

/// Whether a plan leaves everything as it is.
template <class Plan>
inline constexpr bool keeps_everything = requires { requires Plan::keeps_all; };

/// base + lambda * join(weight[i] * (factor[i] * pruned delta i)).
template <class Plan, class Consensus, int Most, bool ByRow>
struct join_function {
  static constexpr tile_layout layout = tile_layout::together;
  static constexpr bool random = plan_takes_words<Plan>;
  static constexpr bool by_row = ByRow;
  static constexpr bool prunes = true;
  static constexpr int most = most_few_models;

  model_plans<Plan, Most, ByRow> pruning;
  float factor[Most];
  float weight[Most];
  float lambda;
  bool scales;  // whether a factor differs from 1
  bool normalize;
  Consensus consensus;

  template <tile_layout L>
  __device__ void prune(int i, random_room* room, tile_place const& at, float (&x)[tile_elements]) const noexcept {
    if constexpr (!keeps_everything<Plan>) { pruning.template prune<L>(i, room, at, x); }
    if (scales) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { x[j] = x[j] * factor[i]; }
    }
  }
  __device__ float prune_one(int i, float x, index_t row, index_t col) const noexcept {
    float const kept = pruning.prune_one(i, x, row, col);
    return scales ? kept * factor[i] : kept;
  }

  __device__ float operator()(float base, float const* x, int n, index_t, index_t) const noexcept {
    if (n == 0) { return base + 0.0f * lambda; }
    if constexpr (weighted_consensus_policy<Consensus>) {
      return base + consensus(x, static_cast<float const*>(weight), n, normalize) * lambda;
    } else {
      float weighted[Most];
      for (int i = 0; i < n; ++i) { weighted[i] = x[i] * weight[i]; }
      return base + consensus(static_cast<float const*>(weighted), n) * lambda;
    }
  }
};

/// Magnitudes of each model's delta before and after pruning.
template <class Plan, int Most, bool ByRow>
struct l1_sums {
  model_plans<Plan, Most, ByRow> pruning;

  BRAID_HD static constexpr int sums(int n) noexcept { return 2 * n; }

  static __device__ float magnitude(float x) noexcept { return __uint_as_float(__float_as_uint(x) & 0x7FFFFFFFu); }

  template <int N>
  __device__ void add(tile_place const& at, element_tile<N>& tile, float (&sum)[2 * N][2]) const noexcept {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (pruning.kept[i] != survivors::some) { continue; }
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { sum[2 * i][j % 2] = sum[2 * i][j % 2] + magnitude(tile.x[i][j]); }
      pruning.template prune<tile_layout::spread>(i, nullptr, at, tile.x[i]);
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { sum[2 * i + 1][j % 2] = sum[2 * i + 1][j % 2] + magnitude(tile.x[i][j]); }
    }
  }
  __device__ void add_one(float const* x, int n, index_t row, index_t col, float* sum) const noexcept {
    for (int i = 0; i < n; ++i) {
      if (pruning.kept[i] != survivors::some) { continue; }
      sum[2 * i] = sum[2 * i] + magnitude(x[i]);
      sum[2 * i + 1] = sum[2 * i + 1] + magnitude(pruning.prune_one(i, x[i], row, col));
    }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
