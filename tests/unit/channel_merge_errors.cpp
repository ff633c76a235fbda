#include "support/pipelines.hpp"
#include "unit/io_support.hpp"

#include <braid/method/presets.hpp>

#include <limits>

using namespace braid_test;

namespace {

std::string message_of_merge(recipe const& r, family const& f) {
  return message_of([&] { (void)merge(r, f); });
}

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("options that can't be meant are refused", "[channel_merge][errors]") {
  random_source random(111);
  family const f = random_family(random, dtype::bf16, 2, 4, 2);
  for (int const groups : {0, -1, 256, 1000}) {
    recipe r;
    r.groups = groups;
    CHECK_THROWS_AS(merge(r, f), braid::argument_error);
    CHECK(contains(message_of_merge(r, f), "groups is " + std::to_string(groups) + ": choose 1 to 255"));
  }
  for (float const lambda : {infinity, -infinity, not_a_number}) {
    recipe r;
    r.lambda = lambda;
    CHECK_THROWS_AS(merge(r, f), braid::argument_error);
  }
  recipe r;
  r.density = 1.5;
  for (pipeline const p : all_pipelines) {
    r.method = p;
    if (p == pipeline::none_mean || p == pipeline::none_sum) {
      CHECK_NOTHROW(merge(r, f));
    } else {
      CHECK_THROWS_AS(merge(r, f), braid::argument_error);
    }
  }
}

TEST_CASE("experts need names, different ones, of the letters that files can have", "[channel_merge][errors]") {
  random_source random(112);
  family f = random_family(random, dtype::bf16, 2, 4, 3);
  f.experts[2].name = f.experts[0].name;
  CHECK_THROWS_AS(merge({}, f), braid::argument_error);
  CHECK(contains(message_of_merge({}, f), "two experts are named 'expert-000'"));
  for (std::string const name : {"", "a b", "../up", "a/b", "\xC3\xA4", "a.b"}) {
    f.experts[2].name = name;
    CHECK_THROWS_AS(merge({}, f), braid::argument_error);
    CHECK(contains(message_of_merge({}, f), "'" + name + "'"));
  }
  f.experts[2].name = "Z-9_";
  CHECK_NOTHROW(merge({}, f));
  f.experts.clear();
  CHECK(contains(message_of_merge({}, f), "at least one expert"));
  CHECK(contains(message_of_merge({}, random_family(random, dtype::bf16, 1, 1, 256)), "at most 255 experts, not 256"));
}

TEST_CASE("an expert of another shape is named, with both shapes", "[channel_merge][errors]") {
  random_source random(113);
  family f = random_family(random, dtype::bf16, 5, 4, 3);
  f.experts[1].weight = matrix(dtype::bf16, 5, 6);
  CHECK_THROWS_AS(merge({}, f), braid::shape_error);
  for (auto const part : {"layers.3.mlp.up_proj.weight", "expert-001", "5 x 6", "5 x 4"}) {
    CHECK(contains(message_of_merge({}, f), part));
  }
  f.experts[1].weight = matrix(dtype::bf16, 4, 4);
  CHECK_THROWS_AS(merge({}, f), braid::shape_error);
}

TEST_CASE("exact clustering refuses more than ten experts, and only where there is something to choose",
          "[channel_merge][errors]") {
  random_source random(114);
  family const f = random_family(random, dtype::bf16, 2, 40, 11);
  recipe r;
  r.groups = 2;
  CHECK_THROWS_AS(merge(r, f), braid::argument_error);
  CHECK(contains(message_of_merge(r, f), "cluster::kmeans"));
  r.groups = 1;
  CHECK_NOTHROW(merge(r, f));
  r.groups = 11;
  CHECK_NOTHROW(merge(r, f));
  r.groups = 10;
  CHECK_THROWS_AS(merge(r, f), braid::argument_error);
  CHECK_NOTHROW(merge(r, random_family(random, dtype::bf16, 1, 40, 10)));
}

TEST_CASE("NaN and infinity are found wherever they are, and named", "[channel_merge][errors]") {
  random_source random(115);
  struct kind {
    float value;
    char const* word;
  };
  for (dtype const type : {dtype::f32, dtype::f16, dtype::bf16}) {
    for (int round = 0; round < 40; ++round) {
      int const n = random.between(1, 5);
      index_t const rows = random.between(1, 12);
      index_t const cols = random.between(1, 1100);
      family f = random_family(random, type, rows, cols, n);
      int const model = random.below(n + 1) - 1;
      index_t const row = random.below(static_cast<int>(rows));
      index_t const col = random.below(static_cast<int>(cols));
      kind const kinds[] = {{not_a_number, "NaN"}, {infinity, "infinity"}, {-infinity, "-infinity"}};
      kind const& k = random.one_of(kinds);
      matrix& w = model < 0 ? f.base : f.experts[static_cast<std::size_t>(model)].weight;
      w.set(row, col, k.value);
      recipe r;
      r.groups = random.between(1, n + 1);
      r.similarity = random.one_of(all_metrics);
      if (type == dtype::bf16) { r.method = random.one_of(all_pipelines); }
      r.density = 0.5;
      std::string const message = message_of_merge(r, f);
      INFO("experts " << n << ", groups " << r.groups << ", metric " << static_cast<int>(r.similarity));
      CHECK_THROWS_AS(merge(r, f), braid::value_error);
      CHECK(contains(message, model < 0 ? std::string("the base") : "expert '" + expert_name(model) + "'"));
      CHECK(contains(message, std::string("has ") + k.word));
      CHECK(contains(message, "channel " + std::to_string(row) + ", column " + std::to_string(col)));
      r.allow_nonfinite = true;
      CHECK_NOTHROW(merge(r, f));
    }
  }
}

TEST_CASE("NaN and infinity that are allowed don't touch other columns, and lone rows keep their payload",
          "[channel_merge][errors]") {
  random_source random(116);
  for (int round = 0; round < 20; ++round) {
    family f = random_family(random, dtype::bf16, 4, 40, 3);
    recipe r;
    r.groups = 1;
    auto const clean = merge(r, f);
    r.allow_nonfinite = true;
    CHECK(merge(r, f) == clean);
    f.experts[1].weight.set(2, 7, not_a_number);
    f.experts[0].weight.set(3, 9, infinity);
    auto const spoiled = merge(r, f);
    CHECK(std::isnan(load(dtype::bf16, spoiled.pool.data(), 2 * 40 + 7)));
    CHECK_FALSE(std::isfinite(load(dtype::bf16, spoiled.pool.data(), 3 * 40 + 9)));
    index_t different = 0;
    for (index_t i = 0; i < 4 * 40; ++i) {
      different += load(dtype::bf16, spoiled.pool.data(), i) != load(dtype::bf16, clean.pool.data(), i) ? 1 : 0;
    }
    CHECK(different == 2);
    r.groups = 3;
    f.experts[2].weight.row(1)[1] = std::byte{0xFF};  // any bits
    auto const lossless = merge(r, f);
    for (std::size_t e = 0; e < 3; ++e) { CHECK(lossless.rebuilt[e] == f.experts[e].weight.packed()); }
  }
}

TEST_CASE("finite numbers whose squares overflow are an error where they are compared, and only there",
          "[channel_merge][errors]") {
  random_source random(117);
  family f = random_family(random, dtype::f32, 3, 40, 3);
  f.experts[1].weight.set(2, 7, 1e30f);
  recipe r;
  r.groups = 2;
  CHECK_THROWS_AS(merge(r, f), braid::value_error);
  std::string const message = message_of_merge(r, f);
  CHECK(contains(message, "expert 'expert-001'"));
  CHECK(contains(message, "overflows float32"));
  CHECK(contains(message, "channel 2"));
  r.allow_nonfinite = true;
  CHECK_NOTHROW(merge(r, f));
  r.allow_nonfinite = false;
  r.similarity = metric::sign;
  CHECK_NOTHROW(merge(r, f));
  r.groups = 1;
  CHECK_NOTHROW(merge(r, f));
}

TEST_CASE("the presets are the paper's settings", "[channel_merge][presets]") {
  auto const dare = braid::presets::make_dare_cm<>(9);
  CHECK(dare.settings().prune.density == 0.7);
  CHECK(dare.settings().prune.seed == 9);
  CHECK(dare.settings().groups == 2);
  CHECK(dare.settings().lambda == 0.5f);
  CHECK(dare.settings().consensus.name == "sum");
  CHECK(dare.settings().similarity.name == "cosine");
  CHECK(dare.settings().cluster.name == "exact");
  auto const ties = braid::presets::make_ties_cm<>();
  CHECK(ties.settings().prune.density == 0.7);
  CHECK(ties.settings().prune.name == "magnitude");
  CHECK(ties.settings().groups == 2);
  CHECK(ties.settings().lambda == 0.5f);
  CHECK(ties.settings().consensus.name == "ties_sum");
}
