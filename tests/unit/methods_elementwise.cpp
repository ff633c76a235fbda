#include "support/catch.hpp"
#include "support/method_models.hpp"

#include <braid/core/detail/elementary.hpp>
#include <braid/method/greedy_soup.hpp>

#include <numeric>

using namespace braid_test;

namespace {

std::vector<std::vector<float>> all_deltas(family const& f) {
  std::vector<std::vector<float>> d;
  auto const base = elements(f.base);
  for (auto const& e : f.experts) {
    auto x = elements(e.weight);
    for (std::size_t i = 0; i < x.size(); ++i) { x[i] = x[i] - base[i]; }
    d.push_back(std::move(x));
  }
  return d;
}

std::unique_ptr<any_method> named(char const* name) { return braid::make_tensor_method<braid::cpu>(name); }

/// Small deltas, of which many are zero, shared or below a threshold.
void move_some(random_source& random, family& f) {
  for (index_t r = 0; r < f.base.rows; ++r) {
    for (index_t c = 0; c < f.base.cols; ++c) {
      for (auto& e : f.experts) {
        double const step = random.chance(0.4) ? 0.0 : random.chance(0.3) ? 1e-6 * random.bell() : 0.1 * random.bell();
        e.weight.set(r, c, static_cast<float>(static_cast<double>(f.base.at(r, c)) + step));
      }
    }
  }
}

}  // namespace

TEST_CASE("nearswap takes near elements whole and far ones in part, bit for bit", "[method][nearswap]") {
  random_source random(561);
  auto const m = named("nearswap");
  for (int round = 0; round < 40; ++round) {
    family f = method_family(random, random.chance(0.5) ? dtype::f32 : dtype::bf16, 1);
    if (random.chance(0.5)) { move_some(random, f); }
    double const t = random.chance(0.1) ? 0.0 : 0.02 * random.unit();
    auto request = request_of(f, true, dtype::f32);
    request.parameters.of_tensor["t"] = t;
    auto const a = elements(f.base);
    auto const b = elements(f.experts[0].weight);
    std::vector<float> expected;
    for (std::size_t i = 0; i < a.size(); ++i) {
      float const inverse = 1.0f / std::max(std::abs(a[i] - b[i]), 1e-6f);
      float const w = std::clamp(inverse * static_cast<float>(t), 0.0f, 1.0f);
      float const near = w * b[i];
      float const far = (1.0f - w) * a[i];
      expected.push_back(near + far);
    }
    REQUIRE(different_bits(merged(*m, request), expected) == 0);
    request.inputs.experts.clear();
    request.models.clear();
    REQUIRE(different_bits(merged(*m, request), a) == 0);
  }
}

TEST_CASE("ram adds what one model changed and averages what several did, bit for bit", "[method][ram]") {
  random_source random(562);
  for (bool const reinforced : {false, true}) {
    auto const m = named(reinforced ? "ramplus_tl" : "ram");
    for (int round = 0; round < 40; ++round) {
      family f = method_family(random, dtype::f32, random.between(1, 5));
      if (random.chance(0.8)) { move_some(random, f); }
      auto request = request_of(f, true, dtype::f32);
      double const epsilon = random.chance(0.3) ? 1e-5 : 0.05 * random.unit();
      double const r = 0.1 + random.unit();
      double const alpha = random.chance(0.5) ? 0.2 : 100.0;
      request.parameters.of_tensor["epsilon"] = epsilon;
      if (reinforced) {
        request.parameters.of_tensor["r"] = r;
        request.parameters.of_tensor["alpha"] = alpha;
      }
      auto const d = all_deltas(f);
      std::size_t const n = d[0].size();
      auto const moves = [&](std::size_t i, std::size_t e) { return std::abs(d[i][e]) > static_cast<float>(epsilon); };
      std::vector<int> movers(n, 0);
      for (std::size_t e = 0; e < n; ++e) {
        for (std::size_t i = 0; i < d.size(); ++i) { movers[e] += moves(i, e) ? 1 : 0; }
      }
      std::vector<float> factor(d.size(), 1.0f);
      for (std::size_t i = 0; reinforced && i < d.size(); ++i) {
        int alone = 0;
        int shared = 0;
        for (std::size_t e = 0; e < n; ++e) {
          alone += moves(i, e) && movers[e] == 1 ? 1 : 0;
          shared += moves(i, e) && movers[e] > 1 ? 1 : 0;
        }
        float const rho = static_cast<float>(shared) / std::max(static_cast<float>(alone), static_cast<float>(epsilon));
        factor[i] = 1.0f + static_cast<float>(r) * std::min(rho, static_cast<float>(alpha));
      }
      auto expected = elements(f.base);
      for (std::size_t e = 0; e < n; ++e) {
        float mix = 0.0f;
        for (std::size_t i = 0; i < d.size(); ++i) {
          if (!moves(i, e)) { continue; }
          mix = mix + (movers[e] == 1 ? d[i][e] * factor[i] : d[i][e] / static_cast<float>(movers[e]));
        }
        expected[e] = expected[e] + mix;
      }
      REQUIRE(different_bits(merged(*m, request), expected) == 0);
    }
  }
}

