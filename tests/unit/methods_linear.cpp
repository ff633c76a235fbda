#include "support/catch.hpp"
#include "support/method_models.hpp"

using namespace braid_test;

namespace {
std::unique_ptr<any_method> by_name() { return braid::make_tensor_method<braid::cpu>("linear"); }
}  // namespace

TEST_CASE("linear adds weighted models in their order and divides once, bit for bit", "[method][linear]") {
  random_source random(521);
  for (int round = 0; round < 80; ++round) {
    bool const fused = round % 2 == 0;  // in mergekit's style products are added unrounded
    auto const m = braid::make_tensor_method<braid::cpu>(
        "linear", {.style = fused ? braid::method_style::mergekit : braid::method_style::paper});
    family f = method_family(random, random.chance(0.5) ? dtype::f32 : dtype::bf16, random.between(1, 6));
    if (random.chance(0.3)) {
      for (auto& e : f.experts) {
        for (index_t r = 0; r < f.base.rows; ++r) {
          for (index_t c = 0; c < f.base.cols; ++c) { e.weight.set(r, c, static_cast<float>(random.bell() * std::exp2(random.between(-140, 60)))); }
        }
      }
    }
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
      for (std::size_t e = 0; e < x.size(); ++e) {
        expected[e] = fused ? std::fma(w, x[e], expected[e]) : expected[e] + w * x[e];
      }
      sum = sum + w;
    }
    if (normalize) {
      for (float& x : expected) { x = x / sum; }
    }
    REQUIRE(different_bits(merged(*m, request), expected) == 0);
  }
}

TEST_CASE("a fused multiplication and addition rounds once, also where rounding twice would show", "[method][linear]") {
  random_source random(525);
  auto const any_float = [&] {
    float x = 0.0f;
    do { x = braid::detail::bits_as<float>(static_cast<std::uint32_t>(random.bits())); } while (!std::isfinite(x));
    return x;
  };
  int wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    float x = any_float();
    float y = any_float();
    float z = any_float();
    if (i % 2 == 0) {  // near a tie: the product is a half unit of z, and a little
      z = 1.0f + static_cast<float>(random.below(1 << 23)) * 0x1p-23f;
      x = (1.0f + static_cast<float>(random.below(3) - 1) * 0x1p-23f) * 0x1p-12f;
      y = (1.0f + static_cast<float>(random.below(3) - 1) * 0x1p-23f) * 0x1p-12f;
    }
    float const expected = std::fma(x, y, z);
    float const got = braid::detail::fused_multiply_add(x, y, z);
    wrong += bits_of(expected) != bits_of(got) ? 1 : 0;
  }
  CHECK(wrong == 0);
  CHECK(bits_of(braid::detail::fused_multiply_add(-0.0f, 1.0f, -0.0f)) == bits_of(-0.0f));
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
  auto const by_class = braid::linear<braid::cpu>{{.weight = {0.3, 0.1, 0.9}, .fused = true}}.merge<float>(braid::cpu{1}, f.tensor, views);
  CHECK(different_bits(by_class, merged(*by_name(), request)) == 0);
}
