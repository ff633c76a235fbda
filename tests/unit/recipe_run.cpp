#include "support/golden.hpp"
#include "support/models_on_disk.hpp"
#include "support/temp_dir.hpp"
#include "unit/io_support.hpp"

#include <braid/engine/run_recipe.hpp>
#include <braid/recipe/parse.hpp>

#include <cmath>
#include <set>

using namespace braid_test;
namespace recipe = braid::recipe;

namespace {

recipe::run_plan plan_of(std::filesystem::path const& root, std::string const& text, recipe::plan_options const& options = {}) {
  auto r = recipe::parse(text, "recipe.yml");
  auto models = recipe::open_models(r, {.roots = {root}});
  return recipe::plan(std::move(r), std::move(models), options);
}

/// Runs a recipe over the models below `root`.
braid::report run(std::filesystem::path const& root, std::string const& text, std::string const& out = "out",
                  recipe::run_options const& options = {}, int threads = 1) {
  return recipe::run(plan_of(root, text), root / out, options, braid::cpu{threads});
}

std::vector<float> numbers(std::filesystem::path const& dir, std::string const& tensor) {
  braid::checkpoint const c(dir);
  braid::tensor_meta const& t = c.at(tensor);
  auto const bytes = c.bytes(t);
  std::vector<std::byte> const copy(bytes.begin(), bytes.end());
  std::vector<float> x(static_cast<std::size_t>(t.elements()));
  for (std::size_t i = 0; i < x.size(); ++i) { braid::detail::widen(t.type, copy.data() + i * braid::size_of(t.type), &x[i], 1); }
  return x;
}

disk_tensor tensor_of(std::string name, std::vector<float> const& x, dtype type = dtype::f32, shape_t shape = {}) {
  if (shape.empty()) { shape = {static_cast<index_t>(x.size())}; }
  disk_tensor t{std::move(name), type, std::move(shape), std::vector<std::byte>(x.size() * braid::size_of(type))};
  for (std::size_t i = 0; i < x.size(); ++i) { braid::detail::store_rounded(type, &x[i], t.data.data() + i * braid::size_of(type), 1); }
  return t;
}

recipe::run_tensor const& planned(recipe::run_plan const& p, std::string const& name) {
  auto const it = std::find_if(p.tensors.begin(), p.tensors.end(), [&](auto const& t) { return t.name == name; });
  REQUIRE(it != p.tensors.end());
  return *it;
}

std::string const two = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n";
std::string const ties = "merge_method: ties\nbase_model: base\nparameters: {density: 0.6, weight: 0.7}\n";

}  // namespace

TEST_CASE("a recipe's result depends on no thread, block, or place in a file", "[recipe][run]") {
  random_source random(2201);
  for (int trial = 0; trial < 4; ++trial) {
    temp_dir const dir;
    temp_dir const skewed;
    disk_family family = random_disk_family(random, 3, {dtype::bf16, dtype::f32, dtype::f16});
    family.write(dir.path());
    family.write(skewed.path(), 1);
    std::string text = ties + "models: [";
    for (auto const& n : family.names) { text += "{model: " + n + "},"; }
    text += "]\nout_dtype: float32\n";
    run(dir.path(), text, "one", {.block_rows = 1});
    run(dir.path(), text, "two", {.block_rows = 3}, 3);
    run(skewed.path(), text, "three", {}, 2);
    auto const first = contents(dir.path() / "one");
    CHECK(first == contents(dir.path() / "two"));
    CHECK(first == contents(skewed.path() / "three"));
  }
}

