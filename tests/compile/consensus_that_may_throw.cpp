// A policy of the user's own whose operator() isn't noexcept.
// expect: 'consensus_policy

#include <braid/consensus/sum.hpp>

struct median {
  static constexpr std::string_view name = "median";
  float operator()(float const* member, int n) const { return member[n / 2]; }
};

template <braid::consensus_policy Consensus>
void merge_with(Consensus) {}

int main() { merge_with(median{}); }
