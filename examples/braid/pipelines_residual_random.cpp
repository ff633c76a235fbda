/// Pipelines with residuals that prune at random.

#include "run_pruned.hpp"

namespace program {

braid::report run_residual_pipeline(braid::prune::dare const& prune, merge_method const& m, merge_job const& job) {
  return run_pruned(job.backend, m.residual, prune, m, job);
}

braid::report run_residual_pipeline(braid::prune::magprune const& prune, merge_method const& m, merge_job const& job) {
  return run_pruned(job.backend, m.residual, prune, m, job);
}

}  // namespace program
