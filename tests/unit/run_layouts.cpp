#include "support/models_on_disk.hpp"
#include "support/pipelines.hpp"
#include "unit/io_support.hpp"

using namespace braid_test;

namespace {

std::vector<expert_path> paths(disk_family const& d, std::filesystem::path const& dir) {
  std::vector<expert_path> all;
  for (auto const& n : d.names) { all.push_back({n, dir / n}); }
  return all;
}

recipe random_recipe(random_source& random) {
  recipe r;
  r.method = random.one_of(all_pipelines);
  r.similarity = random.one_of(all_metrics);
  r.density = 0.5;
  r.seed = random.bits() >> 2;
  r.groups = random.between(1, 3);
  return r;
}

}  // namespace

TEST_CASE("channels along the last axis merge as those of the transposed tensor", "[run][layout]") {
  random_source random(161);
  std::string const name = "transformer.h.0.attn.c_attn.weight";
  for (int round = 0; round < 12; ++round) {
    dtype const type = random.chance(0.5) ? dtype::bf16 : dtype::f32;
    index_t const leading = random.between(1, 3);
    index_t const rows = random.between(1, 20);
    index_t const cols = random.chance(0.3) ? random.between(500, 540) : random.between(1, 40);
    bool const stacked = leading > 1 || random.chance(0.3);
    shape_t const straight = stacked ? shape_t{leading, rows, cols} : shape_t{rows, cols};
    shape_t const turned = stacked ? shape_t{leading, cols, rows} : shape_t{cols, rows};
    index_t const blocks = stacked ? leading : 1;
    int const n = random.between(1, 4);
    disk_family plain = empty_family(n);
    plain.add(name, type, straight, random, true);
    disk_family other = plain;
    auto const turn = [&](disk_tensor& t) {
      t.shape = turned;
      t.data = transposed(t.data, type, blocks, rows, cols);
    };
    turn(other.base[0]);
    for (auto& e : other.experts) { turn(e[0]); }

    temp_dir dir;
    plain.write(dir.path() / "plain");
    other.write(dir.path() / "other");
    recipe const r = random_recipe(random);
    disk_options o;
    run_on_disk(r, dir.path() / "plain/base", paths(plain, dir.path() / "plain"), dir.path() / "a", o);
    o.axes = {{"*.c_attn.weight", -1}};
    o.block_rows = random.below(4);
    o.threads = 2;
    run_on_disk(r, dir.path() / "other/base", paths(other, dir.path() / "other"), dir.path() / "b", o);
    auto const a = read_grouped(dir.path() / "a").tensors.at(name);
    auto const b = read_grouped(dir.path() / "b").tensors.at(name);
    INFO(blocks << " x " << rows << " x " << cols);
    CHECK(b.axis == (stacked ? 2 : 1));
    CHECK(b.shape == turned);
    CHECK(b.rows == a.rows);
    CHECK(b.extra == a.extra);
    CHECK(b.first == transposed(a.first, type, blocks, rows, cols));
    for (std::size_t e = 0; e < a.rebuilt.size(); ++e) {
      CHECK(b.rebuilt[e] == transposed(a.rebuilt[e], type, blocks, rows, cols));
    }
  }
}

TEST_CASE("experts of a mixture, stacked in one tensor, merge as the matrix of all their rows", "[run][layout]") {
  random_source random(162);
  temp_dir dir;
  disk_family stacked = empty_family(4);
  std::string const name = "model.layers.0.mlp.experts.gate_up_proj";
  stacked.add(name, dtype::bf16, {3, 5, 33}, random, true);
  disk_family flat = stacked;
  flat.base[0].shape = {15, 33};
  for (auto& e : flat.experts) { e[0].shape = {15, 33}; }
  stacked.write(dir.path() / "stacked");
  flat.write(dir.path() / "flat");
  recipe const r = random_recipe(random);
  run_on_disk(r, dir.path() / "stacked/base", paths(stacked, dir.path() / "stacked"), dir.path() / "a");
  run_on_disk(r, dir.path() / "flat/base", paths(flat, dir.path() / "flat"), dir.path() / "b");
  auto const a = read_grouped(dir.path() / "a").tensors.at(name);
  auto const b = read_grouped(dir.path() / "b").tensors.at(name);
  CHECK(a.action == "merge");
  CHECK(a.shape == shape_t{3, 5, 33});
  CHECK(a.first == b.first);
  CHECK(a.extra == b.extra);
  CHECK(a.rows == b.rows);
}

