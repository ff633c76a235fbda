#include "support/catch.hpp"
#include "support/models_on_disk.hpp"
#include "support/temp_dir.hpp"

#include "gpu/streams.hpp"

using namespace braid_test;

namespace {

struct opened_models {
  temp_dir dir;
  braid::checkpoint base;
  std::vector<braid::checkpoint> experts;

  explicit opened_models(disk_family const& d) : base(written(d, dir.path()) / "base") {
    for (auto const& name : d.names) { experts.emplace_back(dir.path() / name, name); }
  }
  static std::filesystem::path const& written(disk_family const& d, std::filesystem::path const& at) {
    d.write(at);
    return at;
  }

  [[nodiscard]] std::map<std::string, std::string> on_cpu(stream_case const& c) const {
    (void)with_stream_method<braid::cpu>(
        c, [&](auto const& method) { return braid::run(method, base, experts, dir.path() / "cpu", options_of(c)); });
    return contents(dir.path() / "cpu");
  }
  [[nodiscard]] std::map<std::string, std::string> on_device(stream_case const& c) const {
    (void)run_on_device(c, base, experts, dir.path() / "device");
    return contents(dir.path() / "device");
  }
};

constexpr stream_pipeline all_streams[] = {stream_pipeline::plain, stream_pipeline::dare, stream_pipeline::ties, stream_pipeline::ranks,
                                           stream_pipeline::signs};

}  // namespace

TEST_CASE("checkpoints merged on the device have the CPU's bytes, whatever the blocks", "[short]") {
  random_source random(501);
  for (stream_pipeline const pipeline : all_streams) {
    for (int round = 0; round < 6; ++round) {
      opened_models const models(random_disk_family(random, random.between(1, 5), {dtype::bf16, dtype::f16, dtype::f32}));
      stream_case c;
      c.pipeline = pipeline;
      c.groups = random.between(1, 4);
      if (round % 3 == 1) { c.cluster = braid::cluster::random{.seed = random.bits()}; }
      if (round % 3 == 2) { c.similarity = braid::similarity::balanced{}; }
      auto const expected = models.on_cpu(c);
      c.block_rows = random.below(5);
      c.device.host_threads = random.between(1, 4);
      CHECK(models.on_device(c) == expected);
    }
  }
}

TEST_CASE("devices share a checkpoint's blocks, and little memory makes small blocks", "[short]") {
  random_source random(502);
  disk_family d = random_disk_family(random, 4);
  d.add("model.layers.0.mlp.up_proj.weight", dtype::bf16, {700, 2048}, random, true);
  opened_models const models(d);
  for (stream_pipeline const pipeline : {stream_pipeline::plain, stream_pipeline::dare, stream_pipeline::ties}) {
    stream_case c;
    c.pipeline = pipeline;
    auto const expected = models.on_cpu(c);
    c.device.devices = shared_devices();
    CHECK(models.on_device(c) == expected);
    c.device.memory = std::uint64_t{3} << 20;  // too little for a tensor that is measured
    CHECK(models.on_device(c) == expected);
    c.device.devices = {};
    CHECK(models.on_device(c) == expected);
  }
}

TEST_CASE("a device says what a checkpoint has that is not finite in the CPU's words, and leaves nothing", "[short]") {
  random_source random(503);
  disk_family d = random_disk_family(random, 3);
  auto& t = *find(d.experts[1], "model.layers.0.mlp.down_proj.weight");
  t.data[t.data.size() - 1] = std::byte{0x7F};  // a NaN of bfloat16 in the last row
  t.data[t.data.size() - 2] = std::byte{0xC0};
  opened_models const models(d);
  stream_case c;
  c.block_rows = 1;
  auto const message = [&](auto const& f) {
    try {
      (void)f();
      return std::string("no error");
    } catch (braid::value_error const& e) { return std::string(e.what()); }
  };
  std::string const said = message([&] { return models.on_cpu(c); });
  CHECK(said.find("down_proj") != std::string::npos);
  CHECK(message([&] { return models.on_device(c); }) == said);
  CHECK(!std::filesystem::exists(models.dir.path() / "device"));
}
