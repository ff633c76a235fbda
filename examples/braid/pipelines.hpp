#pragma once

/// The step from names on a command line to pipelines known at compile time. What touches every element, pruning and
/// consensus, is compiled for each pair of policies; what is asked once a channel, similarity and clustering, is chosen
/// at run time, and so is the residual.

#include "method.hpp"

#include <braid/engine/run.hpp>

namespace program {

/// All that a merge reads and writes.
struct merge_job {
  braid::checkpoint base;
  std::vector<braid::checkpoint> experts;
  std::filesystem::path out;
  braid::run_options options;
  braid::cpu backend;
};

// Defined in pipelines_*.cpp, which take long to compile. The pruning is that of `m.prune`.
braid::report run_pipeline(braid::prune::none const& prune, merge_method const& m, merge_job const& job);
braid::report run_pipeline(braid::prune::dare const& prune, merge_method const& m, merge_job const& job);
braid::report run_pipeline(braid::prune::magnitude const& prune, merge_method const& m, merge_job const& job);
braid::report run_pipeline(braid::prune::magnitude_rows const& prune, merge_method const& m, merge_job const& job);
braid::report run_pipeline(braid::prune::magprune const& prune, merge_method const& m, merge_job const& job);

// Defined in pipelines_residual_*.cpp: the same with residuals.
braid::report run_residual_pipeline(braid::prune::none const& prune, merge_method const& m, merge_job const& job);
braid::report run_residual_pipeline(braid::prune::dare const& prune, merge_method const& m, merge_job const& job);
braid::report run_residual_pipeline(braid::prune::magnitude const& prune, merge_method const& m, merge_job const& job);
braid::report run_residual_pipeline(braid::prune::magnitude_rows const& prune, merge_method const& m, merge_job const& job);
braid::report run_residual_pipeline(braid::prune::magprune const& prune, merge_method const& m, merge_job const& job);

inline braid::report run_pipeline(merge_method const& m, merge_job const& job) {
  return std::visit(
      [&](auto const& prune) {
        return m.residuals ? run_residual_pipeline(prune, m, job) : run_pipeline(prune, m, job);
      },
      m.prune);
}

}  // namespace program