TEST_CASE("sce selects, weighs and erases", "[method][sce]") {
  random_source random(563);
  auto const m = named("sce");
  for (int round = 0; round < 60; ++round) {
    family f = method_family(random, dtype::f32, random.between(1, 5));
    if (random.chance(0.5)) { move_some(random, f); }
    auto request = request_of(f, true, dtype::f32);
    double const shares[] = {1.0, 0.5, 0.1, 0.0};
    double const share = random.chance(0.6) ? random.one_of(shares) : random.unit();
    request.parameters.of_tensor["select_topk"] = share;
    auto d = all_deltas(f);
    std::size_t const n = d[0].size();
    auto const models = static_cast<float>(d.size());
    if (share < 1.0) {
      // Variances as documented, in float32; ranked by a stable sort.
      std::vector<float> variance(n);
      int nonzero = 0;
      for (std::size_t e = 0; e < n; ++e) {
        float mean = 0.0f;
        for (auto const& x : d) { mean = mean + x[e]; }
        mean = mean / models;
        float sum = 0.0f;
        for (auto const& x : d) { sum = sum + (x[e] - mean) * (x[e] - mean); }
        variance[e] = sum / models;
        nonzero += variance[e] != 0.0f ? 1 : 0;
      }
      std::vector<std::size_t> order(n);
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return variance[a] > variance[b]; });
      auto const kept = static_cast<std::size_t>(static_cast<float>(nonzero) * static_cast<float>(share));
      for (std::size_t k = kept; k < n; ++k) {
        for (auto& x : d) { x[order[k]] = 0.0f; }
      }
    }
    std::vector<double> weight;
    double total = 0.0;
    for (auto const& x : d) {
      double square = 0.0;
      for (float const y : x) { square += static_cast<double>(y) * static_cast<double>(y); }
      weight.push_back(square / static_cast<double>(n));
      total += weight.back();
    }
    if (total > 0.5e-6 && total < 2e-6) { continue; }  // at the border between two rules
    for (double& w : weight) { w = total < 1e-6 ? 1.0 / static_cast<double>(d.size()) : w / total; }
    auto expected = exact_elements(f.base);
    for (std::size_t e = 0; e < n; ++e) {
      float vote = 0.0f;
      for (auto const& x : d) { vote = vote + x[e]; }
      double mix = 0.0;
      double sum = 0.0;
      for (std::size_t i = 0; i < d.size(); ++i) {
        if (vote >= 0.0f ? d[i][e] > 0.0f : d[i][e] < 0.0f) {
          mix += weight[i] * static_cast<double>(d[i][e]);
          sum += weight[i];
        }
      }
      expected[e] += mix / std::max(sum, 1e-6);
    }
    INFO(f.base.rows << " x " << f.base.cols << ", " << d.size() << " models, share " << share);
    CHECK(relative_error(merged(*m, request), expected) < 1e-6);
  }
}