TEST_CASE("every tensor of every input is in the output, or its absence has a reason", "[recipe][run]") {
  random_source random(77);
  for (int trial = 0; trial < 20; ++trial) {
    temp_dir const dir;
    disk_family family = random_disk_family(random, 2);
    std::set<std::string> all;
    for (auto const& t : family.base) { all.insert(t.name); }
    for (auto& e : family.experts) {
      std::string const gone = random.one_of(std::vector<std::string>(all.begin(), all.end()));
      if (gone.find("embed") == std::string::npos) { drop(e, gone); }
      e.push_back(tensor_of("vision_tower.layers.0.weight", {1.0f, 2.0f}));
      if (random.between(0, 1) == 0) { e.push_back(tensor_of("audio.extra" + std::to_string(trial), {1.0f})); }
    }
    family.write(dir.path());
    auto const p = plan_of(dir.path(), ties + "models: [{model: " + family.names[0] + "}, {model: " + family.names[1] + "}]");
    std::set<std::string> planned_names;
    for (auto const& t : p.tensors) { planned_names.insert(t.name); }
    for (std::size_t m = 0; m < p.models.size(); ++m) {
      for (auto const& t : p.models[m].files.tensors()) {
        INFO(t.name);
        bool const dropped = std::any_of(p.dropped.begin(), p.dropped.end(), [&](auto const& d) {
          return d.model == m && d.name == t.name && !d.reason.empty();
        });
        CHECK(planned_names.count(t.name) + (dropped ? 1u : 0u) >= 1);
      }
    }
    CHECK(planned(p, "vision_tower.layers.0.weight").what == recipe::tensor_step::copy);
    CHECK(planned(p, "vision_tower.layers.0.weight").note.find("base lacks it") != std::string::npos);
  }
}

TEST_CASE("integer buffers are copied, what a model lacks is merged without it", "[recipe][run]") {
  temp_dir const dir;
  disk_tensor ids{"model.position_ids", dtype::i64, {2}, std::vector<std::byte>(16, std::byte{3})};
  write_model(dir.path() / "a", {tensor_of("w", {1, 2}), ids, tensor_of("only_a", {8, 16})});
  ids.data[0] = std::byte{9};
  write_model(dir.path() / "b", {tensor_of("w", {3, 6}), ids, tensor_of("only_b", {32})});
  run(dir.path(), "merge_method: linear\n" + two + "dtype: bfloat16\n");
  braid::checkpoint const out(dir.path() / "out");
  CHECK(out.at("model.position_ids").type == dtype::i64);
  CHECK(out.bytes(out.at("model.position_ids"))[0] == std::byte{3});
  CHECK(numbers(out.path(), "w") == std::vector<float>{2, 4});
  CHECK(numbers(out.path(), "only_a") == std::vector<float>{8, 16});
  CHECK(numbers(out.path(), "only_b") == std::vector<float>{32});
  CHECK(out.at("w").type == dtype::bf16);
}

TEST_CASE("inputs are rounded to dtype before, results to out_dtype after", "[recipe][run]") {
  temp_dir const dir;
  float const fine = 1.0f + 0x1p-7f * 0.75f;  // between two bfloat16, nearer to the upper one
  write_model(dir.path() / "a", {tensor_of("w", {fine})});
  write_model(dir.path() / "b", {tensor_of("w", {fine})});
  auto const result = [&](std::string const& types, std::string const& out) {
    run(dir.path(), "merge_method: linear\n" + two + types, out);
    return numbers(dir.path() / out, "w")[0];
  };
  CHECK(result("", "none") == fine);
  CHECK(result("dtype: bfloat16\nout_dtype: float32\n", "both") == 1.0f + 0x1p-7f);
  CHECK(result("dtype: float32\nout_dtype: bfloat16\n", "late") == 1.0f + 0x1p-7f);
  CHECK(braid::checkpoint(dir.path() / "late").at("w").type == dtype::bf16);
}

TEST_CASE("types that differ are promoted to one that holds both", "[recipe][run]") {
  using recipe::detail::promoted;
  CHECK(promoted(dtype::bf16, dtype::f16) == dtype::f32);
  CHECK(promoted(dtype::bf16, dtype::bf16) == dtype::bf16);
  CHECK(promoted(dtype::f32, dtype::bf16) == dtype::f32);
  CHECK(promoted(dtype::f8_e4m3, dtype::bf16) == dtype::bf16);
  CHECK(promoted(dtype::f8_e4m3, dtype::f8_e5m2) == dtype::f32);
}

