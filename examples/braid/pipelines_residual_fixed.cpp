/// Pipelines with residuals whose pruning makes no random choice.

#include "run_pruned.hpp"

namespace program {

braid::report run_residual_pipeline(braid::prune::none const& prune, merge_method const& m, merge_job const& job) {
  return run_pruned(job.backend, m.residual, prune, m, job);
}

braid::report run_residual_pipeline(braid::prune::magnitude const& prune, merge_method const& m, merge_job const& job) {
  return run_pruned(job.backend, m.residual, prune, m, job);
}

braid::report run_residual_pipeline(braid::prune::magnitude_rows const& prune, merge_method const& m, merge_job const& job) {
  return run_pruned(job.backend, m.residual, prune, m, job);
}

}  // namespace program
