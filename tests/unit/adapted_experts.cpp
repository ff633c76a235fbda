#include "support/golden.hpp"
#include "support/temp_dir.hpp"
#include "unit/io_support.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/engine/run.hpp>
#include <braid/io/grouped_checkpoint.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/none.hpp>
#include <braid/similarity/cosine.hpp>

#include <cstring>

using namespace braid_test;

namespace {

using merge = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact, braid::consensus::mean>;

std::vector<float> floats(braid::checkpoint const& c, std::string const& tensor) {
  auto const bytes = c.bytes(c.at(tensor));
  std::vector<float> x(bytes.size() / 4);
  std::memcpy(x.data(), bytes.data(), bytes.size());
  return x;
}

}  // namespace

TEST_CASE("experts with adapters are merged, and come back, as if the adapters had been merged before", "[run][adapter][golden]") {
  temp_dir const dir;
  auto const models = golden_dir() / "models";
  braid::checkpoint const base(models / "base");
  braid::recipe::adapter const lora(models / "lora");
  braid::recipe::adapter const other(models / "lora-rs");
  std::vector<braid::checkpoint> const experts{{models / "base", "one"}, {models / "base", "two"}};
  braid::run_options options;
  options.adapters.emplace("one", lora);
  options.adapters.emplace("two", other);
  merge const lossless{{.groups = 2}};
  braid::run(lossless, base, experts, dir.path() / "merged", options, braid::cpu{2});
  braid::grouped_checkpoint const merged(dir.path() / "merged");
  int changed = 0;
  for (auto const& [name, adapter] : options.adapters) {
    merged.extract(name, dir.path() / name);
    braid::checkpoint const again(dir.path() / name);
    for (auto const& t : base.tensors()) {
      INFO(name << ", " << t.name);
      std::vector<float> expected = floats(base, t.name);
      if (auto const* const d = adapter.find(t.name)) {
        std::vector<float> delta(expected.size());
        adapter.rows(*d, 0, d->rows, delta.data());
        for (std::size_t i = 0; i < delta.size(); ++i) { expected[i] = expected[i] + delta[i]; }
        ++changed;
      }
      CHECK(floats(again, t.name) == expected);
    }
  }
  CHECK(changed == 8);
}

TEST_CASE("adapters of nobody, of another model, or of kept tensors are refused", "[run][adapter][golden]") {
  temp_dir const dir;
  auto const models = golden_dir() / "models";
  braid::checkpoint const base(models / "base");
  std::vector<braid::checkpoint> const experts{{models / "base", "one"}, {models / "a", "two"}};
  braid::recipe::adapter const lora(models / "lora");
  auto const refused = [&](std::string const& name, braid::selection tensors) {
    braid::run_options options;
    options.adapters.emplace(name, lora);
    options.tensors = std::move(tensors);
    auto const message = message_of([&] { braid::run(merge{{.groups = 1}}, base, experts, dir.path() / "out", options, braid::cpu{1}); });
    CHECK_FALSE(std::filesystem::exists(dir.path() / "out"));
    return message;
  };
  CHECK(refused("three", {}).find("the adapter is of 'three', which is no expert") != std::string::npos);
  CHECK(refused("one", braid::selection({{braid::glob("*.q_proj.weight"), braid::action::keep}})).find("which isn't merged row by row") != std::string::npos);
  std::vector<braid::checkpoint> const strange{{models / "edge-a", "one"}};
  braid::run_options options;
  options.adapters.emplace("one", lora);
  CHECK(message_of([&] { braid::run(merge{{.groups = 1}}, braid::checkpoint(models / "edge-base"), strange, dir.path() / "out", options); })
            .find("which isn't the shape of that tensor") != std::string::npos);
}
