#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/temp_dir.hpp"

#include <braid/serve/router.hpp>

#include <limits>

using namespace braid_test;
using braid::router_code;

namespace {

std::vector<braid::labelled_query<std::string>> few_queries() {
  return {{"add one and two", "add"}, {"sum of three", "add"}, {"sort these words", "sort"}, {"put in order", "sort"}};
}

/// What the file of a small router holds, to be damaged.
struct parts {
  nlohmann::json description;
  std::vector<float> weight;
  std::vector<float> scale;
  std::vector<float> bias;
  std::vector<braid::index_t> weight_shape;
  braid::dtype type = braid::dtype::f32;
  std::string key = "braid.router";
  std::string weight_name = "router.weight";
  bool extra = false;
};

parts good_parts(std::filesystem::path const& dir) {
  braid::router<>::train(few_queries(), braid::hashed_ngrams({.dimension = 64})).save(dir, true);
  braid::safetensors_file const file(dir / "router.safetensors");
  parts p;
  p.description = nlohmann::json::parse(file.metadata().at("braid.router"));
  for (auto const& t : file.tensors()) {
    auto& to = t.name == "router.bias" ? p.bias : t.name == "router.scale" ? p.scale : p.weight;
    to.resize(static_cast<std::size_t>(t.elements()));
    std::memcpy(to.data(), file.bytes(t).data(), t.bytes);
    if (t.name == "router.weight") { p.weight_shape = t.shape; }
  }
  return p;
}

void write(std::filesystem::path const& dir, parts const& p, std::string const* raw_description = nullptr) {
  std::map<std::string, std::string> const metadata{{p.key, raw_description != nullptr ? *raw_description : p.description.dump()}};
  auto const features = static_cast<braid::index_t>(p.scale.size());
  std::vector<braid::tensor_plan> plans{{p.weight_name, p.type, p.weight_shape, false, 0},
                                        {"router.scale", braid::dtype::f32, {features}, false, 0},
                                        {"router.bias", braid::dtype::f32, {static_cast<braid::index_t>(p.bias.size())}, false, 0}};
  if (p.extra) { plans.push_back({"other", braid::dtype::f32, {1}, false, 0}); }
  braid::checkpoint_writer w(dir, plans, 10000, {.overwrite = true, .stem = "router"});
  w.write(w.begin(p.weight_name), 0, std::as_bytes(std::span(p.weight)));
  w.write(w.begin("router.scale"), 0, std::as_bytes(std::span(p.scale)));
  w.write(w.begin("router.bias"), 0, std::as_bytes(std::span(p.bias)));
  if (p.extra) { w.write(w.begin("other"), 0, std::as_bytes(std::span(p.bias).first(1))); }
  w.commit(metadata);
}

int code_of(std::filesystem::path const& dir) {
  try {
    static_cast<void>(braid::router<>::load(dir));
  } catch (braid::format_error const& e) {
    std::string const what = e.what();
    CHECK(what.find("router.safetensors") != std::string::npos);
    CHECK(what.find('\n') == std::string::npos);
    return e.code();
  }
  return 0;
}

}  // namespace

TEST_CASE("a router comes back from its file as it was", "[router]") {
  temp_dir const dir;
  auto r = braid::router<>::train(few_queries(), braid::hashed_ngrams({.dimension = 500, .most_words = 1, .lower_case = false}),
                                  {.l2 = 0.01, .parts = 2, .threshold = 0.3, .default_expert = "sort", .seed = 9});
  r.save(dir.path() / "r");
  for (auto const& path : {dir.path() / "r", dir.path() / "r" / "router.safetensors"}) {
    auto const again = braid::router<>::load(path);
    CHECK(again.experts() == r.experts());
    CHECK(again.threshold() == 0.3);
    CHECK(again.temperature() == r.temperature());
    CHECK(again.default_expert() == 1);
    CHECK(again.embedding().options() == r.embedding().options());
    CHECK(again.training().queries == 4);
    CHECK(again.training().l2 == 0.01);
    CHECK(again.training().parts == 2);
    CHECK(again.training().seed == 9);
    CHECK(again.training().iterations == r.training().iterations);
    CHECK(again.training().held_out_accuracy == r.training().held_out_accuracy);
    for (char const* text : {"", "add these", "order of words", "one"}) {
      CHECK(again.route(std::string_view(text)).probability == r.route(std::string_view(text)).probability);
    }
  }
  CHECK_THROWS_AS(r.save(dir.path() / "r"), braid::argument_error);
  r.set_threshold(0.9);
  r.save(dir.path() / "r", true);
  CHECK(braid::router<>::load(dir.path() / "r").threshold() == 0.9);
  CHECK_THROWS_AS(braid::router<>::load(dir.path() / "nowhere"), braid::io_error);
}

