#include "support/golden.hpp"
#include "support/models_on_disk.hpp"
#include "support/temp_dir.hpp"
#include "unit/io_support.hpp"

#include <braid/engine/run_recipe.hpp>
#include <braid/recipe/parse.hpp>

#include <map>
#include <set>

using namespace braid_test;
namespace recipe = braid::recipe;

namespace {

std::filesystem::path examples_dir() { return std::filesystem::path(BRAID_TEST_SOURCE_DIR) / "tests/data/examples_like"; }

/// What a recipe of tests/data/examples_like makes. docs/parity.md says which of mergekit's examples it is like.
struct expectation {
  int layers;
  std::string prefix;  // of the layers' names
  dtype type;
  std::size_t warnings;
  std::size_t dropped;
};
std::map<std::string, expectation> const& expectations() {
  static std::map<std::string, expectation> const all{
      {"fusion", {8, "model.layers.", dtype::bf16, 0, 0}},
      {"linear-weights", {8, "model.layers.", dtype::f16, 0, 0}},
      {"passthrough-first-layers", {4, "h.", dtype::f16, 0, 12}},   // six tensors of each of two layers
      {"passthrough-stack", {9, "model.layers.", dtype::f16, 0, 52}}, // three layers of one model, four of the other, ends
      {"slerp-gradient", {8, "model.layers.", dtype::f16, 0, 0}},
      {"ties-gradients", {8, "model.layers.", dtype::f16, 1, 0}},   // int8_mask
      {"ties-plain", {8, "model.layers.", dtype::f16, 1, 0}},
      {"two-steps-first", {8, "model.layers.", dtype::f16, 1, 0}},  // out_path
      {"two-steps-second", {8, "model.layers.", dtype::f16, 2, 0}},
      {"vision-linear", {2, "model.layers.", dtype::f32, 0, 0}},
      {"vision-ties", {2, "model.layers.", dtype::f16, 1, 0}},
  };
  return all;
}

disk_tensor weight(random_source& random, std::string name, shape_t shape) {
  disk_tensor t{std::move(name), dtype::bf16, shape, {}};
  t.data.resize(static_cast<std::size_t>(elements_of(shape)) * 2);
  for (std::size_t i = 0; i < t.data.size(); i += 2) {
    auto const x = braid::bfloat16(0.1f * static_cast<float>(random.bell()));
    std::memcpy(t.data.data() + i, &x, 2);
  }
  return t;
}

/// Names and shapes of Llama's and Mistral's checkpoints.
disk_model llama(random_source& random, int layers) {
  disk_model m{weight(random, "model.embed_tokens.weight", {12, 8}), weight(random, "model.norm.weight", {8}),
               weight(random, "lm_head.weight", {12, 8})};
  for (int l = 0; l < layers; ++l) {
    std::string const layer = "model.layers." + std::to_string(l) + ".";
    m.push_back(weight(random, layer + "input_layernorm.weight", {8}));
    m.push_back(weight(random, layer + "self_attn.q_proj.weight", {8, 8}));
    m.push_back(weight(random, layer + "self_attn.k_proj.weight", {4, 8}));
    m.push_back(weight(random, layer + "self_attn.o_proj.weight", {8, 8}));
    m.push_back(weight(random, layer + "mlp.up_proj.weight", {16, 8}));
    m.push_back(weight(random, layer + "mlp.down_proj.weight", {8, 16}));
    m.push_back(weight(random, layer + "post_attention_layernorm.weight", {8}));
  }
  return m;
}

/// Of GPT-2's: tied embeddings, [inputs, outputs].
disk_model gpt2(random_source& random, int layers) {
  disk_model m{weight(random, "wte.weight", {12, 8}), weight(random, "wpe.weight", {6, 8}), weight(random, "ln_f.weight", {8})};
  for (int l = 0; l < layers; ++l) {
    std::string const layer = "h." + std::to_string(l) + ".";
    m.push_back(weight(random, layer + "ln_1.weight", {8}));
    m.push_back(weight(random, layer + "attn.c_attn.weight", {8, 24}));
    m.push_back(weight(random, layer + "attn.c_attn.bias", {24}));
    m.push_back(weight(random, layer + "attn.c_proj.weight", {8, 8}));
    m.push_back(weight(random, layer + "mlp.c_fc.weight", {8, 32}));
    m.push_back(weight(random, layer + "mlp.c_proj.weight", {32, 8}));
  }
  return m;
}

/// A Llama with a vision tower, which has layers of its own.
disk_model vision(random_source& random) {
  disk_model m = llama(random, 2);
  m.push_back(weight(random, "visual.patch_embed.proj.weight", {8, 3, 2, 2}));
  for (int l = 0; l < 3; ++l) { m.push_back(weight(random, "visual.blocks." + std::to_string(l) + ".attn.qkv.weight", {24, 8})); }
  m.push_back(weight(random, "visual.merger.mlp.0.bias", {8}));
  return m;
}

/// All models that the recipes name.
void write_models(std::filesystem::path const& root) {
  random_source random(4127);
  auto const write = [&](std::string const& name, disk_model const& m, int layers) {
    write_model(root / name, m);
    write_note(root / name / "config.json", R"({"num_hidden_layers": )" + std::to_string(layers) + R"(, "torch_dtype": "bfloat16"})");
  };
  for (char const* const name : {"forge/plain-8l", "forge/vellum-8l", "forge/quill-8l", "forge/ledger-8l", "north/breeze-v1",
                                 "north/breeze-chat", "north/breeze-leaf"}) {
    write(name, llama(random, 8), 8);
  }
  for (char const* const name : {"studio/lens-2l", "studio/lens-captions-2l"}) { write(name, vision(random), 2); }
  write("gpt2-like", gpt2(random, 6), 6);
  write_note(root / "gpt2-like" / "config.json", R"({"n_layer": 6, "model_type": "gpt2", "torch_dtype": "bfloat16"})");
}

std::vector<float> numbers(braid::checkpoint const& c, std::string const& name) {
  braid::tensor_meta const& t = c.at(name);
  auto const bytes = c.bytes(t);
  std::vector<float> x;
  for (index_t i = 0; i < t.elements(); ++i) { x.push_back(load(t.type, bytes.data(), i)); }
  return x;
}

}  // namespace

