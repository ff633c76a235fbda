#pragma once

#include <braid/engine/run_recipe.hpp>

namespace braid_test {

/// `recipe::run` on braid::cuda.
braid::report run_recipe_on_device(braid::recipe::run_plan const& plan, std::filesystem::path const& out,
                                   braid::recipe::run_options const& options);

}  // namespace braid_test