TEST_CASE("NaN, sums beyond float16, and errors of any kind leave nothing behind", "[recipe][run]") {
  temp_dir const dir;
  float const nan = std::nanf("");
  write_model(dir.path() / "a", {tensor_of("u", {1, 2, 3}), tensor_of("w", {60000, 1, 2, nan}, dtype::f16, {2, 2})});
  write_model(dir.path() / "b", {tensor_of("u", {1, 2, 3}), tensor_of("w", {60000, 1, 2, 3}, dtype::f16, {2, 2})});
  std::string const sum = "merge_method: linear\n" + two + "parameters: {normalize: false}\n";
  std::string const found = message_of([&] { run(dir.path(), sum); });
  CHECK(found.find("tensor \"w\" of model 'a' has NaN at [1, 1]") != std::string::npos);
  CHECK(found.find("model.safetensors") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(dir.path() / "out"));
  run(dir.path(), sum, "allowed", {.allow_nonfinite = true});
  CHECK(std::isinf(numbers(dir.path() / "allowed", "w")[0]));
  write_model(dir.path() / "a", {tensor_of("u", {1, 2, 3}), tensor_of("w", {60000, 1, 2, 4}, dtype::f16, {2, 2})});
  CHECK(message_of([&] { run(dir.path(), sum); }).find("tensor \"w\" doesn't fit into F16 at channel 0, column 0") == 0);
  CHECK(message_of([&] { run(dir.path(), "merge_method: linear\n" + two, "a"); }) != "");
  std::size_t entries = 0;
  for ([[maybe_unused]] auto const& e : std::filesystem::directory_iterator(dir.path())) { ++entries; }
  CHECK(entries == 3);  // a, b, allowed: no hidden directory either
}

TEST_CASE("a trim over the whole model keeps the largest deltas of all tensors together", "[recipe][run]") {
  random_source random(901);
  for (int trial = 0; trial < 5; ++trial) {
    temp_dir const dir;
    auto const n = static_cast<std::size_t>(random.between(3, 40));
    std::vector<float> large(n);
    std::vector<float> small(n);
    for (float& x : large) { x = 1.0f + static_cast<float>(random.between(1, 1000)); }
    for (float& x : small) { x = 0.001f * static_cast<float>(random.between(1, 1000)); }
    write_model(dir.path() / "base", {tensor_of("u", std::vector<float>(n, 0.0f)), tensor_of("v", std::vector<float>(n, 0.0f))});
    write_model(dir.path() / "a", {tensor_of("u", large), tensor_of("v", small)});
    std::string const text = "merge_method: ties\nbase_model: base\nmodels: [{model: a, parameters: {weight: 1, density: 0.5}}]\n";
    run(dir.path(), text + "scope: model\n");
    CHECK(numbers(dir.path() / "out", "u") == large);
    CHECK(numbers(dir.path() / "out", "v") == std::vector<float>(n, 0.0f));
    run(dir.path(), text, "per_tensor");
    CHECK(numbers(dir.path() / "per_tensor", "v") != std::vector<float>(n, 0.0f));
    std::string const varied = message_of([&] {
      run(dir.path(), "merge_method: ties\nbase_model: base\nscope: model\nmodels: [{model: a, parameters: {weight: 1, density: "
                      "[{filter: u, value: 0.5}, {value: 0.7}]}}]\n", "no");
    });
    CHECK(varied.find("needs one density a model") != std::string::npos);
  }
}