TEST_CASE("vectors and scalars are merged as one row where a rule asks for it", "[run][layout]") {
  random_source random(163);
  temp_dir dir;
  disk_family d = empty_family(3);
  d.add("model.norm.weight", dtype::f32, {37}, random, true);
  d.add("model.scale", dtype::bf16, {}, random, true);
  d.write(dir.path());
  recipe r;
  r.groups = 1;
  disk_options o;
  o.rules = {{"merge", "*"}};
  run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "out", o);
  auto const read = read_grouped(dir.path() / "out");
  for (auto const& [name, f] : d.merged) {
    auto const& t = read.tensors.at(name);
    CHECK(t.action == "merge");
    CHECK(t.channels == 1);
    CHECK(t.first == merged_rows(r, f, {{0, 0, 0}}, f.base.type)[0][0]);
  }
}

TEST_CASE("rules decide in order, the user's before the defaults", "[run][layout]") {
  random_source random(164);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 3);
  d.write(dir.path());
  disk_options o;
  o.rules = {{"keep", "*q_proj*"},
             {"base", "*.mlp.down_proj.weight"},
             {"merge", "*q_proj*"},
             {"merge", "model.embed_tokens.weight"}};
  recipe r;
  r.groups = 1;
  run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "out", o);
  auto const read = read_grouped(dir.path() / "out");
  CHECK(read.tensors.at("model.layers.0.self_attn.q_proj.weight").action == "keep");
  CHECK(read.tensors.at("model.layers.0.mlp.down_proj.weight").action == "base");
  CHECK(read.tensors.at("model.embed_tokens.weight").action == "merge");
  CHECK(read.tensors.at("model.layers.1.mlp.experts.gate_up_proj").action == "merge");
  CHECK(read.tensors.at("model.layers.1.mlp.gate.weight").action == "keep");
  disk_model base = d.base;
  for (std::size_t e = 0; e < 3; ++e) {
    CHECK(read.tensors.at("model.layers.0.mlp.down_proj.weight").rebuilt[e] ==
          find(base, "model.layers.0.mlp.down_proj.weight")->data);
    disk_model own = d.experts[e];
    CHECK(read.tensors.at("model.layers.0.self_attn.q_proj.weight").rebuilt[e] ==
          find(own, "model.layers.0.self_attn.q_proj.weight")->data);
  }
  CHECK(read.tensors.at("model.embed_tokens.weight").extra.empty());
}

TEST_CASE("a tensor of the base alone is added to every expert where a rule asks for it", "[run][layout]") {
  random_source random(165);
  temp_dir dir;
  disk_family d = random_disk_family(random, 2);
  std::vector<std::byte> const data(10, std::byte{7});
  d.base.push_back({"model.layers.0.self_attn.extra.weight", dtype::bf16, {5}, data});
  d.write(dir.path());
  disk_options o;
  o.rules = {{"base", "*.extra.weight"}};
  auto const report = run_on_disk({}, dir.path() / "base", paths(d, dir.path()), dir.path() / "out", o);
  CHECK(report.notes.empty());
  CHECK(read_tensor(dir.path() / "out", d.names[1], "model.layers.0.self_attn.extra.weight") == data);
}

