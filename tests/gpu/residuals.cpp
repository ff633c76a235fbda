#include "support/catch.hpp"

#include "gpu/residuals.hpp"

using namespace braid_test;
using braid::residual_code;

namespace {

constexpr dtype usual_types[] = {dtype::bf16, dtype::f16, dtype::f32};
constexpr residual_code all_codes[] = {residual_code::sign1,   residual_code::sign2,    residual_code::sign3,
                                       residual_code::ternary, residual_code::trellis1, residual_code::trellis2};

void check_same(recipe const& r, residual_recipe const& coding, family const& f, std::vector<float> const& column_weight = {}) {
  INFO(f.base.rows << " x " << f.base.cols << " " << braid::name_of(f.base.type) << ", " << f.experts.size() << " experts, " << r.groups
                   << " groups, " << braid::name_of(coding.code) << ", " << coding.sweeps << " sweeps, budget " << coding.budget
                   << (coding.rank_one ? ", scales of columns" : ""));
  coded_family const cpu = code_on_cpu(r, coding, f, column_weight);
  coded_family const device = code_on_device(r, coding, f, column_weight);
  REQUIRE(device.code == cpu.code);
  REQUIRE(device.column == cpu.column);
  REQUIRE(device.scales == cpu.scales);
  REQUIRE(device.planes == cpu.planes);
  REQUIRE(device.merged.label == cpu.merged.label);
  REQUIRE(device.merged.pool == cpu.merged.pool);
  REQUIRE(device.merged.rebuilt == cpu.merged.rebuilt);
  REQUIRE(device == cpu);
}

recipe random_recipe(random_source& random, int experts) {
  recipe r;
  r.density = random.chance(0.5) ? 1.0 : 0.2 + 0.8 * random.unit();
  r.seed = random.bits();
  r.similarity = random.one_of(all_metrics);
  r.groups = random.between(1, std::min(experts, 4));
  r.lambda = random.chance(0.5) ? 1.0f : static_cast<float>(2.0 * random.unit());
  return r;
}

residual_recipe random_coding(random_source& random, residual_code code) {
  residual_recipe c;
  c.code = code;
  c.sweeps = random.between(0, 3);
  c.rank_one = random.chance(0.3);
  return c;
}

std::vector<float> random_weights(random_source& random, index_t cols) {
  std::vector<float> weight;
  for (index_t c = 0; c < cols; ++c) { weight.push_back(random.chance(0.1) ? 0.0f : static_cast<float>(random.unit())); }
  if (cols > 0) { weight[0] = 1.0f; }
  return weight;
}

}  // namespace

TEST_CASE("residuals of the device are the CPU's, for every code, type and shape", "[short][residuals]") {
  random_source random(421);
  for (residual_code const code : all_codes) {
    for (int round = 0; round < 20; ++round) {
      int const n = random.between(1, round % 6 == 0 ? 10 : 5);
      index_t const cols = round % 5 == 4 ? random.between(1500, 6000) : random_cols(random);
      family const f = random_family(random, random.one_of(usual_types), random.between(1, cols > 100 ? 5 : 20), cols, n);
      std::vector<float> const weight = cols > 0 && random.chance(0.3) ? random_weights(random, cols) : std::vector<float>{};
      check_same(random_recipe(random, n), random_coding(random, code), f, weight);
    }
  }
}

TEST_CASE("residuals of long rows, and of more channels than a device works on at a time", "[short][residuals]") {
  random_source random(422);
  for (residual_code const code : all_codes) {
    bool const searches = code == residual_code::trellis1 || code == residual_code::trellis2;
    for (auto const& [rows, cols] : {std::pair<index_t, index_t>{2, 14336}, {2, 20001}, {1, 70000}, {searches ? 200 : 3000, searches ? 300 : 600}}) {
      residual_recipe coding = random_coding(random, code);
      coding.sweeps = 1;
      recipe r = random_recipe(random, 3);
      r.groups = random.between(1, 2);
      check_same(r, coding, random_family(random, random.one_of(usual_types), rows, cols, 3));
    }
  }
}

