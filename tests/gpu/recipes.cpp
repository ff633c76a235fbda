// Needs yaml-cpp; gpu.sh leaves it out where there is none.

#include "support/golden.hpp"
#include "support/models_on_disk.hpp"
#include "support/temp_dir.hpp"

#include "gpu/recipes.hpp"
#include "gpu/streams.hpp"

#include <braid/recipe/parse.hpp>

using namespace braid_test;
namespace recipe = braid::recipe;

namespace {

std::optional<recipe::run_plan> plan_of(nlohmann::json const& e) {
  try {
    auto r = recipe::parse_file(golden_dir() / e.at("recipe").get<std::string>());
    auto models = recipe::open_models(r, {.roots = {golden_dir()}});
    return recipe::plan(std::move(r), std::move(models), {.allow_truncated_vocabulary = true});
  } catch (braid::error const&) { return std::nullopt; }  // what is refused is refused before anything runs
}

/// The files that a run leaves, or its error.
template <class F>
std::map<std::string, std::string> outcome(std::filesystem::path const& out, F const& run) {
  try {
    (void)run();
    return contents(out);
  } catch (braid::error const& e) { return {{"error", e.what()}}; }
}

}  // namespace

TEST_CASE("every golden recipe has the CPU's bytes on the device") {
  int ran = 0;
  for (nlohmann::json const& e : golden_entries()) {
    auto const plan = plan_of(e);
    if (!plan) { continue; }
    ++ran;
    CAPTURE(e.at("name").get<std::string>());
    temp_dir dir;
    recipe::run_options options;
    auto const expected = outcome(dir.path() / "cpu", [&] { return recipe::run(*plan, dir.path() / "cpu", options, braid::cpu(2)); });
    options.device.host_threads = 4;
    options.block_rows = ran % 3;  // chosen, 1 or 2
    CHECK(outcome(dir.path() / "device", [&] { return run_recipe_on_device(*plan, dir.path() / "device", options); }) == expected);
    options.device.memory = 4 << 20;  // too little for most tensors beside four blocks
    options.overwrite = true;
    CHECK(outcome(dir.path() / "device", [&] { return run_recipe_on_device(*plan, dir.path() / "device", options); }) == expected);
    options.device.memory = 0;
    options.device.devices = shared_devices();
    CHECK(outcome(dir.path() / "device", [&] { return run_recipe_on_device(*plan, dir.path() / "device", options); }) == expected);
  }
  CHECK(ran > 150);
}