TEST_CASE("slices number layers anew and cut the config's lists", "[recipe][run]") {
  temp_dir const dir;
  for (char const* const name : {"a", "b"}) {
    float const x = name[0] == 'a' ? 10.0f : 20.0f;
    disk_model m{tensor_of("model.embed_tokens.weight", {x}, dtype::f32, {1, 1}), tensor_of("model.norm.weight", {x})};
    for (int l = 0; l < 3; ++l) {
      m.push_back(tensor_of("model.layers." + std::to_string(l) + ".mlp.up_proj.weight", {x + static_cast<float>(l)}, dtype::f32, {1, 1}));
    }
    write_model(dir.path() / name, m);
    std::string const list = name[0] == 'a' ? R"(["full", "full", "window"])" : R"(["b0", "b1", "b2"])";
    write_note(dir.path() / name / "config.json", R"({"num_hidden_layers": 3, "torch_dtype": "float32", "layer_types": )" + list + "}");
  }
  auto const p = plan_of(dir.path(), "merge_method: passthrough\ndtype: bfloat16\nslices: [{sources: [{model: a, layer_range: [1, 3]}]}, "
                                     "{sources: [{model: b, layer_range: [2, 3]}]}]\n");
  recipe::run(p, dir.path() / "out", {}, braid::cpu{1});
  auto const value = [&](std::string const& name) { return numbers(dir.path() / "out", name).at(0); };
  CHECK(value("model.layers.0.mlp.up_proj.weight") == 11.0f);
  CHECK(value("model.layers.1.mlp.up_proj.weight") == 12.0f);
  CHECK(value("model.layers.2.mlp.up_proj.weight") == 22.0f);
  CHECK(value("model.embed_tokens.weight") == 10.0f);
  CHECK(value("model.norm.weight") == 20.0f);
  auto const config = nlohmann::json::parse(get_file(dir.path() / "out" / "config.json"));
  CHECK(config.at("num_hidden_layers") == 3);
  CHECK(config.at("layer_types") == nlohmann::json{"full", "window", "b2"});
  CHECK(config.at("torch_dtype") == "bfloat16");
  CHECK(p.dropped.size() == 5);  // a layer of a, two of b, a's norm, b's embedding
}

TEST_CASE("a model with an adapter is the model with the adapter's deltas added", "[recipe][run][golden]") {
  temp_dir const dir;
  std::string const text = "merge_method: passthrough\nmodels: [{model: models/base+models/lora}]\n";
  auto const p = plan_of(golden_dir(), text);
  recipe::run(p, dir.path() / "out", {.block_rows = 3}, braid::cpu{2});
  recipe::adapter const lora(golden_dir() / "models/lora");
  int changed = 0;
  for (auto const& t : p.tensors) {
    auto expected = numbers(golden_dir() / "models/base", t.name);
    if (auto const* const d = lora.find(t.name)) {
      std::vector<float> delta(expected.size());
      lora.rows(*d, 0, d->rows, delta.data());
      for (std::size_t i = 0; i < delta.size(); ++i) { expected[i] = expected[i] + delta[i]; }
      ++changed;
    }
    CHECK(numbers(dir.path() / "out", t.name) == expected);
  }
  CHECK(changed == 4);
  CHECK(message_of([&] { plan_of(golden_dir(), "merge_method: passthrough\nmodels: [{model: models/edge-a+models/lora}]\n"); })
            .find("the adapter's delta of tensor") != std::string::npos);
}

TEST_CASE("files travel with the model, and its card names what was read", "[recipe][run]") {
  temp_dir const dir;
  write_model(dir.path() / "a", {tensor_of("w", {1, 2})});
  write_model(dir.path() / "b", {tensor_of("w", {3, 6})});
  write_note(dir.path() / "a" / "config.json", R"({"architectures": ["X"], "vocab_size": 3})");
  write_note(dir.path() / "a" / "generation_config.json", "{}");
  write_note(dir.path() / "a" / "README.md", "of a");
  write_note(dir.path() / "a" / "tokenizer_config.json", R"({"chat_template": "old"})");
  std::string const text = "merge_method: linear\n" + two + "chat_template: chatml\n";
  run(dir.path(), text);
  auto const files = contents(dir.path() / "out");
  CHECK(files.at("generation_config.json") == "{}");
  CHECK(files.at("chat_template.jinja").find("<|im_start|>") != std::string::npos);
  CHECK(nlohmann::json::parse(files.at("tokenizer_config.json")).at("chat_template") == files.at("chat_template.jinja"));
  std::string const& card = files.at("README.md");
  CHECK(card.find(text) != std::string::npos);
  CHECK(card.find("| `a` | `xxh3:") != std::string::npos);
  CHECK(card.find(BRAID_VERSION_STRING) != std::string::npos);
  CHECK(card.starts_with("---\nbase_model:\n- \"a\"\n- \"b\"\nlibrary_name: transformers\ntags:\n- merge\n- braid\n---\n"));
  write_model(dir.path() / "b", {tensor_of("w", {3, 7})});
  run(dir.path(), text, "again");
  CHECK(contents(dir.path() / "again").at("README.md") != card);
  CHECK(message_of([&] { run(dir.path(), text); }).find("out") != std::string::npos);  // it exists
  run(dir.path(), text, "out", {.overwrite = true});
}

