#pragma once

/// The step from names on a command line to pipelines known at compile time. What touches every element, pruning and
/// consensus, is compiled for each pair of policies; what is asked once a channel, similarity and clustering, is chosen
/// at run time.

#include <braid/cluster/any.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/consensus/sum.hpp>
#include <braid/consensus/ties.hpp>
#include <braid/engine/run.hpp>
#include <braid/prune/dare.hpp>
#include <braid/prune/magnitude.hpp>
#include <braid/prune/magprune.hpp>
#include <braid/prune/none.hpp>
#include <braid/similarity/any.hpp>

#include <variant>

namespace program {

using any_prune = std::variant<braid::prune::none, braid::prune::dare, braid::prune::magnitude,
                               braid::prune::magnitude_rows, braid::prune::magprune>;
using any_consensus =
    std::variant<braid::consensus::mean, braid::consensus::sum, braid::consensus::ties, braid::consensus::ties_sum>;

/// A channel merge whose policies were chosen at run time.
struct merge_method {
  any_prune prune;
  braid::similarity::any similarity;
  braid::cluster::any cluster;
  any_consensus consensus;
  int groups = 2;
  float lambda = 1.0f;
  bool allow_nonfinite = false;
};

/// All that a merge reads and writes.
struct merge_job {
  braid::checkpoint base;
  std::vector<braid::checkpoint> experts;
  std::filesystem::path out;
  braid::run_options options;
  braid::cpu backend;
};

// Defined in pipeline_*.cpp, since each takes a while to compile. The pruning is that of `m.prune`.
braid::report run_pipeline(braid::prune::none const& prune, merge_method const& m, merge_job const& job);
braid::report run_pipeline(braid::prune::dare const& prune, merge_method const& m, merge_job const& job);
braid::report run_pipeline(braid::prune::magnitude const& prune, merge_method const& m, merge_job const& job);
braid::report run_pipeline(braid::prune::magnitude_rows const& prune, merge_method const& m, merge_job const& job);
braid::report run_pipeline(braid::prune::magprune const& prune, merge_method const& m, merge_job const& job);

inline braid::report run_pipeline(merge_method const& m, merge_job const& job) {
  return std::visit([&](auto const& prune) { return run_pipeline(prune, m, job); }, m.prune);
}

}  // namespace program
