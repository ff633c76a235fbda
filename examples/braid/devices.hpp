#pragma once

/// `--backend cuda`: merges on GPUs, where the program was built with them (-DBRAID_CUDA=ON).

#include "arguments.hpp"
#include "pipelines.hpp"

namespace program {

/// Understands `--backend`, `--devices` and `--device-memory`.
/// @return whether GPUs are asked for
/// @throws braid::argument_error  for an unknown name, and where this program has no GPU code
[[nodiscard]] bool choose_devices(backend_arguments const& args, braid::device_options& options);

/// `run_pipeline` on the devices of `job.options`.
braid::report run_on_devices(merge_method const& m, merge_job const& job);

}  // namespace program
