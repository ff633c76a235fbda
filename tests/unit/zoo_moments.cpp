/// Second moments of a layer's inputs, against the equations, and as a file.

#include "../../examples/zoo_support/moments.hpp"
#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/temp_dir.hpp"

#include <cmath>

namespace braid_test {
namespace {

nlohmann::json const config_json{{"model_type", "llama"}, {"vocab_size", 6},           {"hidden_size", 8},
                                 {"head_dim", 4},         {"intermediate_size", 10},   {"num_hidden_layers", 2},
                                 {"rms_norm_eps", 1e-5},  {"num_attention_heads", 2}};

/// Random weights of the shapes that the configuration above asks for, the same at every call.
zoo::tensor weight(std::string const& name) {
  std::vector<std::int64_t> shape{8, 8};
  if (name.find("norm") != std::string::npos) { shape = {8}; }
  if (name.find("embed") != std::string::npos || name.find("lm_head") != std::string::npos) { shape = {6, 8}; }
  if (name.find("gate") != std::string::npos || name.find("up_proj") != std::string::npos) { shape = {10, 8}; }
  if (name.find("down") != std::string::npos) { shape = {8, 10}; }
  zoo::tensor t{shape, {}};
  random_source random(std::hash<std::string>{}(name));
  std::int64_t n = 1;
  for (auto const extent : shape) { n *= extent; }
  for (std::int64_t i = 0; i < n; ++i) { t.values.push_back(static_cast<float>(random.bell())); }
  return t;
}

}  // namespace

TEST_CASE("the first layer's moments are those of the normalised embeddings of all tokens", "[zoo]") {
  auto const config = zoo::llama_config::from_json(config_json, "config.json");
  zoo::tokenizer const symbols({"a", "b", "c", "d", "e", "."});
  std::vector<zoo::prompt> const prompts{{"abc", ""}, {"d", ""}, {"ceeba", ""}};
  std::vector<int> const limits{4, 1, 3};
  auto const got = zoo::input_moments(config, weight, symbols, prompts, limits);
  CHECK(got.size() == 2 * 7 + 1);

  // All tokens of the prompts, and those of the answers that were fed back: all but the last.
  std::vector<std::vector<int>> asked;
  for (auto const& p : prompts) { asked.push_back(symbols.encode(p.text)); }
  auto const said = zoo::generate(zoo::llama<>(config, weight), asked, limits, symbols.encode(".").front());
  auto const embedding = weight("model.embed_tokens.weight");
  auto const norm = weight("model.layers.0.input_layernorm.weight");
  std::vector<double> expected(8);
  double tokens = 0.0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    auto seen = asked[i];
    seen.insert(seen.end(), said[i].begin(), said[i].end() - 1);
    for (int const token : seen) {
      auto const x = [&](std::size_t c) { return static_cast<double>(embedding.values[static_cast<std::size_t>(token) * 8 + c]); };
      double square = 0.0;
      for (std::size_t c = 0; c < 8; ++c) { square += x(c) * x(c) / 8.0; }
      for (std::size_t c = 0; c < 8; ++c) {
        double const in = x(c) * static_cast<double>(norm.values[c]);
        expected[c] += in * in / (square + 1e-5);
      }
      tokens += 1.0;
    }
  }
  for (auto const* name : {"q_proj", "k_proj", "v_proj"}) {
    auto const& m = got.at("model.layers.0.self_attn." + std::string(name) + ".weight");
    REQUIRE(m.size() == 8);
    for (std::size_t c = 0; c < 8; ++c) { CHECK(m[c] == Approx(expected[c] / tokens).epsilon(1e-5)); }
  }
  CHECK(got.at("model.layers.1.mlp.down_proj.weight").size() == 10);
}

TEST_CASE("moments come back from their file as they were", "[zoo]") {
  temp_dir const dir;
  zoo::moments m;
  m.prompts = 5;
  m.of["model.layers.0.mlp.up_proj.weight"] = {1.0f, 2.5f, 0.0f};
  m.of["b"] = {0.125f};
  auto const file = dir.path() / "moments.safetensors";
  zoo::write_moments(file, m);
  auto const back = zoo::read_moments(file);
  CHECK(back.of == m.of);
  CHECK(back.prompts == 5);
  CHECK_FALSE(std::filesystem::exists(file.string() + ".partial"));
  CHECK_THROWS_AS(zoo::write_moments(dir.path() / "nowhere/moments.safetensors", m), braid::io_error);
  CHECK_THROWS_AS(
      zoo::read_moments(std::filesystem::path(BRAID_TEST_SOURCE_DIR) / "examples/zoo/base/model.safetensors"),
      braid::argument_error);
}

}  // namespace braid_test
