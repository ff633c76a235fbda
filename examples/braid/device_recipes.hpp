#pragma once

#include <braid/engine/run_recipe.hpp>

#include <string>

namespace program {

/// `recipe::run` on the device of `options`; see devices.hpp.
braid::report run_recipe_on_devices(braid::recipe::run_plan const& plan, std::string const& out, braid::recipe::run_options const& options);

}  // namespace program
