#include "support/catch.hpp"

#include "gpu/pipelines.hpp"

using namespace braid_test;

namespace {

constexpr dtype usual_types[] = {dtype::bf16, dtype::f16, dtype::f32};
constexpr dtype all_types[] = {dtype::bf16, dtype::f16, dtype::f32, dtype::f8_e4m3, dtype::f8_e5m2};

std::string describe(recipe const& r, family const& f) {
  return std::to_string(f.base.rows) + " x " + std::to_string(f.base.cols) + " " + std::string(braid::name_of(f.base.type)) + ", " +
         std::to_string(f.experts.size()) + " experts, " + std::to_string(r.groups) + " groups, method " +
         std::to_string(static_cast<int>(r.method)) + ", metric " + std::to_string(static_cast<int>(r.similarity)) + ", clustering " +
         std::to_string(static_cast<int>(r.cluster)) + ", density " + std::to_string(r.density);
}

/// Where bytes differ first, and what stands there: whole pools would fill a log.
template <class Bytes>
std::string first_difference(Bytes const& device, Bytes const& cpu) {
  if (device.size() != cpu.size()) { return std::to_string(device.size()) + " bytes instead of " + std::to_string(cpu.size()); }
  std::size_t different = 0;
  std::string text = "none";
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    if (device[i] == cpu[i] || ++different > 8) { continue; }
    if (different == 1) { text.clear(); }
    text += "at " + std::to_string(i) + ": " + std::to_string(static_cast<int>(device[i])) + ", not " + std::to_string(static_cast<int>(cpu[i])) + "; ";
  }
  return different == 0 ? text : text + std::to_string(different) + " bytes in all";
}

void check_same(recipe const& r, family const& f, std::vector<float> const& column_weight = {}) {
  INFO(describe(r, f));
  merged_family const cpu = merge_on_cpu(r, f, column_weight);
  merged_family const device = merge_on_device(r, f, column_weight);
  REQUIRE(device.label == cpu.label);
  REQUIRE(device.pool_rows == cpu.pool_rows);
  REQUIRE(first_difference(device.pool, cpu.pool) == "none");
  REQUIRE((device == cpu));
}

recipe random_recipe(random_source& random, pipeline method, int experts) {
  recipe r;
  r.method = method;
  r.density = 0.1 + 0.8 * random.unit();
  r.epsilon = 0.09 * random.unit();
  r.seed = random.bits();
  r.similarity = random.one_of(all_metrics);
  r.groups = random.between(1, experts + 1);
  r.lambda = random.chance(0.3) ? 1.0f : static_cast<float>(2.0 * random.unit());
  return r;
}

std::string message_of(recipe const& r, family const& f, merged_family (*merge)(recipe const&, family const&, std::vector<float> const&)) {
  try {
    (void)merge(r, f, {});
    return "no error";
  } catch (braid::error const& e) {
    return e.what();
  }
}

}  // namespace

TEST_CASE("the executor copies, runs functors and waits", "[short]") {
  for (std::size_t const n : {0u, 1u, 1000u, 300000u}) {
    std::vector<float> x(n);
    for (std::size_t i = 0; i < n; ++i) { x[i] = static_cast<float>(i); }
    auto const y = doubled_on_device(x);
    bool right = y.size() == n;
    for (std::size_t i = 0; right && i < n; ++i) { right = y[i] == 2.0f * x[i]; }
    CHECK(right);
  }
}

TEST_CASE("a device that there isn't is one clear line", "[short]") {
  CHECK(message_of_device(0).empty());
  CHECK(message_of_device(99).find("there is no device 99") != std::string::npos);
  CHECK(message_of_device(-1).find("there is no device -1") != std::string::npos);
}

TEST_CASE("the device's bytes are the CPU's, for every method, type and shape", "[short]") {
  random_source random(401);
  for (pipeline const method : all_pipelines) {
    for (int round = 0; round < 24; ++round) {
      int const n = random.between(1, round % 6 == 0 ? 10 : 5);
      index_t const cols = random_cols(random);
      family const f = random_family(random, random.one_of(usual_types), random.between(1, cols > 100 ? 5 : 20), cols, n);
      check_same(random_recipe(random, method, n), f);
    }
  }
}

