#include "devices.hpp"

#include "device_recipes.hpp"
#include "text.hpp"

namespace program {

bool choose_devices(backend_arguments const& args, braid::device_options& options) {
  if (args.name != "cpu" && args.name != "cuda") {
    throw braid::argument_error("--backend " + args.name + ": there is no such backend; choose cpu or cuda");
  }
  if (args.name == "cpu") {
    if (!args.devices.empty()) { throw braid::argument_error("--devices: only with --backend cuda"); }
    return false;
  }
#ifndef BRAID_PROGRAM_CUDA
  throw braid::argument_error("--backend cuda: this program was built without it; configure with -DBRAID_CUDA=ON, or use --backend cpu");
#endif
  options.devices = args.devices;
  if (options.devices.empty()) { options.devices.push_back(0); }
  options.memory = parse_memory_size("--device-memory", args.memory);
  options.host_threads = args.threads;
  return true;
}

#ifndef BRAID_PROGRAM_CUDA
braid::report run_recipe_on_devices(braid::recipe::run_plan const&, std::string const&, braid::recipe::run_options const&) {
  throw braid::argument_error("this program was built without GPU code");
}

braid::report run_on_devices(merge_method const&, merge_job const&) {
  throw braid::argument_error("this program was built without GPU code");
}
#endif

}  // namespace program
