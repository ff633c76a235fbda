// A pruning policy that makes no plan: the concept is named.
// expect: 'pruning_policy

#include <braid/braid.hpp>

struct half {
  static constexpr std::string_view name = "half";
  static constexpr braid::statistic measures = braid::statistic::none;
};

using merge = braid::channel_merge<braid::cpu, half, braid::similarity::cosine, braid::cluster::exact, braid::consensus::mean>;

int main() { merge m; }
