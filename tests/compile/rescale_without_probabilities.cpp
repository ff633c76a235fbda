// Trimming has no probabilities to rescale by.
// expect: braid: rescale::inverse_keep needs a pruning that keeps elements with a probability, as prune::dare does

#include <braid/braid.hpp>

using merge = braid::task_arithmetic<braid::cpu, braid::prune::magnitude, braid::consensus::weighted_ties, braid::rescale::inverse_keep>;

int main() { return static_cast<int>(merge{}.info().parameters.size()); }
