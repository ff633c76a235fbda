#pragma once

#include <braid/core/concepts.hpp>
#include <braid/core/detail/philox_lanes.hpp>
#include <braid/core/philox.hpp>
#include <braid/prune/detail/check.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace prune {

/// Keeps large elements with a higher probability than small ones: in each row the keep probability rises linearly
/// with the rank of the magnitude, from density - epsilon (smallest) to density + epsilon (largest). Equal magnitudes share the
/// mean of their ranks, which leaves the mean density as it is. A survivor is divided by its own keep probability (to the nearest
/// 1/65536, at least that), so every element keeps its expected value. A row of one element has probability `density`.
///
/// Random numbers as in `dare`, so the mask depends on seed, names and magnitudes alone. Cost: ranks of each row, by counting
/// where its magnitudes have few values (as deltas of bf16 weights do), else by a radix sort of two or three digits.
///
/// Deep et al., "DELLA-Merging" (arXiv 2406.11617), section 3.1 (MAGPRUNE); `epsilon` is half of the authors'
/// `window_size`.
struct magprune {
  static constexpr std::string_view name = "magprune";
  static constexpr statistic measures = statistic::row_ranks;

  double density = 0.7;
  double epsilon = 0.15;
  std::uint64_t seed = 0;
  bool rescale = true;  ///< false: what is kept stays as it is

  void validate() const {
    detail::check_density(name, density);
    if (!(epsilon >= 0.0 && density - epsilon > 0.0 && density + epsilon <= 1.0)) {
      throw argument_error("prune::magprune: keep probabilities would run from " + std::to_string(density - epsilon) +
                           " to " + std::to_string(density + epsilon) +
                           ": choose density and epsilon so that density - epsilon > 0 and density + epsilon <= 1");
    }
  }

  struct plan_type {
    std::uint64_t seed;
    std::uint64_t stream;
    magnitude_ranks ranks;
    float lowest;  // keep probability of rank 0
    float step;    // and its rise in half a rank
    bool rescale;

    /// Below how much an element is kept, of 65536, from twice its rank: in float32 with one rounding a step.
    [[nodiscard]] BRAID_HD constexpr std::uint32_t threshold(std::uint32_t twice) const noexcept {
      float const p = lowest + step * static_cast<float>(static_cast<std::int32_t>(twice));
      auto const nearest = static_cast<std::int32_t>((p < 1.0f ? p : 1.0f) * 65536.0f + 0.5f);
      return static_cast<std::uint32_t>(nearest > 1 ? nearest : 1);
    }

    /// Keep probability of an element from twice its rank, exact.
    [[nodiscard]] BRAID_HD constexpr float probability(std::uint32_t twice) const noexcept {
      return static_cast<float>(static_cast<std::int32_t>(threshold(twice))) * 0x1p-16f;
    }

    /// What a kept element becomes.
    [[nodiscard]] BRAID_HD constexpr float survivor(float x, std::uint32_t twice) const noexcept {
      return rescale ? x / probability(twice) : x;
    }

    BRAID_HD constexpr float operator()(float x, index_t row, index_t col) const noexcept {
      auto const element = static_cast<std::uint64_t>(row * ranks.cols + col);
      return with_word(x, philox_element(seed, stream, element) << 16, row, col);
    }

    /// The same for consecutive columns, in groups of elements that share their Philox blocks.
    BRAID_ALWAYS_INLINE void apply(float* x, int count, index_t row, index_t col) const noexcept {
      auto const first = static_cast<std::uint64_t>(row * ranks.cols + col);
      std::uint32_t const* const twice = ranks.twice + col;
      for (int begin = -static_cast<int>(first % group); begin < count; begin += group) {
        std::uint32_t word[4][16];
        auto const element = first + static_cast<std::uint64_t>(static_cast<std::int64_t>(begin));
        braid::detail::philox_elements(seed, element / 8, stream, word);
        if (begin >= 0 && count - begin >= group) {
          thin(word, twice + begin, x + begin);
          continue;
        }
        int const from = begin < 0 ? -begin : 0;
        int const to = count - begin < group ? count - begin : group;
        float part[group] = {};
        std::uint32_t part_twice[group] = {};
        for (int i = from; i < to; ++i) {
          part[i] = x[begin + i];
          part_twice[i] = twice[begin + i];
        }
        thin(word, part_twice, part);
        for (int i = from; i < to; ++i) { x[begin + i] = part[i]; }
      }
    }

    /// The same for a caller that has the element's random bits already: the upper 16 of `word`. The lower ones don't matter.
    BRAID_HD constexpr float with_word(float x, std::uint32_t word, index_t, index_t col) const noexcept {
      std::uint32_t const twice = ranks.twice[col];
      return word >> 16 < threshold(twice) ? survivor(x, twice) : 0.0f;
    }

   private:
    static constexpr int group = braid::detail::philox_group;

    /// `with_word` for a whole group, without a branch that depends on a random number.
    BRAID_ALWAYS_INLINE void thin(std::uint32_t const (&word)[4][16], std::uint32_t const* twice, float* x) const noexcept {
      // What a survivor is divided by is unit * its number of 65536, or 1; a division that depends on a condition is none of SIMD.
      float const unit = rescale ? 0x1p-16f : 0.0f;
      float const rest = rescale ? 0.0f : 1.0f;
      for (int j = 0; j < group / 16; ++j) {
        std::uint32_t upper[16];
        braid::detail::philox_upper(word, j, upper);
        std::uint32_t const* const of = twice + 16 * j;
        float* const to = x + 16 * j;
        BRAID_VECTORISE
        for (int b = 0; b < 16; ++b) {
          float const rising = lowest + step * static_cast<float>(static_cast<std::int32_t>(of[b]));
          auto const nearest = static_cast<std::int32_t>(rising * 65536.0f + 0.5f);
          std::int32_t const least = nearest > 1 ? nearest : 1;
          std::int32_t const below = least < 65536 ? least : 65536;
          float const kept = to[b] / (static_cast<float>(below) * unit + rest);
          std::uint32_t const keep = 0u - static_cast<std::uint32_t>(static_cast<std::int32_t>(upper[b] >> 16) < below);
          to[b] = braid::detail::bits_as<float>(braid::detail::bits_as<std::uint32_t>(kept) & keep);
        }
      }
    }
  };

  [[nodiscard]] plan_type plan(tensor_key const& key, magnitude_ranks const& ranks) const noexcept {
    bool const single = ranks.cols < 2;
    double const low = single ? density : density - epsilon;
    double const rise = single ? 0.0 : epsilon / static_cast<double>(ranks.cols - 1);
    return {seed, key.stream, ranks, static_cast<float>(low), static_cast<float>(rise), rescale};
  }
};
static_assert(pruning_policy<magprune>);

}  // namespace prune
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
