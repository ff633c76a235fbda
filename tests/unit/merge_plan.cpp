#include "support/models_on_disk.hpp"
#include "unit/io_support.hpp"

#include <braid/cluster/any.hpp>
#include <braid/consensus/ties.hpp>
#include <braid/engine/detail/recipe_json.hpp>
#include <braid/engine/merge_plan.hpp>

using namespace braid_test;
using braid::action;

namespace {

/// Checkpoints of a family, opened.
struct opened {
  braid::checkpoint base;
  std::vector<braid::checkpoint> experts;
  std::vector<std::string> names;

  opened(disk_family const& d, std::filesystem::path const& dir) : base(written(d, dir) / "base"), names(d.names) {
    for (auto const& n : names) { experts.emplace_back(dir / n, n); }
  }
  [[nodiscard]] braid::merge_plan plan(braid::selection const& rules = {}, std::optional<dtype> out = {}) const {
    return braid::plan_merge(base, experts, names, rules, out);
  }

 private:
  static std::filesystem::path const& written(disk_family const& d, std::filesystem::path const& dir) {
    d.write(dir);
    return dir;
  }
};

braid::planned_tensor const& of(braid::merge_plan const& plan, std::string_view name) {
  auto const it = std::find_if(plan.tensors.begin(), plan.tensors.end(), [&](auto const& t) { return t.name == name; });
  REQUIRE(it != plan.tensors.end());
  return *it;
}

}  // namespace

TEST_CASE("a plan holds every tensor of the experts, by falling element size, then by name", "[merge_plan]") {
  random_source random(191);
  temp_dir dir;
  disk_family d = random_disk_family(random, 3, {dtype::bf16, dtype::f32, dtype::f8_e4m3});
  d.add("model.position_ids", dtype::f64, {4}, random, false);
  for (auto& e : d.experts) { e.back().data.assign(32, std::byte{1}); }
  d.base.back().data.assign(32, std::byte{1});
  opened const models(d, dir.path());
  auto const plan = models.plan();
  CHECK(plan.tensors.size() == d.experts[0].size());
  CHECK(plan.tensors.front().name == "model.position_ids");
  for (std::size_t i = 1; i < plan.tensors.size(); ++i) {
    auto const& a = plan.tensors[i - 1];
    auto const& b = plan.tensors[i];
    bool const in_order = braid::size_of(a.out) > braid::size_of(b.out) ||
                          (braid::size_of(a.out) == braid::size_of(b.out) && a.name < b.name);
    CHECK(in_order);
  }
  CHECK(plan.tied.empty());
  CHECK(plan.notes.empty());
  for (auto const& list : plan.absent) { CHECK(list.empty()); }
}

TEST_CASE("a plan says for each tensor what happens and how it is cut into channels", "[merge_plan]") {
  random_source random(192);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 2);
  opened const models(d, dir.path());
  auto const plan =
      models.plan(braid::selection({{"*norm*", action::merge}, {"*down_proj*", action::from_base}}, {{"*q_proj*", 1}}));

  auto const& q = of(plan, "model.layers.0.self_attn.q_proj.weight");
  auto const& q_meta = models.base.at(q.name);
  CHECK(q.what == action::merge);
  CHECK(q.axis == 1);
  CHECK(q.channels == q_meta.shape[1]);
  CHECK(q.cols == q_meta.shape[0]);
  CHECK(q.transposed == q_meta.shape[1]);
  CHECK(q.base == models.base.find(q.name));
  CHECK(q.experts[1] == models.experts[1].find(q.name));
  CHECK(q.input_bytes() == 3 * q_meta.bytes);

  auto const& stacked = of(plan, "model.layers.1.mlp.experts.gate_up_proj");
  CHECK(stacked.axis == 1);
  CHECK(stacked.channels == stacked.shape[0] * stacked.shape[1]);
  CHECK(stacked.cols == 17);
  CHECK(stacked.transposed == 0);

  auto const& norm = of(plan, "model.norm.weight");
  CHECK(norm.what == action::merge);
  CHECK(norm.channels == 1);
  CHECK(norm.cols == 16);
  CHECK(norm.axis == -1);

  auto const& down = of(plan, "model.layers.0.mlp.down_proj.weight");
  CHECK(down.what == action::from_base);
  CHECK(down.input_bytes() == models.base.at(down.name).bytes);

  auto const& gate = of(plan, "model.layers.1.mlp.gate.weight");
  CHECK(gate.what == action::keep);
  CHECK(gate.base == nullptr);
  CHECK(gate.input_bytes() == 2 * models.base.at(gate.name).bytes);
}

TEST_CASE("a plan knows the largest vocabulary and each expert's own", "[merge_plan]") {
  random_source random(193);
  temp_dir dir;
  disk_family d = random_disk_family(random, 3);
  index_t const rows = find(d.base, "model.embed_tokens.weight")->shape[0];
  for (std::size_t const e : {std::size_t{1}, std::size_t{2}}) {
    auto* const t = find(d.experts[e], "model.embed_tokens.weight");
    t->shape[0] += static_cast<index_t>(3 - e) * 4;
    t->data.resize(static_cast<std::size_t>(elements_of(t->shape)) * 2);
  }
  opened const models(d, dir.path());
  auto const plan = models.plan();
  auto const& t = of(plan, "model.embed_tokens.weight");
  CHECK(t.channels == rows + 8);
  CHECK(t.shape == shape_t{rows + 8, 16});
  CHECK(t.first_shape == shape_t{rows, 16});
  CHECK(t.expert_channels == std::vector<index_t>{rows, rows + 8, rows + 4});
}