TEST_CASE("recipes like mergekit's examples are planned and run", "[recipe][run]") {
  temp_dir const dir;
  write_models(dir.path());
  std::set<std::string> files;
  for (auto const& f : std::filesystem::directory_iterator(examples_dir())) { files.insert(f.path().stem().string()); }
  std::set<std::string> expected;
  for (auto const& [name, e] : expectations()) { expected.insert(name); }
  CHECK(files == expected);
  for (auto const& [name, e] : expectations()) {  // two-steps-first comes before the second
    INFO(name);
    auto r = recipe::parse_file(examples_dir() / (name + ".yml"));
    CHECK(r.warnings.size() == e.warnings);
    auto models = recipe::open_models(r, {.roots = {dir.path()}});
    auto const plan = recipe::plan(std::move(r), std::move(models));
    CHECK(plan.dropped.size() == e.dropped);
    CHECK(plan.bytes_read() > 0);
    CHECK(recipe::memory_needed(plan, braid::cpu(1)) > 0);
    auto const out = name == "two-steps-first" ? dir.path() / "steps/blend" : dir.path() / "out" / name;
    std::filesystem::create_directories(out.parent_path());
    braid::report const report = recipe::run(plan, out, {}, braid::cpu(1));
    CHECK(report.stored_bytes == plan.bytes_written());
    braid::checkpoint const written(out);
    CHECK(written.tensors().size() == plan.tensors.size());
    std::set<int> layers;
    for (auto const& t : written.tensors()) {
      CHECK(t.type == e.type);
      if (t.name.starts_with(e.prefix)) { layers.insert(std::stoi(t.name.substr(e.prefix.size()))); }
    }
    CHECK((static_cast<int>(layers.size()) == e.layers && *layers.rbegin() == e.layers - 1));
    auto const config = written.config();
    CHECK(config.value("num_hidden_layers", config.value("n_layer", 0)) == e.layers);
  }
}

