#pragma once

/// Random pruning where all experts' elements are kept below one threshold: what kernels that merge many rows need of it.

#include <braid/backend/cuda/tile_merge.cuh>
#include <braid/backend/cuda/warp_choice.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A plan that keeps an element where its 16 random bits are below `threshold`, and multiplies it by `scale`.
template <class Plan>
concept plan_of_threshold = requires(Plan const plan) {
  requires Plan::keeps_below_threshold;
  { plan.threshold } -> std::convertible_to<std::uint32_t>;
  { plan.scale } -> std::convertible_to<float>;
  plan.seed;
  plan.stream;
};

/// The block of the first element of a row of whole groups of 128.
__device__ inline std::uint32_t row_block(index_t row, index_t cols) noexcept { return static_cast<std::uint32_t>(row * cols / 8); }

struct random_merge {
  bool usable = false;
  std::uint32_t limit = 0;  // the last number that is kept, in both halves
  float scale = 1.0f;

  /// What two rounds of Philox leave of a stream where block numbers have 32 bits.
  struct alignas(8) second_round {
    std::uint32_t to_second = 0;  // of the first round's third word
    std::uint32_t first = 0;      // of the second round's words, what doesn't depend on the block
    std::uint32_t third = 0;
    std::uint32_t fourth = 0;
  };
  second_round of_expert[most_warp_experts];

  random_merge() = default;

  /// Host code. @param rows the tensor's rows up to the last one that is merged
  template <class Plan>
  random_merge(Plan const* plans, int experts, index_t rows, index_t cols) noexcept : limit((plans[0].threshold - 1u) * 0x10001u), scale(plans[0].scale) {
    usable = plans[0].threshold > 0 && cols % 128 == 0 && rows <= (index_t{1} << 35) / cols;
    philox_keys const keys(plans[0].seed);
    for (int e = 0; e < experts; ++e) {
      Plan const& plan = plans[e];
      usable = usable && plan.seed == plans[0].seed && plan.threshold == plans[0].threshold && plan.scale == plans[0].scale;
      auto const low = static_cast<std::uint32_t>(plan.stream);
      auto const high = static_cast<std::uint32_t>(plan.stream >> 32);
      std::uint64_t const product1 = philox_keys::multiplier1 * low;
      std::uint64_t const product0 = philox_keys::multiplier0 * static_cast<std::uint32_t>(static_cast<std::uint32_t>(product1 >> 32) ^ keys.low[0]);
      of_expert[e] = {high ^ keys.high[0], static_cast<std::uint32_t>(product1) ^ keys.low[1], static_cast<std::uint32_t>(product0 >> 32) ^ keys.high[1],
                      static_cast<std::uint32_t>(product0)};
    }
  }

  /// The blocks number `block` and, with more of them, behind it of N experts' streams, an expert's behind the other's.
  template <int N, int Blocks>
  __device__ void words(int const (&expert)[N], std::uint32_t block, philox_keys const& keys, philox_block (&word)[Blocks]) const noexcept {
    constexpr int each = Blocks / N;
    second_round of[N];
#pragma unroll
    for (int m = 0; m < N; ++m) { of[m] = of_expert[expert[m]]; }
#pragma unroll
    for (int n = 0; n < each; ++n) {
      std::uint64_t const product = philox_keys::multiplier0 * (block + static_cast<std::uint32_t>(n));
#pragma unroll
      for (int m = 0; m < N; ++m) {
        std::uint64_t const next = philox_keys::multiplier1 * (static_cast<std::uint32_t>(product >> 32) ^ of[m].to_second);
        word[m * each + n] = {{static_cast<std::uint32_t>(next >> 32) ^ of[m].first, static_cast<std::uint32_t>(next),
                               static_cast<std::uint32_t>(product) ^ of[m].third, of[m].fourth}};
      }
    }
    keys.encrypt<2, philox_keys::rounds - 2>(word);
  }
};

/// Consensus policies that add.
template <class Consensus>
inline constexpr bool is_sum = std::is_same_v<std::remove_cv_t<Consensus>, consensus::mean> || std::is_same_v<std::remove_cv_t<Consensus>, consensus::sum>;

/// What such a policy makes of a finite sum.
template <int N, class Consensus>
__device__ float share_of_sum(Consensus const&, float sum) noexcept {
  if constexpr (std::is_same_v<Consensus, consensus::mean>) {
    return divide_by<N, true>(sum);
  } else {
    return sum;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
