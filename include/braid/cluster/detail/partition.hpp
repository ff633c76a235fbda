#pragma once

#include <braid/core/concepts.hpp>
#include <braid/core/error.hpp>

#include <string>
#include <string_view>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace cluster::detail {

/// What a similarity needs to know of a group.
struct group_sums {
  double total = 0.0;
  double trace = 0.0;
  double size = 0.0;
};

/// Weighted sum of row i's Gram entries with the members of group g.
BRAID_HD inline double cross(cluster_problem const& p, int const* label, int i, int g) noexcept {
  double sum = 0.0;
  for (int j = 0; j < p.count; ++j) {
    if (label[j] == g) { sum += p.weight[j] * p.gram[i * p.count + j]; }
  }
  return sum;
}

inline group_sums sums_of(cluster_problem const& p, int const* label, int g) noexcept {
  group_sums s;
  for (int i = 0; i < p.count; ++i) {
    if (label[i] != g) { continue; }
    double const w = p.weight[i];
    s.total += w * cross(p, label, i, g);
    s.trace += w * p.gram[i * p.count + i];
    s.size += w;
  }
  return s;
}

/// Score of a whole partition, group by group in the order of labels.
template <class Similarity>
double score(Similarity const& similarity, cluster_problem const& p, int const* label) {
  double sum = 0.0;
  for (int g = 0; g < p.groups; ++g) {
    group_sums const s = sums_of(p, label, g);
    if (s.size > 0.0) { sum += similarity.group_score(s.total, s.trace, s.size); }
  }
  return sum;
}

/// Renumbers labels by first appearance.
inline void canonicalise(int count, int* label) noexcept {
  int seen[max_experts];
  for (int& s : seen) { s = -1; }
  int next = 0;
  for (int i = 0; i < count; ++i) {
    int& name = seen[label[i]];
    if (name < 0) { name = next++; }
    label[i] = name;
  }
}

/// Takes a clustering's labels, which may be a user's, and numbers them by first appearance.
/// @return how many groups there are @throws argument_error for labels that no group can have
inline int checked_groups(std::string_view name, int n, int groups, int* label) {
  for (int i = 0; i < n; ++i) {
    if (label[i] < 0 || label[i] >= groups) {
      throw argument_error("cluster::" + std::string(name) + " gave the label " + std::to_string(label[i]) + " where " +
                           std::to_string(groups) + " groups were asked for: labels are 0 to " + std::to_string(groups - 1));
    }
  }
  canonicalise(n, label);
  int most = 0;
  for (int i = 0; i < n; ++i) { most = label[i] > most ? label[i] : most; }
  return most + 1;
}

}  // namespace cluster::detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
