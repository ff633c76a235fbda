// No tests: recipes on the device, for gpu/recipes.cpp. In a file of its own, since it compiles every method for the device.

#include <braid/cuda.cuh>
#include <braid/engine/cuda/run_recipe.cuh>

#include "gpu/recipes.hpp"

namespace braid_test {

braid::report run_recipe_on_device(braid::recipe::run_plan const& plan, std::filesystem::path const& out,
                                   braid::recipe::run_options const& options) {
  static braid::cuda const be;
  return braid::recipe::run(plan, out, options, be);
}

}  // namespace braid_test