TEST_CASE("residuals of 8-bit types, other clusterings and many experts", "[short][residuals]") {
  random_source random(423);
  for (residual_code const code : all_codes) {
    for (dtype const type : {dtype::f8_e4m3, dtype::f8_e5m2, dtype::bf16}) {
      int const n = type == dtype::bf16 ? random.between(11, 20) : random.between(2, 6);
      recipe r = random_recipe(random, n);
      r.cluster = n > 10 ? clustering::kmeans : random.one_of(all_clusterings);
      check_same(r, random_coding(random, code), random_family(random, type, 6, random_cols(random), n));
    }
  }
}

TEST_CASE("residuals of any finite bits, of rows with gaps, and of equal rows", "[short][residuals]") {
  random_source random(424);
  for (residual_code const code : all_codes) {
    for (int round = 0; round < 4; ++round) {
      int const n = random.between(2, 5);
      family f = random_family(random, random.one_of(usual_types), 4, random.between(1, 700), n);
      recipe r = random_recipe(random, n);
      r.groups = 1;
      if (round == 0) {
        for (auto& e : f.experts) { fill_with_any_finite(random, e.weight); }
      } else if (round == 1) {
        f.base = with_gaps(f.base, random.between(0, 9));
        for (auto& e : f.experts) { e.weight = with_gaps(e.weight, random.between(0, 9)); }
      } else {
        for (std::size_t e = 1; e < f.experts.size(); ++e) {
          for (index_t row = 0; row < f.base.rows; ++row) {
            if (random.chance(0.5)) { f.experts[e].weight.copy_row(row, f.experts[e - 1].weight); }
          }
        }
      }
      check_same(r, random_coding(random, code), f);
    }
  }
}

TEST_CASE("budgets choose the same groups and codes on the device", "[short][residuals]") {
  random_source random(425);
  for (int round = 0; round < 16; ++round) {
    int const n = random.between(2, 6);
    index_t const cols = random.between(16, 1200);
    family const f = random_family(random, random.one_of(usual_types), random.between(10, 60), cols, n);
    recipe r = random_recipe(random, n);
    r.groups = n;
    residual_recipe coding = random_coding(random, residual_code::none);
    if (round % 4 == 3) { coding.allowed = {residual_code::sign1, residual_code::trellis1}; }
    if (round % 4 == 2) { coding.code = residual_code::ternary; }
    coding.budget = 1.25 / n + 0.05 + 0.6 * random.unit();
    coding.weighting = round % 2 == 0 ? braid::error_weighting::even : braid::error_weighting::plain;
    check_same(r, coding, f, random.chance(0.3) ? random_weights(random, cols) : std::vector<float>{});
  }
}

TEST_CASE("NaN and infinity are refused where residuals are coded, or are merged as they are", "[short][residuals]") {
  random_source random(426);
  for (residual_code const code : all_codes) {
    family f = random_family(random, random.one_of(usual_types), 5, random.between(1, 900), 3);
    f.experts[1].weight.set(3, random.below(static_cast<int>(f.base.cols)), INFINITY);
    recipe r = random_recipe(random, 3);
    residual_recipe const coding = random_coding(random, code);
    auto const message = [&](auto const& merge) -> std::string {
      try {
        (void)merge(r, coding, f, {});
        return "no error";
      } catch (braid::error const& e) {
        return e.what();
      }
    };
    std::string const cpu = message(code_on_cpu);
    CHECK(cpu != "no error");
    CHECK(message(code_on_device) == cpu);
  }
}

TEST_CASE("every kernel of residuals once, small enough for compute-sanitizer", "[sanitized][residuals]") {
  random_source random(427);
  for (residual_code const code : all_codes) {
    for (bool const rank_one : {false, true}) {
      residual_recipe coding = random_coding(random, code);
      coding.rank_one = rank_one;
      coding.sweeps = 1;
      recipe r = random_recipe(random, 3);
      r.groups = 1;
      check_same(r, coding, random_family(random, dtype::bf16, 2, random.between(500, 1300), 3));
    }
  }
}
