#pragma once

#include <braid/core/concepts.hpp>
#include <braid/prune/detail/check.hpp>

BRAID_NAMESPACE_BEGIN
namespace prune {

/// Drops the floor(gamma * n) elements of largest magnitude (outliers) and, from below, as many as it takes to keep
/// floor(density * n), unchanged: Model Breadcrumbs. Elements count in the order of rising magnitude, of equal ones the lower
/// index first; those at positions [first, last) survive. Where density + gamma > 1, fewer outliers are dropped.
///
/// Over the whole tensor, which costs up to three measuring passes (radix selection of both cuts, no sort). Deterministic.
///
/// Davari and Belilovsky, "Model Breadcrumbs" (ECCV 2024, arXiv 2312.06795), section 3, where masks are per layer. Versions of
/// mergekit before 0.1.5 dropped everything where floor(gamma * n) is 0; braid drops no outlier then.
struct outliers {
  static constexpr std::string_view name = "outliers";
  static constexpr statistic measures = statistic::tensor_band;

  double density = 0.9;
  double gamma = 0.01;

  void validate() const {
    detail::check_density(name, density);
    if (!(gamma >= 0.0 && gamma <= 1.0)) {
      throw argument_error("prune::outliers: gamma is " + std::to_string(gamma) +
                           ", but it is the fraction of elements dropped from above: choose a number from 0 to 1");
    }
  }

  /// Positions that survive, of `elements` in the order of rising magnitude.
  [[nodiscard]] band_positions keep_band(index_t elements) const noexcept {
    auto const kept = static_cast<index_t>(density * static_cast<double>(elements));
    auto top = static_cast<index_t>(gamma * static_cast<double>(elements));
    index_t bottom = elements - kept - top;
    if (bottom < 0) {
      top += bottom;
      bottom = 0;
    }
    return {bottom, elements - top};
  }

  struct plan_type {
    magnitude_band band;
    index_t cols;

    BRAID_HD constexpr float operator()(float x, index_t row, index_t col) const noexcept {
      return band.keeps(x, row * cols + col) ? x : 0.0f;
    }
  };

  [[nodiscard]] plan_type plan(tensor_key const& key, magnitude_band const& band) const noexcept { return {band, key.cols}; }
};
static_assert(pruning_policy<outliers>);

}  // namespace prune
BRAID_NAMESPACE_END