TEST_CASE("recipes like mergekit's examples make what they say", "[recipe][run]") {
  temp_dir const dir;
  write_models(dir.path());
  auto const run = [&](std::string const& name) {
    auto r = recipe::parse_file(examples_dir() / (name + ".yml"));
    auto models = recipe::open_models(r, {.roots = {dir.path()}});
    recipe::run(recipe::plan(std::move(r), std::move(models)), dir.path() / name, {}, braid::cpu(1));
    return braid::checkpoint(dir.path() / name);
  };
  auto const model = [&](std::string const& name) { return braid::checkpoint(dir.path() / name); };
  auto const rounded = [](dtype type, std::vector<double> const& x) {
    std::vector<float> y;
    for (double const v : x) {
      auto const wide = static_cast<float>(v);
      y.push_back(type == dtype::f16 ? static_cast<float>(braid::float16(wide)) : wide);
    }
    return y;
  };
  auto const near = [](std::vector<float> const& a, std::vector<float> const& b, double share) {
    REQUIRE(a.size() == b.size());
    double most = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i) { most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]))); }
    CHECK(most <= share);
  };
  std::string const up = "model.layers.5.mlp.up_proj.weight";

  auto const linear = run("linear-weights");
  auto const a = numbers(model("forge/vellum-8l"), up);
  auto const b = numbers(model("forge/quill-8l"), up);
  auto const c = numbers(model("forge/ledger-8l"), up);
  std::vector<double> mean;
  for (std::size_t i = 0; i < a.size(); ++i) { mean.push_back((1.2 * a[i] + 0.4 * b[i] + 0.55 * c[i]) / 2.15); }
  near(numbers(linear, up), rounded(dtype::f16, mean), 0x1p-12);

  // Layers 5 to 8 of the stack are the other model's 4 to 7; the ends are the first's embedding and the last's head.
  auto const stack = run("passthrough-stack");
  CHECK(numbers(stack, "model.layers.4.mlp.up_proj.weight") == numbers(model("forge/vellum-8l"), "model.layers.4.mlp.up_proj.weight"));
  CHECK(numbers(stack, "model.layers.6.mlp.up_proj.weight") == numbers(model("forge/quill-8l"), up));
  CHECK(numbers(stack, "model.embed_tokens.weight") == numbers(model("forge/vellum-8l"), "model.embed_tokens.weight"));
  CHECK(numbers(stack, "lm_head.weight") == numbers(model("forge/quill-8l"), "lm_head.weight"));

  auto const first = run("passthrough-first-layers");
  CHECK(numbers(first, "h.3.attn.c_attn.weight") == numbers(model("gpt2-like"), "h.3.attn.c_attn.weight"));
  CHECK(numbers(first, "wpe.weight") == numbers(model("gpt2-like"), "wpe.weight"));

  // t is 1 for MLP in the first layer and for attention in the last: the second model's weights.
  auto const slerp = run("slerp-gradient");
  std::string const first_mlp = "model.layers.0.mlp.down_proj.weight";
  std::string const last_attention = "model.layers.7.self_attn.k_proj.weight";
  near(numbers(slerp, first_mlp), numbers(model("forge/quill-8l"), first_mlp), 1e-4);
  near(numbers(slerp, last_attention), numbers(model("forge/quill-8l"), last_attention), 1e-4);
  near(numbers(slerp, "model.layers.0.self_attn.k_proj.weight"), numbers(model("forge/vellum-8l"), "model.layers.0.self_attn.k_proj.weight"), 1e-4);

  // The tower is averaged like the rest.
  auto const lens = run("vision-linear");
  std::string const tower = "visual.blocks.2.attn.qkv.weight";
  auto const x = numbers(model("studio/lens-2l"), tower);
  auto const y = numbers(model("studio/lens-captions-2l"), tower);
  std::vector<double> half;
  for (std::size_t i = 0; i < x.size(); ++i) { half.push_back((static_cast<double>(x[i]) + y[i]) / 2.0); }
  near(numbers(lens, tower), rounded(dtype::f32, half), 1e-7);
}

TEST_CASE("keys and methods of other programs in recipes like these are refused by name", "[recipe][parse]") {
  std::string const models = "models: [{model: a}, {model: b}]\n";
  auto const complaint = [&](std::string const& text) { return message_of([&] { (void)recipe::parse(text + models, "r.yml"); }); };
  CHECK(complaint("merge_method: ranked_ties\nbase_model: c\n").find("ranked_ties") != std::string::npos);
  CHECK(complaint("merge_method: ties\nbase_model: c\nalign_weights: zipit\n").find("align_weights") != std::string::npos);
  CHECK(complaint("metric_method: all\n").find("metric_method") != std::string::npos);
  // Two documents in one file: one recipe a file.
  std::string const twice = "merge_method: linear\n" + models + "---\nmerge_method: linear\n";
  CHECK(complaint(twice) != "");
}