TEST_CASE("every kernel once, small enough for compute-sanitizer", "[sanitized]") {
  random_source random(400);
  for (pipeline const method : all_pipelines) {
    for (dtype const type : usual_types) {
      recipe r = random_recipe(random, method, 4);
      r.groups = 2;
      check_same(r, random_family(random, type, 2, 64 * random.between(1, 6), 4));
    }
  }
  for (pipeline const method : {pipeline::none_mean, pipeline::dare_sum}) {
    recipe r = random_recipe(random, method, 4);
    r.groups = 2;
    r.similarity = metric::cosine;
    check_same(r, random_family(random, dtype::bf16, 2, 8704, 4));   // a ring whose units two warps merge
    check_same(r, random_family(random, dtype::bf16, 200, 128, 4));  // some channels for each block
    check_same(r, random_family(random, dtype::bf16, 3, 1552, 4));
  }
  recipe r = random_recipe(random, pipeline::dare_sum, 4);
  r.groups = 2;
  check_same(r, random_family(random, dtype::bf16, 1, 17000, 4));  // clusters
  check_same(r, random_family(random, dtype::bf16, 2, 777, 7));    // many experts
  r.similarity = metric::balanced;
  family f = random_family(random, dtype::f32, 5, 133, 4);
  for (index_t row : {1, 3}) { f.experts[2].weight.copy_row(row, f.experts[0].weight); }
  f.experts[3].weight.copy_row(1, f.experts[1].weight);
  check_same(r, f);  // equal rows; rows that aren't aligned; fewer groups
  r.cluster = clustering::kmeans;
  check_same(r, f);
  f.experts[1].weight.set(2, 100, NAN);
  CHECK(message_of(r, f, merge_on_device) == message_of(r, f, merge_on_cpu));
}

TEST_CASE("a ring's slots are used again, small enough for compute-sanitizer", "[sanitized]") {
  random_source random(414);
  recipe r = random_recipe(random, pipeline::none_mean, 4);
  r.groups = 2;
  r.similarity = metric::cosine;
  check_same(r, random_family(random, dtype::bf16, 4000, 16, 4));  // 30 units for each block of a device of 132
}

TEST_CASE("more channels than a device works on at a time", "[short]") {
  random_source random(412);
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{3400, 512}, {900, 4096}, {300, 14336}, {1700, 1552}, {3400, 128}}) {
    for (dtype const type : usual_types) {
      if (type != dtype::bf16 && cols > 4096) { continue; }
      family f = random_family(random, type, rows, cols, random.between(3, 4));
      for (index_t row = 0; row < rows; row += random.between(1, 400)) { f.experts[2].weight.copy_row(row, f.experts[0].weight); }
      for (pipeline const method : {pipeline::none_mean, pipeline::dare_sum, pipeline::magnitude_ties}) {
        if (type != dtype::bf16 && method == pipeline::magnitude_ties && cols > 512) { continue; }
        recipe r = random_recipe(random, method, 4);
        r.groups = 2;
        check_same(r, f);
      }
    }
  }
}

TEST_CASE("more channels with equal rows than a block puts aside", "[short]") {
  random_source random(413);
  family f = random_family(random, dtype::bf16, 60000, 16, 4);
  for (index_t r = 0; r < f.base.rows; ++r) {
    if (random.chance(0.9)) { f.experts[1].weight.copy_row(r, f.experts[3].weight); }
  }
  recipe r = random_recipe(random, pipeline::none_mean, 4);
  r.groups = 2;
  check_same(r, f);
}

TEST_CASE("the device's bytes are the CPU's, in many more rounds") {
  random_source random(402);
  for (pipeline const method : all_pipelines) {
    for (int round = 0; round < 200; ++round) {
      int const n = random.between(1, round % 6 == 0 ? 10 : 5);
      index_t const cols = random_cols(random);
      family const f = random_family(random, random.one_of(usual_types), random.between(1, cols > 100 ? 7 : 40), cols, n);
      check_same(random_recipe(random, method, n), f);
    }
  }
}

TEST_CASE("rows that clusters of blocks share", "[short]") {
  random_source random(403);
  for (index_t const cols : {4096, 8192, 8200, 14336, 20001, 28672}) {
    for (dtype const type : usual_types) {
      for (pipeline const method : {pipeline::none_mean, pipeline::dare_sum, pipeline::magnitude_ties}) {
        int const n = random.between(2, 5);
        recipe r = random_recipe(random, method, n);
        r.groups = random.between(1, n);
        check_same(r, random_family(random, type, 3, cols, n));
      }
    }
  }
}

TEST_CASE("very long rows, and policies that rank inside long rows") {
  random_source random(404);
  for (index_t const cols : {40000, 70001, 131072}) {
    for (pipeline const method : {pipeline::none_mean, pipeline::dare_sum, pipeline::magnitude_rows_ties_sum, pipeline::magprune_mean}) {
      recipe r = random_recipe(random, method, 3);
      r.groups = 2;
      check_same(r, random_family(random, random.one_of(usual_types), 2, cols, 3));
    }
  }
}

TEST_CASE("8-bit types, other clusterings and many experts take several passes", "[short]") {
  random_source random(405);
  for (int round = 0; round < 24; ++round) {
    int const n = round % 4 == 0 ? random.between(11, 24) : random.between(1, 6);
    recipe r = random_recipe(random, pipeline::none_mean, n);
    r.method = random.one_of(all_pipelines);
    r.cluster = n > 10 ? clustering::kmeans : random.one_of(all_clusterings);
    if (n > 10 && random.chance(0.5)) { r.cluster = clustering::agglomerative; }
    index_t const cols = random_cols(random);
    check_same(r, random_family(random, random.one_of(all_types), random.between(1, 12), cols, n));
  }
}

