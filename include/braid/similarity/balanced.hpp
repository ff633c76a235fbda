#pragma once

#include <braid/similarity/euclidean.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace similarity {

/// Squared error of deltas that were divided by the length of their expert's delta over the whole tensor, so that
/// each expert counts the same however far it was trained, while its important channels still count more than its
/// idle ones. Costs one measuring pass more. An expert whose delta is zero everywhere stays zero.
struct balanced : euclidean {
  static constexpr std::string_view name = "balanced";
  static constexpr bool needs_norms = true;

  BRAID_HD void normalise(double* gram, int n, double const* norms) const noexcept {
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        double const scale = norms[i] * norms[j];
        gram[i * n + j] = scale > 0.0 ? gram[i * n + j] / scale : 0.0;
      }
    }
  }
};
static_assert(similarity_policy<balanced>);

}  // namespace similarity
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
