#pragma once

#include <braid/cluster/detail/partition.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace cluster {

/// Average linkage: every row starts alone, and the two groups with the smallest mean distance between their members
/// join until the wanted number is left. Of equal distances the groups with the lower first members join.
/// Deterministic; any number of experts up to 255; cost N^3. Its partitions are nested: those into K groups refine
/// those into K - 1.
struct agglomerative {
  static constexpr std::string_view name = "agglomerative";

  template <similarity_policy Similarity>
  void partition(Similarity const& similarity, cluster_problem const& p, int* label) const {
    // linkage(a, b) = weighted sum over pairs; divided by the sizes only when compared.
    auto const pair_sum = [&](int a, int b) {
      double sum = 0.0;
      for (int i = 0; i < p.count; ++i) {
        if (label[i] != a) { continue; }
        for (int j = 0; j < p.count; ++j) {
          if (label[j] != b) { continue; }
          double const d = similarity.distance(p.gram[i * p.count + i], p.gram[i * p.count + j],
                                               p.gram[j * p.count + j], 1.0);
          sum += p.weight[i] * (p.weight[j] * d);
        }
      }
      return sum;
    };
    for (int i = 0; i < p.count; ++i) { label[i] = i; }
    for (int left = p.count; left > p.groups; --left) {
      int best_a = -1;
      int best_b = -1;
      double best = 0.0;
      for (int a = 0; a < p.count; ++a) {
        double const size_a = size_of_group(p, label, a);
        if (size_a == 0.0) { continue; }
        for (int b = a + 1; b < p.count; ++b) {
          double const size_b = size_of_group(p, label, b);
          if (size_b == 0.0) { continue; }
          double const mean = pair_sum(a, b) / (size_a * size_b);
          if (best_a < 0 || mean < best) {
            best_a = a;
            best_b = b;
            best = mean;
          }
        }
      }
      for (int i = 0; i < p.count; ++i) {
        if (label[i] == best_b) { label[i] = best_a; }
      }
    }
    detail::canonicalise(p.count, label);
  }

 private:
  static double size_of_group(cluster_problem const& p, int const* label, int g) noexcept {
    double size = 0.0;
    for (int i = 0; i < p.count; ++i) {
      if (label[i] == g) { size += p.weight[i]; }
    }
    return size;
  }
};
static_assert(clustering_policy<agglomerative>);

}  // namespace cluster
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
