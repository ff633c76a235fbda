#pragma once

#include <braid/core/concepts.hpp>
#include <braid/core/detail/philox_lanes.hpp>
#include <braid/core/philox.hpp>
#include <braid/prune/detail/check.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace prune {

/// Keeps each element with probability p, `density` to the nearest 1/65536, at random, and multiplies the kept ones by 1 / p
/// (rounded once to float32), so that the expected delta stays the same: DARE, "drop and rescale".
///
/// Element e = row * cols + column of the delta survives where its 16 random bits (`philox_element`; the stream is that of
/// tensor and expert) are below 65536 p. So the mask depends on seed and names alone: not on threads, tiles, backend or the
/// other experts. Density 1 keeps all, density 0 none, the smallest ones 1 of 65536.
/// Cost: an eighth of a Philox block an element; no pass over the data.
///
/// Yu et al., "Language Models are Super Mario" (ICML 2024, arXiv 2311.03099), section 3.
struct dare {
  static constexpr std::string_view name = "dare";
  static constexpr statistic measures = statistic::none;

  double density = 0.7;
  std::uint64_t seed = 0;
  bool rescale = true;  ///< false: what is kept stays as it is

  void validate() const { detail::check_density(name, density); }

  struct plan_type {
    static constexpr bool keeps_below_threshold = true;  // for kernels: nothing but threshold and scale decides
    std::uint64_t seed;
    std::uint64_t stream;
    index_t cols;
    std::uint32_t threshold;  // 0 to 65536
    float scale;

    BRAID_HD constexpr float operator()(float x, index_t row, index_t col) const noexcept {
      auto const element = static_cast<std::uint64_t>(row * cols + col);
      return with_word(x, philox_element(seed, stream, element) << 16, row, col);
    }

    /// The same for a caller that has the element's random bits already: the upper 16 of `word`. The lower ones don't matter.
    BRAID_HD constexpr float with_word(float x, std::uint32_t word, index_t, index_t) const noexcept {
      float const kept = x * scale;
      return ((word <= last()) & (threshold != 0)) ? kept : 0.0f;
    }

    /// The same for consecutive columns, in groups of elements that share their Philox blocks.
    BRAID_ALWAYS_INLINE void apply(float* x, int count, index_t row, index_t col) const noexcept {
      constexpr int group = braid::detail::philox_group;
      auto const first = static_cast<std::uint64_t>(row * cols + col);
      // Words compare as signed numbers, which every instruction set can.
      constexpr std::uint32_t flip = 0x80000000u;
      auto const top = static_cast<std::int32_t>(last() ^ flip);
      std::uint32_t const some = threshold == 0 ? 0u : ~0u;
      for (int begin = -static_cast<int>(first % group); begin < count; begin += group) {
        std::uint32_t word[4][16];
        auto const element = first + static_cast<std::uint64_t>(static_cast<std::int64_t>(begin));
        braid::detail::philox_elements(seed, element / 8, stream, word);
        std::uint32_t keep[group];  // all ones or zero: no branch that depends on a random number
        for (int j = 0; j < group / 16; ++j) {
          std::uint32_t upper[16];
          braid::detail::philox_upper(word, j, upper);
          BRAID_VECTORISE
          for (int b = 0; b < 16; ++b) { keep[16 * j + b] = static_cast<std::int32_t>(upper[b] ^ flip) <= top ? some : 0u; }
        }
        auto const thin = [&](int i) {
          std::uint32_t const bits = braid::detail::bits_as<std::uint32_t>(x[begin + i] * scale);
          x[begin + i] = braid::detail::bits_as<float>(bits & keep[i]);
        };
        if (begin >= 0 && count - begin >= group) {
          BRAID_VECTORISE
          for (int i = 0; i < group; ++i) { thin(i); }
        } else {
          int const from = begin < 0 ? -begin : 0;
          int const to = count - begin < group ? count - begin : group;
          for (int i = from; i < to; ++i) { thin(i); }
        }
      }
    }

    /// The highest word that is kept, whatever its lower half.
    BRAID_HD constexpr std::uint32_t last() const noexcept { return (threshold << 16) - 1u; }
  };

  [[nodiscard]] plan_type plan(tensor_key const& key) const noexcept {
    std::uint32_t const threshold = keep_threshold(density);
    return {seed, key.stream, key.cols, threshold, scale(threshold)};
  }

 private:
  [[nodiscard]] float scale(std::uint32_t threshold) const noexcept {
    if (!rescale) { return 1.0f; }
    return threshold != 0 ? static_cast<float>(1.0 / keep_probability(threshold)) : 0.0f;
  }
};
static_assert(pruning_policy<dare>);

}  // namespace prune
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
