#pragma once

#include <braid/core/concepts.hpp>
#include <braid/prune/detail/check.hpp>

BRAID_NAMESPACE_BEGIN
namespace prune {

/// Keeps the floor(density * n) elements of largest magnitude, unchanged: the trim step of TIES. Exactly that many
/// survive: of equal magnitudes the lower index does. Deterministic; no random choice.
///
/// `magnitude` ranks over the whole tensor (as mergekit does, and the paper's authors for large models), which costs
/// up to three measuring passes (radix select, no sort); `magnitude_rows` ranks inside each output channel, in the
/// same pass as the merge.
///
/// Yadav et al., "TIES-Merging" (NeurIPS 2023, arXiv 2306.01708), section 4.
template <statistic Scope>
  requires(Scope == statistic::tensor_cut || Scope == statistic::row_cut)
struct basic_magnitude {
  static constexpr std::string_view name = Scope == statistic::tensor_cut ? "magnitude" : "magnitude_rows";
  static constexpr statistic measures = Scope;

  double density = 0.7;
  bool at_least_one = false;  ///< keeps one element where the density would keep none, as mergekit does

  void validate() const { detail::check_density(name, density); }

  /// How many of `elements` survive.
  [[nodiscard]] index_t keep_count(index_t elements) const noexcept {
    auto const kept = static_cast<index_t>(density * static_cast<double>(elements));
    return at_least_one && kept == 0 && elements > 0 ? 1 : kept;
  }

  struct plan_type {
    magnitude_cut cut;
    index_t cols;  // 0 for a cut per row

    BRAID_HD constexpr float operator()(float x, index_t row, index_t col) const noexcept {
      return cut.keeps(x, row * cols + col) ? x : 0.0f;
    }
  };

  [[nodiscard]] plan_type plan(tensor_key const& key, magnitude_cut const& cut) const noexcept {
    return {cut, Scope == statistic::tensor_cut ? key.cols : 0};
  }
};

using magnitude = basic_magnitude<statistic::tensor_cut>;
using magnitude_rows = basic_magnitude<statistic::row_cut>;

static_assert(pruning_policy<magnitude> && pruning_policy<magnitude_rows>);

}  // namespace prune
BRAID_NAMESPACE_END