TEST_CASE("a head that some experts tie to the embedding is theirs all the same", "[run][layout][tied]") {
  random_source random(166);
  std::string const head = "lm_head.weight";
  std::string const embedding = "model.embed_tokens.weight";
  for (int round = 0; round < 8; ++round) {
    temp_dir dir;
    int const n = 4;
    disk_family d = random_disk_family(random, n);
    disk_tensor tied_head = *find(d.base, embedding);
    tied_head.name = head;
    bool const all_tied = round % 2 == 0;  // whoever stores a head stores the embedding again
    std::vector<bool> stores;
    d.base.push_back(tied_head);
    for (std::size_t e = 0; e < d.experts.size(); ++e) {
      stores.push_back(e == 2 || (e != 1 && random.chance(0.5)));
      if (!stores.back()) { continue; }
      tied_head.data = find(d.experts[e], embedding)->data;
      if (!all_tied && e == 2) { tied_head.data[1] ^= std::byte{1}; }
      d.experts[e].push_back(tied_head);
    }
    d.write(dir.path());
    auto const report = run_on_disk({}, dir.path() / "base", paths(d, dir.path()), dir.path() / "out");
    CHECK(report.notes.size() == (all_tied ? 1u : 0u));
    auto const read = read_grouped(dir.path() / "out");
    CHECK((read.tensors.count(head) == 0) == all_tied);
    for (std::size_t e = 0; e < d.experts.size(); ++e) {
      auto const* const own = find(d.experts[e], head);
      CHECK(read_tensor(dir.path() / "out", d.names[e], head) ==
            (own != nullptr ? own : find(d.experts[e], embedding))->data);
      extract_expert(dir.path() / "out", d.names[e], dir.path() / ("again-" + d.names[e]));
      auto const text = contents(dir.path() / ("again-" + d.names[e])).at("model.safetensors");
      CHECK((text.find("\"lm_head.weight\"") != std::string::npos) == stores[e]);
    }
  }
}

TEST_CASE("embeddings of different vocabularies are kept, each its own", "[run][layout]") {
  random_source random(167);
  std::string const embedding = "model.embed_tokens.weight";
  for (int round = 0; round < 10; ++round) {
    temp_dir dir;
    int const n = random.between(2, 5);
    disk_family d = random_disk_family(random, n);
    for (auto& e : d.experts) {
      disk_tensor* const t = find(e, embedding);
      index_t const more = random.chance(0.5) ? 0 : random.between(1, 9);
      t->shape[0] += more;
      for (index_t i = 0; i < more * 16 * 2; ++i) { t->data.push_back(static_cast<std::byte>(random.below(0x60))); }
    }
    d.write(dir.path());
    disk_options o;
    o.block_rows = random.below(4);
    run_on_disk(random_recipe(random), dir.path() / "base", paths(d, dir.path()), dir.path() / "out", o);
    auto const t = read_grouped(dir.path() / "out").tensors.at(embedding);
    for (std::size_t e = 0; e < d.experts.size(); ++e) {
      CHECK(t.shapes[e] == find(d.experts[e], embedding)->shape);
      CHECK(t.rebuilt[e] == find(d.experts[e], embedding)->data);
    }
  }
}

TEST_CASE("an expert without a tensor goes without it where the user keeps it", "[run][layout]") {
  random_source random(168);
  std::string const name = "model.layers.0.self_attn.q_proj.weight";
  for (std::size_t const lacking : {std::size_t{0}, std::size_t{1}}) {
    temp_dir dir;
    disk_family d = random_disk_family(random, 3);
    drop(d.experts[lacking], name);
    d.write(dir.path());
    disk_options o;
    o.rules = {{"keep", name}};
    run_on_disk({}, dir.path() / "base", paths(d, dir.path()), dir.path() / "out", o);
    auto const read = read_grouped(dir.path() / "out").tensors.at(name);
    for (std::size_t e = 0; e < 3; ++e) {
      CHECK(read.rows[e].empty() == (e == lacking));
      if (e != lacking) { CHECK(read.rebuilt[e] == find(d.experts[e], name)->data); }
    }
  }
}

