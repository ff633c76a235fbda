#include "run_pruned.cuh"

namespace program {

braid::report run_pruned_on_devices(braid::prune::none const& prune, merge_method const& m, merge_job const& job) {
  return run_pruned(first_device(job), braid::residual::none{}, prune, m, job);
}

braid::report run_on_devices(merge_method const& m, merge_job const& job) {
  return std::visit(
      [&](auto const& prune) { return m.residuals ? run_residual_on_devices(prune, m, job) : run_pruned_on_devices(prune, m, job); },
      m.prune);
}

}  // namespace program