TEST_CASE("training gives the stored weights, whatever compiler, threads or machine", "[router]") {
  temp_dir const dir;
  parts const p = good_parts(dir.path() / "r");
  // A promise, as all results are: a change needs a reason.
  CHECK(XXH3_64bits(p.weight.data(), p.weight.size() * sizeof(float)) == 0xF5E0E04E676D3058u);
  CHECK(XXH3_64bits(p.scale.data(), p.scale.size() * sizeof(float)) == 0x68FF0A7F4AEF53D5u);
  CHECK(braid::router<>::load(dir.path() / "r").temperature() == Catch::Approx(0.8359072581).epsilon(1e-9));
}

TEST_CASE("a damaged router's file is refused, with a code", "[router]") {
  temp_dir const dir;
  auto const at = dir.path() / "r";
  parts const good = good_parts(at);
  write(at, good);
  REQUIRE(code_of(at) == 0);
  auto const damaged = [&](router_code code, auto const& damage) {
    parts p = good;
    damage(p);
    write(at, p);
    CHECK(code_of(at) == static_cast<int>(code));
  };
  auto const field = [&](router_code code, char const* name, nlohmann::json const& value) {
    CAPTURE(name, value.dump());
    damaged(code, [&](parts& p) { p.description[name] = value; });
  };
  damaged(router_code::not_a_router, [](parts& p) { p.key = "other"; });
  field(router_code::newer_format, "version", 2);
  field(router_code::description, "version", "1");
  field(router_code::description, "format", "other");
  field(router_code::description, "experts", {"add"});
  field(router_code::description, "experts", {"sort", "add"});
  field(router_code::description, "experts", {"add", "add"});
  field(router_code::description, "experts", {"add", "so rt"});
  field(router_code::description, "experts", 2);
  field(router_code::description, "default", "poetry");
  field(router_code::description, "threshold", 1.5);
  field(router_code::description, "threshold", nullptr);
  field(router_code::description, "temperature", 0.0);
  field(router_code::description, "temperature", -1.0);
  field(router_code::description, "embedding", nlohmann::json::object());
  field(router_code::description, "training", nlohmann::json::object());
  for (char const* name : {"format", "version", "experts", "default", "threshold", "temperature", "embedding", "training"}) {
    damaged(router_code::description, [&](parts& p) { p.description.erase(name); });
  }
  damaged(router_code::description, [](parts& p) { p.description["embedding"]["name"] = "other"; });
  damaged(router_code::description, [](parts& p) { p.description["embedding"]["dimension"] = 0; });
  damaged(router_code::tensors, [](parts& p) { p.description["embedding"]["dimension"] = 63; });
  damaged(router_code::tensors, [](parts& p) { p.description["experts"] = {"add", "sort", "zip"}; });
  damaged(router_code::tensors, [](parts& p) { p.weight_name = "router.wait"; });
  damaged(router_code::tensors, [](parts& p) { p.weight_shape = {64, 2}; });
  damaged(router_code::tensors, [](parts& p) { p.weight_shape = {128}; });
  damaged(router_code::tensors, [](parts& p) { p.type = braid::dtype::i32; });
  damaged(router_code::tensors, [](parts& p) { p.bias.push_back(0.0f); });
  damaged(router_code::tensors, [](parts& p) { p.scale.pop_back(); });
  damaged(router_code::tensors, [](parts& p) { p.extra = true; });
  damaged(router_code::not_finite, [](parts& p) { p.scale[3] = std::numeric_limits<float>::infinity(); });
  damaged(router_code::not_finite, [](parts& p) { p.weight[70] = std::numeric_limits<float>::quiet_NaN(); });
  damaged(router_code::not_finite, [](parts& p) { p.bias[1] = std::numeric_limits<float>::infinity(); });
  for (std::string const text : {"", "[1]", "{\"version\": 1, \"version\": 1}", "{", "nonsense"}) {
    write(at, good, &text);
    CHECK(code_of(at) == static_cast<int>(router_code::description));
  }
}
