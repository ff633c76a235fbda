#pragma once

#include <braid/core/concepts.hpp>

#include <cmath>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace similarity {

/// Direction alone. Each delta counts as its unit vector; a zero delta counts as the zero vector, so it adds nothing
/// wherever it goes. A group scores the length of the sum of its members' unit vectors: the objective of spherical
/// K-Means (Dhillon & Modha, Machine Learning 42, 2001).
struct cosine {
  static constexpr std::string_view name = "cosine";
  static constexpr gram_operand operand = gram_operand::deltas;
  static constexpr bool needs_norms = false;

  BRAID_HD void normalise(double* gram, int n, double const* /*norms*/) const noexcept {
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < i; ++j) {
        double const lengths = std::sqrt(gram[i * n + i]) * std::sqrt(gram[j * n + j]);
        double const value = lengths > 0.0 ? gram[i * n + j] / lengths : 0.0;
        gram[i * n + j] = value;
        gram[j * n + i] = value;
      }
    }
    for (int i = 0; i < n; ++i) { gram[i * n + i] = gram[i * n + i] > 0.0 ? 1.0 : 0.0; }
  }

  /// Length of the sum of the members' unit vectors.
  [[nodiscard]] BRAID_HD double group_score(double total, double /*trace*/, double /*size*/) const noexcept {
    return total > 0.0 ? std::sqrt(total) : 0.0;
  }

  /// 1 - cosine between the member and the group's centroid, from 0 to 2; 1 where either is zero.
  [[nodiscard]] BRAID_HD double distance(double /*self*/, double cross, double total, double /*size*/) const noexcept {
    return total > 0.0 ? 1.0 - cross / std::sqrt(total) : 1.0;
  }
};
static_assert(similarity_policy<cosine>);

}  // namespace similarity
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
