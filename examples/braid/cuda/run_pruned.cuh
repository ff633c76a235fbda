#pragma once

#include "../run_pruned.hpp"

#include <braid/cuda.cuh>

namespace program {

// Each in a file of its own, which takes long to compile.
braid::report run_pruned_on_devices(braid::prune::none const& prune, merge_method const& m, merge_job const& job);
braid::report run_pruned_on_devices(braid::prune::dare const& prune, merge_method const& m, merge_job const& job);
braid::report run_pruned_on_devices(braid::prune::magnitude const& prune, merge_method const& m, merge_job const& job);
braid::report run_pruned_on_devices(braid::prune::magnitude_rows const& prune, merge_method const& m, merge_job const& job);
braid::report run_pruned_on_devices(braid::prune::magprune const& prune, merge_method const& m, merge_job const& job);

// The same with residuals.
braid::report run_residual_on_devices(braid::prune::none const& prune, merge_method const& m, merge_job const& job);
braid::report run_residual_on_devices(braid::prune::dare const& prune, merge_method const& m, merge_job const& job);
braid::report run_residual_on_devices(braid::prune::magnitude const& prune, merge_method const& m, merge_job const& job);
braid::report run_residual_on_devices(braid::prune::magnitude_rows const& prune, merge_method const& m, merge_job const& job);
braid::report run_residual_on_devices(braid::prune::magprune const& prune, merge_method const& m, merge_job const& job);

/// The device that is named first measures tensors; all of them share the blocks.
inline braid::cuda first_device(merge_job const& job) { return braid::cuda(job.options.device.devices.front()); }

}  // namespace program