TEST_CASE("experts of different types are merged once the result's type is given", "[run][layout]") {
  random_source random(169);
  for (dtype const out : {dtype::bf16, dtype::f32, dtype::f16}) {
    temp_dir dir;
    disk_family d = random_disk_family(random, 3);
    // The second expert is stored in float32, with the very same numbers.
    for (auto& t : d.experts[1]) {
      std::vector<std::byte> wide(static_cast<std::size_t>(elements_of(t.shape)) * 4);
      for (index_t i = 0; i < elements_of(t.shape); ++i) {
        store(dtype::f32, load(t.type, t.data.data(), i), wide.data(), i);
      }
      t.type = dtype::f32;
      t.data = wide;
    }
    d.write(dir.path());
    disk_options o;
    o.out = out;
    recipe r;
    r.groups = random.between(1, 3);
    run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "out", o);
    auto const read = read_grouped(dir.path() / "out");
    for (auto const& [name, f] : d.merged) {
      // The numbers are what they were, so the reference may use the family as it was.
      auto const& t = read.tensors.at(name);
      CHECK(t.type == out);
      auto const norms = tensor_norms(f);
      std::vector<std::vector<int>> labels;
      for (index_t c = 0; c < f.base.rows; ++c) { labels.push_back(best_labels(r, f, c, norms)); }
      auto const rows = merged_rows(r, f, labels, out);
      for (std::size_t e = 0; e < 3; ++e) {
        for (std::size_t c = 0; c < rows.size(); ++c) {
          auto const& expected = rows[c][static_cast<std::size_t>(labels[c][e])];
          INFO(name << ", expert " << e << ", channel " << c);
          REQUIRE(std::equal(expected.begin(), expected.end(),
                             t.rebuilt[e].begin() + static_cast<std::ptrdiff_t>(c * expected.size())));
        }
      }
    }
    CHECK(read.tensors.at("model.norm.weight").type == out);
  }
}

TEST_CASE("tensors without elements are carried", "[run][layout]") {
  random_source random(170);
  temp_dir dir;
  disk_family d = random_disk_family(random, 3);
  d.add("model.layers.7.mlp.up_proj.weight", dtype::bf16, {0, 5}, random, true);
  d.add("model.layers.8.mlp.up_proj.weight", dtype::bf16, {5, 0}, random, true);
  d.add("model.layers.9.norm.weight", dtype::f32, {0}, random, false);
  d.write(dir.path());
  for (pipeline const method : all_pipelines) {
    recipe r;
    r.method = method;
    r.similarity = metric::balanced;
    disk_options o;
    o.overwrite = true;
    run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "out", o);
    auto const read = read_grouped(dir.path() / "out");
    CHECK(read.tensors.at("model.layers.7.mlp.up_proj.weight").shape == shape_t{0, 5});
    CHECK(read.tensors.at("model.layers.8.mlp.up_proj.weight").shape == shape_t{5, 0});
    for (auto const& t : d.experts[2]) {
      if (d.merged.count(t.name) == 0 || t.data.empty()) { CHECK(read.tensors.at(t.name).rebuilt[2] == t.data); }
    }
  }
}

TEST_CASE("tensors at odd addresses in a file are merged like any other", "[run][layout]") {
  random_source random(171);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 3, {dtype::bf16, dtype::f32, dtype::f16});
  d.write(dir.path() / "even");
  d.write(dir.path() / "odd", 3);
  for (int round = 0; round < 6; ++round) {
    recipe const r = random_recipe(random);
    disk_options o;
    o.overwrite = true;
    run_on_disk(r, dir.path() / "even/base", paths(d, dir.path() / "even"), dir.path() / "a", o);
    run_on_disk(r, dir.path() / "odd/base", paths(d, dir.path() / "odd"), dir.path() / "b", o);
    CHECK(contents(dir.path() / "a") == contents(dir.path() / "b"));
  }
}

TEST_CASE("sharded experts and whole ones merge alike", "[run][layout]") {
  random_source random(172);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 2);
  d.write(dir.path());
  run_on_disk({}, dir.path() / "base", paths(d, dir.path()), dir.path() / "a");
  std::filesystem::remove(dir.path() / d.names[1] / "model.safetensors");
  for (std::size_t i = 0; i < 3; ++i) {
    disk_model part;
    for (std::size_t t = i; t < d.experts[1].size(); t += 3) { part.push_back(d.experts[1][t]); }
    write_file(dir.path() / d.names[1] / ("model-0000" + std::to_string(i + 1) + "-of-00003.safetensors"), part);
  }
  run_on_disk({}, dir.path() / "base", paths(d, dir.path()), dir.path() / "b");
  CHECK(contents(dir.path() / "a") == contents(dir.path() / "b"));
}
