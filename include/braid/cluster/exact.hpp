#pragma once

#include <braid/cluster/detail/partition.hpp>
#include <braid/core/error.hpp>

#include <string>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace cluster {

/// Tries every partition of the experts into exactly the wanted number of groups and takes the best; of equal scores
/// the one whose labels come first lexicographically. Deterministic, no seeds, nothing to tune. For up to 10 experts:
/// each set of experts is scored once (2^N), then each partition costs one addition a group. The number of
/// partitions of 4 into 2 is 7, of 8 into 4 is 1701, of 10 into 5 is 42525.
struct exact {
  static constexpr std::string_view name = "exact";
  static constexpr int most_experts = 10;

  static void check_experts(int experts) {
    if (experts > most_experts) {
      throw argument_error("cluster::exact tries every partition, which is meant for up to 10 experts, but there are " +
                           std::to_string(experts) + ": use cluster::kmeans or cluster::agglomerative");
    }
  }

  template <similarity_policy Similarity>
  void partition(Similarity const& similarity, cluster_problem const& p, int* label) const {
    search<Similarity> s(similarity, p);
    s.score_sets();
    s.place(0, 0);
    for (int i = 0; i < p.count; ++i) { label[i] = s.best[i]; }
  }

 private:
  template <class Similarity>
  struct search {
    search(Similarity const& s, cluster_problem const& problem) : similarity(s), p(problem) {}

    Similarity const& similarity;
    cluster_problem const& p;
    double set_score[1 << most_experts];
    unsigned member[most_experts];  // the set of each group so far
    int current[most_experts];
    int best[most_experts];
    double best_score = 0.0;
    bool found = false;

    /// The score of every set of experts, from the score sums of the set without its lowest member.
    void score_sets() {
      double total[1 << most_experts];
      double trace[1 << most_experts];
      double size[1 << most_experts];
      total[0] = trace[0] = size[0] = 0.0;
      unsigned const sets = 1u << p.count;
      for (unsigned set = 1; set < sets; ++set) {
        int const low = __builtin_ctz(set);
        unsigned const rest = set & (set - 1);
        double const w = p.weight[low];
        double cross = 0.0;
        for (unsigned left = rest; left != 0; left &= left - 1) {
          int const j = __builtin_ctz(left);
          cross += p.weight[j] * p.gram[low * p.count + j];
        }
        double const self = p.gram[low * p.count + low];
        total[set] = total[rest] + w * (2.0 * cross + w * self);
        trace[set] = trace[rest] + w * self;
        size[set] = size[rest] + w;
        set_score[set] = similarity.group_score(total[set], trace[set], size[set]);
      }
    }

    /// Puts expert i into every group it may join, in the order of labels.
    void place(int i, int used) {
      if (i == p.count) {
        double sum = 0.0;
        for (int g = 0; g < p.groups; ++g) { sum += set_score[member[g]]; }
        if (!found || sum > best_score) {
          found = true;
          best_score = sum;
          for (int e = 0; e < p.count; ++e) { best[e] = current[e]; }
        }
        return;
      }
      // Leave enough experts to open the groups that are still missing.
      bool const must_open = p.count - i == p.groups - used;
      if (!must_open) {
        for (int g = 0; g < used; ++g) {
          member[g] |= 1u << i;
          current[i] = g;
          place(i + 1, used);
          member[g] &= ~(1u << i);
        }
      }
      if (used < p.groups) {
        member[used] = 1u << i;
        current[i] = used;
        place(i + 1, used + 1);
      }
    }
  };
};
static_assert(clustering_policy<exact>);

}  // namespace cluster
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
