#include "support/catch.hpp"
#include "support/method_models.hpp"

using namespace braid_test;

namespace {
std::unique_ptr<any_method> by_name() { return braid::make_tensor_method<braid::cpu>("linear"); }
}  // namespace

TEST_CASE("linear adds weighted models in their order and divides once, bit for bit", "[method][linear]") {
  random_source random(521);
  auto const m = by_name();
  for (int round = 0; round < 60; ++round) {
    family const f = method_family(random, random.chance(0.5) ? dtype::f32 : dtype::bf16, random.between(1, 6));
    auto request = request_of(f, false, dtype::f32);
    std::vector<double> weight;
    for (std::size_t i = 0; i < f.experts.size(); ++i) { weight.push_back(random.chance(0.2) ? -0.25 : random.unit() + 0.1); }
    bool const normalize = random.chance(0.5);
    request.parameters.of_model["weight"] = values(weight);
    request.parameters.of_tensor["normalize"] = normalize ? 1.0 : 0.0;
    std::vector<float> expected(elements(f.base).size(), 0.0f);
    float sum = 0.0f;
    for (std::size_t i = 0; i < weight.size(); ++i) {
      auto const x = elements(f.experts[i].weight);
      auto const w = static_cast<float>(weight[i]);
      for (std::size_t e = 0; e < x.size(); ++e) { expected[e] = expected[e] + w * x[e]; }
      sum = sum + w;
    }
    if (normalize) {
      for (float& x : expected) { x = x / sum; }
    }
    REQUIRE(different_bits(merged(*m, request), expected) == 0);
  }
}

TEST_CASE("with all the weight on one model, linear copies it bit for bit", "[method][linear]") {
  random_source random(522);
  for (dtype const type : {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2}) {
    family f = method_family(random, type, 3);
    for (auto& e : f.experts) { fill_with_any_finite(random, e.weight); }
    std::size_t const chosen = 1;
    matrix& weight = f.experts[chosen].weight;
    for (index_t r = 0; r < weight.rows; ++r) {
      for (index_t c = 0; c < weight.cols; ++c) {
        if (weight.at(r, c) == 0.0f) { weight.set(r, c, 0.0f); }  // a sum from +0 is never -0
      }
    }
    auto request = request_of(f, false, type);
    std::vector<double> one(3, 0.0);
    request.parameters.of_tensor["normalize"] = 0.0;
    one[chosen] = 1.0;
    request.parameters.of_model["weight"] = values(one);
    CHECK(merged_bytes(*by_name(), request) == weight.packed());
  }
}

TEST_CASE("linear refuses an average with weights that sum to zero", "[method][linear]") {
  random_source random(523);
  family const f = method_family(random, dtype::f32, 2);
  auto request = request_of(f, false, dtype::f32);
  request.parameters.of_model["weight"] = values({0.5, -0.5});
  CHECK_THROWS_AS(merged(*by_name(), request), braid::argument_error);
  request.parameters.of_tensor["normalize"] = 0.0;
  CHECK_NOTHROW(merged(*by_name(), request));
}

TEST_CASE("the class of C++ programs and the name of recipes are one method", "[method][linear]") {
  random_source random(524);
  family const f = method_family(random, dtype::f32, 3);
  std::vector<braid::expert_view<float>> views;
  for (auto const& e : f.experts) {
    views.push_back({e.name, {reinterpret_cast<float const*>(e.weight.memory.data()), f.base.rows, f.base.cols}});
  }
  auto request = request_of(f, false, dtype::f32);
  request.parameters.of_model["weight"] = values({0.3, 0.1, 0.9});
  auto const by_class = braid::linear<braid::cpu>{{.weight = {0.3, 0.1, 0.9}}}.merge<float>(braid::cpu{1}, f.tensor, views);
  CHECK(different_bits(by_class, merged(*by_name(), request)) == 0);
}
