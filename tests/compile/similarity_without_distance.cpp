// A similarity that can score groups but gives no distance: the missing expression is named.
// expect: s.distance(x, x, x, x)

#include <braid/braid.hpp>

struct scores_only {
  static constexpr std::string_view name = "scores_only";
  static constexpr braid::gram_operand operand = braid::gram_operand::deltas;
  static constexpr bool needs_norms = false;
  void normalise(double*, int, double const*) const {}
  double group_score(double total, double, double) const { return total; }
};

using merge = braid::channel_merge<braid::cpu, braid::prune::none, scores_only, braid::cluster::exact, braid::consensus::mean>;

int main() { merge m; }