TEST_CASE("arcee fusion takes elements whose importance is beyond the quartiles", "[method][arcee_fusion]") {
  random_source random(564);
  auto const m = named("arcee_fusion");
  for (int round = 0; round < 40; ++round) {
    family f = method_family(random, random.chance(0.5) ? dtype::f32 : dtype::bf16, 1);
    auto const request = request_of(f, true, dtype::f32);
    auto const base = elements(f.base);
    auto const d = all_deltas(f)[0];
    auto const cols = static_cast<std::size_t>(f.base.cols);
    std::vector<double> importance;
    for (index_t r = 0; r < f.base.rows; ++r) {
      auto const softmax = [&](matrix const& x) {
        std::vector<double> p;
        double sum = 0.0;
        for (index_t c = 0; c < f.base.cols; ++c) {
          p.push_back(std::exp(static_cast<double>(x.at(r, c))));
          sum += p.back();
        }
        for (double& y : p) { y = y / sum + 1e-8; }
        return p;
      };
      auto const p = softmax(f.experts[0].weight);
      auto const q = softmax(f.base);
      double divergence = 0.0;
      for (std::size_t c = 0; c < cols; ++c) { divergence += p[c] * std::log(p[c] / q[c]); }
      divergence = std::max(divergence, 0.0);
      for (std::size_t c = 0; c < cols; ++c) {
        importance.push_back(std::abs(static_cast<double>(d[static_cast<std::size_t>(r) * cols + c])) * divergence);
      }
    }
    auto sorted = importance;
    std::sort(sorted.begin(), sorted.end());
    auto const quantile = [&](double q) { return sorted[static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1))]; };
    double const threshold = quantile(0.5) + 1.5 * (quantile(0.75) - quantile(0.25));
    auto const got = merged(*m, request);
    int wrong = 0;
    int fused = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      bool const in = importance[i] >= threshold;
      // Within rounding of the threshold either is right.
      if (std::abs(importance[i] - threshold) <= 1e-4 * threshold + 1e-12) { continue; }
      wrong += bits_of(got[i]) != bits_of(base[i] + (in ? d[i] : 0.0f)) ? 1 : 0;
      fused += in ? 1 : 0;
    }
    INFO(f.base.rows << " x " << f.base.cols << ": " << fused << " fused");
    CHECK(wrong == 0);
  }
}

TEST_CASE("exp and log are right to the last places", "[method][arcee_fusion]") {
  random_source random(565);
  double worst_exp = 0.0;
  double worst_log = 0.0;
  for (int i = 0; i < 200000; ++i) {
    double const x = -std::exp(12.0 * random.unit() - 6.0);
    double const y = std::exp(60.0 * random.unit() - 30.0);
    if (x > -700.0) {
      worst_exp = std::max(worst_exp, std::abs(braid::detail::exp_negative(x) / std::exp(x) - 1.0));
    }
    double const near_one = random.chance(0.5) ? y : 1.0 + 1e-6 * random.bell();
    worst_log = std::max(worst_log, std::abs(braid::detail::log_positive(near_one) / std::log(near_one) - 1.0));
  }
  CHECK(worst_exp < 1e-15);
  CHECK(worst_log < 1e-15);
  CHECK(braid::detail::exp_negative(0.0) == 1.0);
  CHECK(braid::detail::exp_negative(-0.0) == 1.0);
  CHECK(braid::detail::exp_negative(-1e30) == 0.0);
  CHECK(braid::detail::exp_negative(-HUGE_VAL) == 0.0);
  CHECK(braid::detail::log_positive(1.0) == 0.0);
}

TEST_CASE("passthrough copies every bit, or scales", "[method][passthrough]") {
  random_source random(566);
  auto const m = named("passthrough");
  for (dtype const type : {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2}) {
    family f = method_family(random, type, 1);
    fill_with_any_finite(random, f.experts[0].weight);
    auto request = request_of(f, false, type);
    CHECK(merged_bytes(*m, request) == f.experts[0].weight.packed());
    request.parameters.of_model["scale"] = values({-0.5});
    request.inputs.out = dtype::f32;
    auto expected = elements(f.experts[0].weight);
    for (float& x : expected) { x = x * -0.5f; }
    CHECK(different_bits(merged(*m, request), expected) == 0);
  }
}

TEST_CASE("a greedy soup takes whoever doesn't make it worse", "[method][greedy_soup]") {
  // Each candidate is a number; a soup is as good as its mean is near to 10.
  std::vector<double> const candidate{7.0, 12.0, 9.0, 30.0, 11.0};
  std::vector<std::vector<std::size_t>> asked;
  auto const evaluate = [&](std::span<std::size_t const> members) {
    asked.emplace_back(members.begin(), members.end());
    double mean = 0.0;
    for (std::size_t const i : members) { mean += candidate[i] / static_cast<double>(members.size()); }
    return -std::abs(mean - 10.0);
  };
  auto const soup = braid::greedy_soup(candidate.size(), evaluate);
  // 9 and 11 are equally good alone, 9 comes first; with 11 the mean is 10, and nobody improves that.
  CHECK(soup.members == std::vector<std::size_t>{2, 4});
  CHECK(soup.score == 0.0);
  CHECK(soup.alone == std::vector<double>{-3.0, -2.0, -1.0, -20.0, -1.0});
  CHECK(asked.size() == 2 * candidate.size() - 1);
  CHECK_THROWS_AS(braid::greedy_soup(0, evaluate), braid::argument_error);
  CHECK_THROWS_AS(braid::greedy_soup(2, [](std::span<std::size_t const>) { return std::nan(""); }), braid::value_error);
}
