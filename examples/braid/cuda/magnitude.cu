#include "run_pruned.cuh"

namespace program {

braid::report run_pruned_on_devices(braid::prune::magnitude const& prune, merge_method const& m, merge_job const& job) {
  return run_with_consensus(prune, m, job);
}

}  // namespace program
