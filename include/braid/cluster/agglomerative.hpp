#pragma once

#include <braid/cluster/detail/partition.hpp>

#include <vector>

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
    // A group is called by its first member. linkage(a, b), a < b: the sum of weighted distances between their members,
    // divided by both sizes only when compared.
    int const n = p.count;
    double few[most_on_stack * most_on_stack];
    std::vector<double> many;
    if (n > most_on_stack) { many.resize(static_cast<std::size_t>(n) * static_cast<std::size_t>(n)); }
    double* const table = n > most_on_stack ? many.data() : few;
    auto const linkage = [table, n](int a, int b) -> double& { return a < b ? table[a * n + b] : table[b * n + a]; };
    double size[max_experts];  // 0: has joined another group
    for (int i = 0; i < n; ++i) {
      label[i] = i;
      size[i] = p.weight[i];
      for (int j = i + 1; j < n; ++j) {
        double const d = similarity.distance(p.gram[i * n + i], p.gram[i * n + j], p.gram[j * n + j], 1.0);
        linkage(i, j) = p.weight[i] * (p.weight[j] * d);
      }
    }
    for (int left = n; left > p.groups; --left) {
      int into = -1;
      int from = -1;
      double best = 0.0;
      for (int a = 0; a < n; ++a) {
        if (size[a] == 0.0) { continue; }
        for (int b = a + 1; b < n; ++b) {
          if (size[b] == 0.0) { continue; }
          double const mean = linkage(a, b) / (size[a] * size[b]);
          if (into < 0 || mean < best) {
            into = a;
            from = b;
            best = mean;
          }
        }
      }
      for (int c = 0; c < n; ++c) {
        if (size[c] != 0.0 && c != into && c != from) { linkage(into, c) += linkage(from, c); }
        if (label[c] == from) { label[c] = into; }
      }
      size[into] += size[from];
      size[from] = 0.0;
    }
    detail::canonicalise(n, label);
  }

 private:
  static constexpr int most_on_stack = 32;  // experts whose table needs no allocation
};
static_assert(clustering_policy<agglomerative>);

}  // namespace cluster
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
