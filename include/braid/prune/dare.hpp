#pragma once

#include <braid/core/concepts.hpp>
#include <braid/core/detail/philox_lanes.hpp>
#include <braid/core/philox.hpp>
#include <braid/prune/detail/check.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace prune {

/// Keeps each element with probability `density`, at random, and multiplies the kept ones by 1 / density (rounded
/// once to float32), so that the expected delta stays the same: DARE, "drop and rescale".
///
/// Element e = row * cols + column of the delta survives where word e & 3 of Philox block e >> 2 of the stream
/// (seed, tensor, expert) is below floor(density * 2^32). So the mask depends on seed and names alone: not on
/// threads, tiles, backend or the other experts. Density 1 keeps all, density 0 none.
/// Cost: a quarter of a Philox block an element; no pass over the data.
///
/// Yu et al., "Language Models are Super Mario" (ICML 2024, arXiv 2311.03099), section 3.
struct dare {
  static constexpr std::string_view name = "dare";
  static constexpr statistic measures = statistic::none;

  double density = 0.7;
  std::uint64_t seed = 0;

  void validate() const { detail::check_density(name, density); }

  struct plan_type {
    std::uint64_t seed;
    std::uint64_t stream;
    std::uint64_t threshold;
    index_t cols;
    float scale;

    BRAID_HD constexpr float operator()(float x, index_t row, index_t col) const noexcept {
      auto const element = static_cast<std::uint64_t>(row * cols + col);
      return philox_word(seed, stream, element) < threshold ? x * scale : 0.0f;
    }

    /// The same for consecutive columns, a block of four words at a time.
    BRAID_ALWAYS_INLINE void apply(float* x, int count, index_t row, index_t col) const noexcept {
      auto const first = static_cast<std::uint64_t>(row * cols + col);
      auto const skip = static_cast<int>(first & 3u);
      constexpr int blocks = 8;
      for (int done = -skip; done < count; done += 4 * blocks) {
        std::uint32_t word[4][blocks];
        braid::detail::philox_blocks<blocks>(seed, (first + static_cast<std::uint64_t>(static_cast<std::int64_t>(done))) >> 2, stream,
                              word);
        float keep[4 * blocks];
        for (int b = 0; b < blocks; ++b) {
          for (int w = 0; w < 4; ++w) { keep[4 * b + w] = word[w][b] < threshold ? scale : 0.0f; }
        }
        int const begin = done < 0 ? -done : 0;
        int const end = count - done < 4 * blocks ? count - done : 4 * blocks;
        // A dropped element becomes +0 whatever its sign, as in operator().
        for (int i = begin; i < end; ++i) { x[done + i] = keep[i] != 0.0f ? x[done + i] * keep[i] : 0.0f; }
      }
    }
  };

  [[nodiscard]] plan_type plan(tensor_key const& key) const noexcept {
    return {seed, key.stream, keep_threshold(density), key.cols, density > 0.0 ? static_cast<float>(1.0 / density) : 0.0f};
  }
};
static_assert(pruning_policy<dare>);

}  // namespace prune
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
