#pragma once

/// A policy of each kind, as a user would write it. docs/policies.md shows the blocks between the markers; the test
/// tests/programs/docs_policies.sh compares them letter by letter.

#include <braid/core/concepts.hpp>

namespace own {

// example-begin
/// Keeps the elements that moved by at least `least`.
struct threshold {
  static constexpr std::string_view name = "threshold";
  static constexpr braid::statistic measures = braid::statistic::none;
  float least = 0.001f;

  struct plan_type {
    float least;
    BRAID_HD float operator()(float x, braid::index_t, braid::index_t) const noexcept {
      return x >= least || x <= -least ? x : 0.0f;
    }
  };
  plan_type plan(braid::tensor_key const&) const noexcept { return {least}; }
};
static_assert(braid::pruning_policy<threshold>);
// example-end

// example-begin
/// Rewards groups whose sum is long for their number, in raw lengths: long deltas that point the same way.
struct shared_length {
  static constexpr std::string_view name = "shared_length";
  static constexpr braid::gram_operand operand = braid::gram_operand::deltas;
  static constexpr bool needs_norms = false;

  void normalise(double*, int, double const*) const noexcept {}
  double group_score(double total, double /*trace*/, double size) const noexcept { return total / size; }
  double distance(double self, double cross, double /*total*/, double size) const noexcept {
    return self - cross / size;
  }
};
static_assert(braid::similarity_policy<shared_length>);
// example-end

// example-begin
/// The first K rows lead a group each; every other row joins the leader that is nearest to it.
struct leaders {
  static constexpr std::string_view name = "leaders";

  template <braid::similarity_policy Similarity>
  void partition(Similarity const& similarity, braid::cluster_problem const& p, int* label) const {
    auto const gram = [&p](int i, int j) { return p.gram[i * p.count + j]; };
    auto const far = [&](int i, int g) { return similarity.distance(gram(i, i), gram(i, g), gram(g, g), 1.0); };
    for (int i = 0; i < p.count; ++i) {
      label[i] = i < p.groups ? i : 0;
      for (int g = 1; i >= p.groups && g < p.groups; ++g) { label[i] = far(i, g) < far(i, label[i]) ? g : label[i]; }
    }
  }
};
static_assert(braid::clustering_policy<leaders>);
// example-end

// example-begin
/// In every element the member that moved farthest wins.
struct strongest {
  static constexpr std::string_view name = "strongest";

  BRAID_HD float operator()(float const* member, int n) const noexcept {
    float best = 0.0f;
    for (int i = 0; i < n; ++i) {
      float const x = member[i];
      if ((x < 0.0f ? -x : x) > (best < 0.0f ? -best : best)) { best = x; }
    }
    return best;
  }
};
static_assert(braid::consensus_policy<strongest>);
// example-end

}  // namespace own