TEST_CASE("base and experts may differ in type, and the result again", "[short]") {
  random_source random(406);
  for (int round = 0; round < 24; ++round) {
    int const n = random.between(1, 6);
    index_t const cols = random_cols(random);
    family f = random_family(random, dtype::f32, random.between(1, 10), cols, n);
    for (auto& e : f.experts) {
      matrix other(random.one_of(all_types), f.base.rows, cols);
      for (index_t r = 0; r < f.base.rows; ++r) {
        for (index_t c = 0; c < cols; ++c) { other.set(r, c, e.weight.at(r, c)); }
      }
      e.weight = other;
    }
    recipe const r = random_recipe(random, random.one_of(all_pipelines), n);
    dtype const out = random.one_of(all_types);
    INFO(describe(r, f));
    mixed_result const cpu = merge_mixed_on_cpu(r, f, out);
    mixed_result const device = merge_mixed_on_device(r, f, out);
    REQUIRE(device.label == cpu.label);
    REQUIRE(first_difference(device.pool, cpu.pool) == "none");
  }
}

TEST_CASE("rows with gaps, and rows that don't begin on 16 bytes", "[short]") {
  random_source random(407);
  for (int round = 0; round < 24; ++round) {
    family f = random_family(random, random.one_of(usual_types), random.between(2, 9), random_cols(random), random.between(2, 5));
    f.base = with_gaps(f.base, random.between(0, 9));
    for (auto& e : f.experts) { e.weight = with_gaps(e.weight, random.between(0, 9)); }
    check_same(random_recipe(random, random.one_of(all_pipelines), static_cast<int>(f.experts.size())), f);
  }
}

TEST_CASE("column weights count the same", "[short]") {
  random_source random(408);
  for (int round = 0; round < 18; ++round) {
    index_t const cols = random.between(1, 1300);
    family const f = random_family(random, random.one_of(usual_types), random.between(1, 9), cols, random.between(2, round % 3 == 0 ? 7 : 4));
    std::vector<float> weight;
    for (index_t c = 0; c < cols; ++c) { weight.push_back(random.chance(0.1) ? 0.0f : static_cast<float>(random.unit())); }
    weight[0] = 1.0f;
    check_same(random_recipe(random, random.one_of(all_pipelines), static_cast<int>(f.experts.size())), f, weight);
  }
}

TEST_CASE("rows that all experts share, and tensors without rows or columns", "[short]") {
  random_source random(409);
  for (int round = 0; round < 12; ++round) {
    family f = random_family(random, random.one_of(usual_types), 6, random_cols(random), 4);
    for (index_t r = 0; r < f.base.rows; ++r) {
      for (std::size_t e = 1; e < f.experts.size(); ++e) {
        if (random.chance(0.6)) { f.experts[e].weight.copy_row(r, f.experts[e - 1].weight); }
      }
    }
    check_same(random_recipe(random, random.one_of(all_pipelines), 4), f);
  }
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{0, 5}, {5, 0}, {0, 0}}) {
    check_same(random_recipe(random, pipeline::none_mean, 3), random_family(random, dtype::bf16, rows, cols, 3));
  }
}

TEST_CASE("any finite bits, where squares overflow or vanish", "[short]") {
  random_source random(410);
  for (int round = 0; round < 24; ++round) {
    index_t const cols = random.between(1, 600);
    family f = random_family(random, random.one_of(usual_types), 4, cols, random.between(1, 4));
    fill_with_any_finite(random, f.base);
    for (auto& e : f.experts) { fill_with_any_finite(random, e.weight); }
    recipe const r = random_recipe(random, random.one_of(all_pipelines), static_cast<int>(f.experts.size()));
    INFO(describe(r, f));
    std::string const cpu = message_of(r, f, merge_on_cpu);
    REQUIRE(message_of(r, f, merge_on_device).substr(0, 40) == cpu.substr(0, 40));
    if (cpu == "no error") { check_same(r, f); }
  }
}

TEST_CASE("NaN and infinity are refused in the CPU's words", "[short]") {
  random_source random(411);
  constexpr float bad[] = {NAN, INFINITY, -INFINITY};
  for (int round = 0; round < 36; ++round) {
    int const n = random.between(1, 5);
    family f = random_family(random, random.one_of(usual_types), random.between(1, 8), random.between(1, 5000), n);
    int const model = random.between(-1, n - 1);
    matrix& m = model < 0 ? f.base : f.experts[static_cast<std::size_t>(model)].weight;
    m.set(random.between(0, static_cast<int>(m.rows) - 1), random.between(0, static_cast<int>(m.cols) - 1), random.one_of(bad));
    recipe const r = random_recipe(random, random.one_of(all_pipelines), n);
    INFO(describe(r, f));
    std::string const cpu = message_of(r, f, merge_on_cpu);
    REQUIRE(cpu != "no error");
    REQUIRE(message_of(r, f, merge_on_device) == cpu);
  }
}
