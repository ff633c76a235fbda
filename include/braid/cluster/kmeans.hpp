#pragma once

#include <braid/cluster/detail/partition.hpp>
#include <braid/core/philox.hpp>

#include <limits>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace cluster {

/// K-Means++ in the Gram domain: centroids are never formed, since every distance to one follows from Gram entries.
/// With `similarity::cosine` this is spherical K-Means. Any number of experts up to 255. The best of `restarts` runs
/// by the similarity's own score is taken; an empty group takes the member that lies farthest from its own. Random
/// choices come from Philox, keyed by seed, tensor and channel. Cost: restarts * iterations * N^2.
///
/// Arthur & Vassilvitskii, "k-means++" (SODA 2007); the paper of Channel Merging clusters with K-Means.
struct kmeans {
  static constexpr std::string_view name = "kmeans";

  std::uint64_t seed = 0;
  int restarts = 4;
  int iterations = 100;

  template <similarity_policy Similarity>
  void partition(Similarity const& similarity, cluster_problem const& p, int* label) const {
    double best = -std::numeric_limits<double>::infinity();
    int current[max_experts];
    for (int run = 0; run < (restarts < 1 ? 1 : restarts); ++run) {
      seed_groups(similarity, p, run, current);
      for (int step = 0; step < iterations; ++step) {
        if (!reassign(similarity, p, current)) { break; }
      }
      detail::canonicalise(p.count, current);
      double const score = detail::score(similarity, p, current);
      if (run == 0 || score > best) {
        best = score;
        for (int i = 0; i < p.count; ++i) { label[i] = current[i]; }
      }
    }
  }

 private:
  [[nodiscard]] double uniform(cluster_problem const& p, int run, int draw) const noexcept {
    std::uint64_t const block = static_cast<std::uint64_t>(p.channel) * 65536u +
                                static_cast<std::uint64_t>(run) * 256u + static_cast<std::uint64_t>(draw);
    return static_cast<double>(philox4x32(seed, block, p.stream).word[0]) * 0x1p-32;
  }

  /// Seeds: the first uniform over experts, the others with probability proportional to the distance from the nearest
  /// seed. Then every row joins its nearest seed.
  template <class Similarity>
  void seed_groups(Similarity const& similarity, cluster_problem const& p, int run, int* label) const {
    double nearest[max_experts];
    bool taken[max_experts]{};
    for (int i = 0; i < p.count; ++i) { nearest[i] = 1.0; }
    for (int g = 0; g < p.groups; ++g) {
      int const chosen = draw(p, nearest, taken, uniform(p, run, g));
      taken[chosen] = true;
      double const self = p.gram[chosen * p.count + chosen];
      for (int i = 0; i < p.count; ++i) {
        double const d = i == chosen ? 0.0
                                     : similarity.distance(p.gram[i * p.count + i], p.gram[i * p.count + chosen], self, 1.0);
        if (g == 0 || i == chosen || (d < nearest[i] && !taken[i])) {
          nearest[i] = d;
          label[i] = g;
        }
      }
    }
  }

  /// A free row, with probability proportional to weight * distance; the first free one where all distances are 0.
  static int draw(cluster_problem const& p, double const* nearest, bool const* taken, double u) noexcept {
    double sum = 0.0;
    int last = -1;
    for (int i = 0; i < p.count; ++i) {
      if (!taken[i]) { sum += p.weight[i] * nearest[i]; }
    }
    double const target = u * sum;
    double reached = 0.0;
    for (int i = 0; i < p.count; ++i) {
      if (taken[i]) { continue; }
      if (last < 0 || nearest[i] > 0.0) { last = i; }
      reached += p.weight[i] * nearest[i];
      if (reached > target) { return i; }
    }
    return last;
  }

  /// One Lloyd step. @return whether a label changed
  template <class Similarity>
  static bool reassign(Similarity const& similarity, cluster_problem const& p, int* label) {
    detail::group_sums group[max_experts];
    for (int g = 0; g < p.groups; ++g) { group[g] = detail::sums_of(p, label, g); }
    int next[max_experts];
    double distance[max_experts];
    double size[max_experts]{};
    bool changed = false;
    for (int i = 0; i < p.count; ++i) {
      next[i] = label[i];
      distance[i] = std::numeric_limits<double>::infinity();
      double cross[max_experts]{};  // with each group
      for (int j = 0; j < p.count; ++j) { cross[label[j]] += p.weight[j] * p.gram[i * p.count + j]; }
      for (int g = 0; g < p.groups; ++g) {
        double const d = similarity.distance(p.gram[i * p.count + i], cross[g], group[g].total, group[g].size);
        if (d < distance[i]) {
          distance[i] = d;
          next[i] = g;
        }
      }
      size[next[i]] += 1.0;
      changed = changed || next[i] != label[i];
    }
    for (int g = 0; g < p.groups; ++g) {
      if (size[g] > 0.0) { continue; }
      int farthest = -1;
      for (int i = 0; i < p.count; ++i) {
        if (size[next[i]] > 1.0 && (farthest < 0 || distance[i] > distance[farthest])) { farthest = i; }
      }
      size[next[farthest]] -= 1.0;
      next[farthest] = g;
      size[g] = 1.0;
      distance[farthest] = 0.0;
    }
    for (int i = 0; i < p.count; ++i) { label[i] = next[i]; }
    return changed;
  }
};
static_assert(clustering_policy<kmeans>);

}  // namespace cluster
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
