#pragma once

#include <braid/cluster/detail/partition.hpp>

#include <cmath>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace cluster::detail {

/// How well distinct row i agrees with its group: the cosine between it and the sum of the group's members, in the space of
/// the (normalised) Gram matrix; in fixed point (2^32 is 1), so that sums of it don't depend on their order, and counted for
/// each expert that has the row.
[[nodiscard]] BRAID_HD inline std::int64_t row_agreement(cluster_problem const& p, int const* label, int i) noexcept {
  double total = 0.0;
  for (int j = 0; j < p.count; ++j) {
    if (label[j] == label[i]) { total += p.weight[j] * cross(p, label, j, label[i]); }
  }
  double const self = p.gram[i * p.count + i];
  double const lengths = std::sqrt(self > 0.0 ? self : 0.0) * std::sqrt(total > 0.0 ? total : 0.0);
  double const cosine = lengths > 0.0 ? cross(p, label, i, label[i]) / lengths : 1.0;
  return p.weight[i] * static_cast<std::int64_t>(std::llround(cosine * 0x1p32));
}

}  // namespace cluster::detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