TEST_CASE("a plan converts floating tensors and carries the others", "[merge_plan]") {
  random_source random(194);
  temp_dir dir;
  disk_family d = random_disk_family(random, 2);
  for (auto* const m : {&d.base, &d.experts[0], &d.experts[1]}) {
    m->push_back({"model.ids", dtype::i64, {2}, std::vector<std::byte>(16)});
    m->push_back({"model.wide", dtype::f64, {2}, std::vector<std::byte>(16)});
  }
  opened const models(d, dir.path());
  auto const plan = models.plan({}, dtype::f16);
  CHECK(of(plan, "model.norm.weight").out == dtype::f16);
  CHECK(of(plan, "model.layers.0.self_attn.q_proj.weight").out == dtype::f16);
  CHECK(of(plan, "model.ids").out == dtype::i64);
  CHECK(of(plan, "model.wide").out == dtype::f64);
  CHECK(of(models.plan(), "model.norm.weight").out == dtype::f32);
}

TEST_CASE("a head that some experts lack is an alias of the embedding where all their bytes agree",
          "[merge_plan][tied]") {
  random_source random(195);
  temp_dir dir;
  disk_family d = random_disk_family(random, 3);
  disk_tensor head = *find(d.experts[1], "model.embed_tokens.weight");
  head.name = "lm_head.weight";
  d.experts[1].push_back(head);
  {
    opened const models(d, dir.path());
    auto const plan = models.plan();
    CHECK(plan.tied == std::map<std::string, std::string>{{"lm_head.weight", "model.embed_tokens.weight"}});
    CHECK(plan.absent[0] == std::vector<std::string>{"lm_head.weight"});
    CHECK(plan.absent[1].empty());
    CHECK(plan.tensors.size() == d.experts[0].size());
    REQUIRE(plan.notes.size() == 1);
    CHECK(contains(plan.notes[0], "lm_head.weight is tied to model.embed_tokens.weight"));
  }
  // A head of its own is stored; those who lack it have the embedding's rows.
  d.experts[1].back().data[0] ^= std::byte{1};
  {
    opened const models(d, dir.path());
    auto const plan = models.plan();
    CHECK(plan.tied.empty());
    auto const& t = of(plan, "lm_head.weight");
    CHECK(t.experts[0] == models.experts[0].find("model.embed_tokens.weight"));
    CHECK(t.experts[1] == models.experts[1].find("lm_head.weight"));
  }
  // Who says that nothing is tied has a hole.
  write_note(dir.path() / d.names[2] / "config.json", "{\"tie_word_embeddings\": false}");
  opened const models(d, dir.path());
  CHECK_THROWS_AS(models.plan(), braid::shape_error);
  CHECK(contains(message_of([&] { (void)models.plan(); }), "expert '" + d.names[2] + "'"));
}

TEST_CASE("tensors of the base that no expert has are left out, and counted", "[merge_plan]") {
  random_source random(196);
  temp_dir dir;
  disk_family d = random_disk_family(random, 2);
  for (int i = 0; i < 3; ++i) {
    d.base.push_back({"vision." + std::to_string(i), dtype::bf16, {1}, std::vector<std::byte>(2)});
  }
  opened const models(d, dir.path());
  auto const plan = models.plan();
  CHECK(plan.tensors.size() == d.experts[0].size());
  REQUIRE(plan.notes.size() == 1);
  CHECK(contains(plan.notes[0], "3 tensors of the base"));
  auto const more = models.plan(braid::selection({{"vision.1", action::from_base}}));
  CHECK(more.tensors.size() == d.experts[0].size() + 1);
  CHECK(contains(more.notes[0], "2 tensors of the base"));
}

TEST_CASE("a recipe names the policies and their numbers, a user's own included", "[recipe]") {
  struct own_prune {
    std::string_view name = "own";
    float least = 0.5f;
    void describe(nlohmann::json& j) const { j["least"] = least; }
  };
  struct options {
    own_prune prune;
    braid::cluster::exact similarity;  // any policy: only its name is asked for
    braid::cluster::any cluster = braid::cluster::kmeans{.seed = 9, .restarts = 3};
    braid::consensus::ties consensus;
    int groups = 3;
    float lambda = 0.5f;
  };
  auto const recipe = braid::detail::recipe_json(options{});
  CHECK(recipe["prune"] == nlohmann::json{{"name", "own"}, {"least", 0.5}});
  CHECK(recipe["cluster"] == nlohmann::json{{"name", "kmeans"}, {"seed", 9}, {"restarts", 3}});
  CHECK(recipe["consensus"] == nlohmann::json{{"name", "ties"}});
  CHECK(recipe["groups"] == 3);
  CHECK(recipe["lambda"] == 0.5);
  CHECK(braid::detail::recipe_seed(options{}) == 9);
}
