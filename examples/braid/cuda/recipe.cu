#include "../device_recipes.hpp"

#include <braid/cuda.cuh>
#include <braid/engine/cuda/run_recipe.cuh>

namespace program {

braid::report run_recipe_on_devices(braid::recipe::run_plan const& plan, std::string const& out, braid::recipe::run_options const& options) {
  return braid::recipe::run(plan, out, options, braid::cuda(options.device.devices.front()));
}

}  // namespace program