TEST_CASE("modules of a recipe have the tensors that their names say, one the rest", "[recipe][run]") {
  temp_dir const dir;
  for (char const* const name : {"a", "b"}) {
    float const x = name[0] == 'a' ? 1.0f : 2.0f;
    write_model(dir.path() / name, {tensor_of("model.layers.0.w", {x}), tensor_of("vision_tower.layers.0.w", {x}), tensor_of("lm_head.weight", {x})});
  }
  run(dir.path(), "merge_method: passthrough\nmodules: {text_decoder: {models: [{model: a}]}, vision_tower: {models: [{model: b}]}}\n");
  CHECK(numbers(dir.path() / "out", "model.layers.0.w") == std::vector<float>{1});
  CHECK(numbers(dir.path() / "out", "lm_head.weight") == std::vector<float>{1});
  CHECK(numbers(dir.path() / "out", "vision_tower.layers.0.w") == std::vector<float>{2});
}

TEST_CASE("empty tensors, scalars and shards pass through a recipe", "[recipe][run]") {
  temp_dir const dir;
  for (char const* const name : {"base", "a", "b"}) {
    float const x = name[0] == 'a' ? 2.0f : 1.0f;
    disk_model m{tensor_of("big", std::vector<float>(300'000, x)), tensor_of("large", std::vector<float>(300'000, x))};
    m.push_back({"empty", dtype::f32, {0, 4}, {}});
    m.push_back({"scalar", dtype::f32, {}, tensor_of("", {x}).data});
    write_model(dir.path() / name, m);
  }
  run(dir.path(), ties + two, "out", {.max_shard_bytes = 1'500'000});
  braid::checkpoint const out(dir.path() / "out");
  CHECK(out.at("empty").elements() == 0);
  CHECK(out.at("scalar").shape.empty());
  CHECK(numbers(out.path(), "scalar") == std::vector<float>{2.0f});
  CHECK(out.file_of(out.at("big")) != out.file_of(out.at("large")));
}

TEST_CASE("a model card lists as base models only what the Hub takes for a name", "[recipe][run]") {
  using recipe::detail::is_hub_name;
  for (char const* const name : {"gpt2", "owner/name-7b_v0.1", "a"}) { CHECK(is_hub_name(name)); }
  for (char const* const name : {"", "./a", "/models/a", "../a", "models/owner/name", "a/", "with space", "a:b"}) { CHECK_FALSE(is_hub_name(name)); }
  temp_dir const dir;
  write_model(dir.path() / "deep/er/a", {tensor_of("w", {1, 2})});
  write_model(dir.path() / "b", {tensor_of("w", {3, 6})});
  auto const card = [&](std::string const& models, std::string const& out) {
    run(dir.path(), "merge_method: linear\nparameters: {weight: 1}\nmodels: [" + models + "]\n", out);
    return contents(dir.path() / out).at("README.md");
  };
  CHECK(card("{model: deep/er/a}, {model: b}", "one").starts_with("---\nbase_model:\n- \"b\"\nlibrary_name"));
  std::string const none = card("{model: deep/er/a}", "two");
  CHECK(none.starts_with("---\nlibrary_name"));
  CHECK(none.find("| `deep/er/a` | `xxh3:") != std::string::npos);
}
