#include "run_pruned.cuh"

namespace program {

braid::report run_residual_on_devices(braid::prune::dare const& prune, merge_method const& m, merge_job const& job) {
  return run_pruned(first_device(job), m.residual, prune, m, job);
}

}  // namespace program
