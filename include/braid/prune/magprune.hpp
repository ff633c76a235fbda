#pragma once

#include <braid/core/concepts.hpp>
#include <braid/core/detail/philox_lanes.hpp>
#include <braid/core/philox.hpp>
#include <braid/prune/detail/check.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace prune {

/// Keeps large elements with a higher probability than small ones: in each row the keep probability rises linearly
/// with the rank of the magnitude, from density - epsilon (smallest) to density + epsilon (largest). A survivor is
/// divided by its own keep probability, so every element keeps its expected value. A row of one element has
/// probability `density`.
///
/// Random words as in `dare`, so the mask depends on seed, names and ranks alone. Cost: ranks of each row, by counting where
/// its magnitudes have few values (as deltas of bf16 weights do), else by a radix sort of two or three digits.
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
    float step;    // and its rise from rank to rank
    bool rescale;

    /// Keep probability of the element of that rank, in float32 with one rounding a step.
    [[nodiscard]] BRAID_HD constexpr float probability(std::uint32_t rank) const noexcept {
      float const p = lowest + step * static_cast<float>(rank);
      return p < 1.0f ? p : 1.0f;
    }

    BRAID_HD constexpr float operator()(float x, index_t row, index_t col) const noexcept {
      auto const element = static_cast<std::uint64_t>(row * ranks.cols + col);
      return with_word(x, philox_word(seed, stream, element), row, col);
    }

    /// The same for consecutive columns, in groups of elements that share their Philox blocks.
    BRAID_ALWAYS_INLINE void apply(float* x, int count, index_t row, index_t col) const noexcept {
      auto const first = static_cast<std::uint64_t>(row * ranks.cols + col);
      std::uint32_t const* const rank = ranks.rank + col;
      for (int begin = -static_cast<int>(first % group); begin < count; begin += group) {
        std::uint32_t word[4][16];
        auto const element = first + static_cast<std::uint64_t>(static_cast<std::int64_t>(begin));
        braid::detail::philox_elements(seed, element / 4, stream, word);
        if (begin >= 0 && count - begin >= group) {
          thin(word, rank + begin, x + begin);
          continue;
        }
        int const from = begin < 0 ? -begin : 0;
        int const to = count - begin < group ? count - begin : group;
        float part[group] = {};
        std::uint32_t part_rank[group] = {};
        for (int i = from; i < to; ++i) {
          part[i] = x[begin + i];
          part_rank[i] = rank[begin + i];
        }
        thin(word, part_rank, part);
        for (int i = from; i < to; ++i) { x[begin + i] = part[i]; }
      }
    }

    /// The same for a caller that has the element's Philox word already.
    BRAID_HD constexpr float with_word(float x, std::uint32_t word, index_t, index_t col) const noexcept {
      float const p = probability(ranks.rank[col]);
      // p has 24 bits, so p * 2^32 is exact in float and the conversion truncates nothing but its fraction.
      auto const threshold = static_cast<std::uint64_t>(p * 4294967296.0f);
      return word < threshold ? (rescale ? x / p : x) : 0.0f;
    }

   private:
    static constexpr int group = braid::detail::philox_group;

    /// `with_word` for a whole group, without a branch that depends on a random number.
    BRAID_ALWAYS_INLINE void thin(std::uint32_t const (&word)[4][16], std::uint32_t const* rank, float* x) const noexcept {
      constexpr std::uint32_t flip = 0x80000000u;  // words compare as signed numbers, which every instruction set can
      float p[group];
      BRAID_VECTORISE
      for (int i = 0; i < group; ++i) {
        float const rising = lowest + step * static_cast<float>(rank[i]);
        p[i] = rising < 1.0f ? rising : 1.0f;
      }
      // The whole part of p * 2^32 by way of signed numbers: p has 24 bits, so from 2^-8 on p * 2^31 is whole.
      std::uint32_t keep[group];
      for (int w = 0; w < 4; ++w) {
        BRAID_VECTORISE
        for (int b = 0; b < 16; ++b) {
          float const below_one = p[16 * w + b] < 1.0f ? p[16 * w + b] : 0.5f;
          bool const small = below_one < 0x1p-8f;
          auto const whole = static_cast<std::uint32_t>(static_cast<std::int32_t>(below_one * (small ? 0x1p32f : 0x1p31f)));
          std::uint32_t const threshold = small ? whole : whole + whole;
          std::uint32_t const certain = p[16 * w + b] < 1.0f ? 0u : ~0u;
          bool const below = static_cast<std::int32_t>(word[w][b] ^ flip) < static_cast<std::int32_t>(threshold ^ flip);
          keep[16 * w + b] = (below ? ~0u : 0u) | certain;
        }
      }
      if (rescale) {
        BRAID_VECTORISE
        for (int i = 0; i < group; ++i) { x[i] = x[i] / p[i]; }
      }
      BRAID_VECTORISE
      for (int i = 0; i < group; ++i) {
        x[i] = braid::detail::bits_as<float>(braid::detail::bits_as<std::uint32_t>(x[i]) & keep[i]);
      }
    }
  };

  [[nodiscard]] plan_type plan(tensor_key const& key, magnitude_ranks const& ranks) const noexcept {
    bool const single = ranks.cols < 2;
    double const low = single ? density : density - epsilon;
    double const rise = single ? 0.0 : 2.0 * epsilon / static_cast<double>(ranks.cols - 1);
    return {seed, key.stream, ranks, static_cast<float>(low), static_cast<float>(rise), rescale};
  }
};
static_assert(pruning_policy<magprune>);

}  // namespace prune
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
