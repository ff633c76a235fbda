#pragma once

#include <braid/core/concepts.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace similarity {

/// Squared error: a group scores minus the summed squared distance of its members from their mean, the objective of
/// ordinary K-Means. It favours large deltas: between experts whose deltas differ in length it tends to leave the
/// longest alone. `balanced` removes that bias.
struct euclidean {
  static constexpr std::string_view name = "euclidean";
  static constexpr gram_operand operand = gram_operand::deltas;
  static constexpr bool needs_norms = false;

  BRAID_HD void normalise(double*, int, double const*) const noexcept {}

  /// - (sum of squared lengths - squared length of the sum / size)
  [[nodiscard]] BRAID_HD double group_score(double total, double trace, double size) const noexcept {
    return -(trace - total / size);
  }

  /// Squared distance from the group's mean, never below 0.
  [[nodiscard]] BRAID_HD double distance(double self, double cross, double total, double size) const noexcept {
    double const d = self - 2.0 * cross / size + total / (size * size);
    return d > 0.0 ? d : 0.0;
  }
};
static_assert(similarity_policy<euclidean>);

}  // namespace similarity
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
