#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/threads.hpp"

#include <braid/serve/router.hpp>

#include <algorithm>
#include <numeric>
#include <set>

using namespace braid_test;
namespace detail = braid::detail;
using braid::feature_row;

namespace {

constexpr double epsilon = 0x1p-52;

feature_row random_row(random_source& random, int dimension) {
  feature_row row;
  for (int i = 0; i < dimension; ++i) {
    if (random.chance(0.4)) { row.push_back({static_cast<std::uint32_t>(i), static_cast<float>(random.bell())}); }
  }
  return row;
}

struct problem {
  std::vector<feature_row> rows;
  std::vector<std::size_t> label;
  std::vector<double> weight;
  std::vector<std::size_t> chosen;
  std::size_t classes;
  int dimension;
};

problem random_problem(random_source& random) {
  problem p;
  p.classes = static_cast<std::size_t>(random.between(2, 5));
  p.dimension = random.between(1, 12);
  int const n = random.between(1, 40);
  for (int i = 0; i < n; ++i) {
    p.rows.push_back(random_row(random, p.dimension));
    p.label.push_back(static_cast<std::size_t>(random.below(static_cast<int>(p.classes))));
    p.weight.push_back(0.1 + random.unit());
    if (i == 0 || random.chance(0.8)) { p.chosen.push_back(static_cast<std::size_t>(i)); }
  }
  return p;
}

/// The loss by the plainest code; weights of all features [dimension, classes], then biases.
double plain_loss(problem const& p, std::vector<double> const& w, double l2) {
  double total = 0.0;
  double weights = 0.0;
  for (std::size_t const i : p.chosen) {
    std::vector<double> z(p.classes);
    double sum = 0.0;
    for (std::size_t k = 0; k < p.classes; ++k) {
      z[k] = w[static_cast<std::size_t>(p.dimension) * p.classes + k];
      for (auto const& f : p.rows[i]) { z[k] += w[f.index * p.classes + k] * static_cast<double>(f.value); }
      sum += std::exp(z[k]);
    }
    total -= p.weight[i] * std::log(std::exp(z[p.label[i]]) / sum);
    weights += p.weight[i];
  }
  double squares = 0.0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(p.dimension) * p.classes; ++i) { squares += w[i] * w[i]; }
  return total / weights + 0.5 * l2 * squares;
}

}  // namespace

TEST_CASE("exponential and logarithm agree with the C library's", "[router]") {
  random_source random(1);
  CHECK(detail::exp_of(0.0) == 1.0);
  CHECK(detail::exp_of(-1e300) == 0.0);
  CHECK(detail::log_of(1.0) == 0.0);
  for (int i = 0; i < 20000; ++i) {
    double const x = -random.unit() * (random.chance(0.5) ? 1.0 : 700.0);
    REQUIRE(std::abs(detail::exp_of(x) - std::exp(x)) <= 4 * epsilon * std::exp(x));
    double const y = 1.0 + std::ldexp(random.unit(), random.between(-20, 40));
    REQUIRE(std::abs(detail::log_of(y) - std::log(y)) <= 4 * epsilon * (std::log(y) + 1e-3));
  }
}

TEST_CASE("L-BFGS finds the minimum of a quadratic form, and of Rosenbrock's valley", "[router]") {
  random_source random(2);
  for (int round = 0; round < 50; ++round) {
    auto const n = static_cast<std::size_t>(random.between(1, 30));
    std::vector<double> scale(n), centre(n), x(n);
    for (std::size_t i = 0; i < n; ++i) {
      scale[i] = std::exp(1.5 * random.bell());
      centre[i] = random.bell();
      x[i] = 5.0 * random.bell();
    }
    auto const f = [&](std::vector<double> const& at, std::vector<double>& g) {
      double sum = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        double const d = at[i] - centre[i];
        sum += 0.5 * scale[i] * d * d;
        g[i] = scale[i] * d;
      }
      return sum;
    };
    auto const result = detail::minimise(f, x, 2000, 1e-9);
    CAPTURE(round, n, result.iterations, result.value);
    REQUIRE(result.converged);
    for (std::size_t i = 0; i < n; ++i) { REQUIRE(scale[i] * std::abs(x[i] - centre[i]) <= 1e-9); }
  }
  auto const valley = [](std::vector<double> const& x, std::vector<double>& g) {
    double const a = 1.0 - x[0];
    double const b = x[1] - x[0] * x[0];
    g[0] = -2.0 * a - 400.0 * x[0] * b;
    g[1] = 200.0 * b;
    return a * a + 100.0 * b * b;
  };
  std::vector<double> x{-1.2, 1.0};
  CHECK(detail::minimise(valley, x, 200, 1e-8).converged);
  CHECK(x[0] == Catch::Approx(1.0).epsilon(1e-6));
  CHECK(x[1] == Catch::Approx(1.0).epsilon(1e-6));
}

TEST_CASE("the loss is the cross entropy, and its gradient the slope of it", "[router]") {
  random_source random(3);
  braid::cpu const be(2);
  for (int round = 0; round < 100; ++round) {
    problem const p = random_problem(random);
    double const l2 = 0.3 * random.unit();
    detail::softmax_loss const loss({p.rows, p.label, p.weight}, p.chosen, p.classes, l2, be);
    // Weights of all features; those that don't occur are zero, and the loss doesn't know them.
    std::set<std::uint32_t> seen;
    for (std::size_t const i : p.chosen) {
      for (auto const& f : p.rows[i]) { seen.insert(f.index); }
    }
    std::vector<std::uint32_t> occurring(seen.begin(), seen.end());
    REQUIRE(loss.variables() == (occurring.size() + 1) * p.classes);
    std::vector<double> x(loss.variables());
    for (double& v : x) { v = random.bell(); }
    auto const spread = [&](std::vector<double> const& from) {
      std::vector<double> w((static_cast<std::size_t>(p.dimension) + 1) * p.classes);
      for (std::size_t k = 0; k < p.classes; ++k) {
        for (std::size_t f = 0; f < occurring.size(); ++f) { w[occurring[f] * p.classes + k] = from[f * p.classes + k]; }
        w[static_cast<std::size_t>(p.dimension) * p.classes + k] = from[occurring.size() * p.classes + k];
      }
      return w;
    };
    std::vector<double> gradient(x.size());
    REQUIRE(loss(x, gradient) == Catch::Approx(plain_loss(p, spread(x), l2)).epsilon(1e-12));
    for (std::size_t i = 0; i < x.size(); ++i) {
      auto left = x, right = x;
      left[i] -= 1e-5;
      right[i] += 1e-5;
      double const slope = (plain_loss(p, spread(right), l2) - plain_loss(p, spread(left), l2)) / 2e-5;
      REQUIRE(gradient[i] == Catch::Approx(slope).margin(1e-8));
    }
    // As a classifier: the same logits, in float32 weights.
    auto const c = loss.classifier(x, p.dimension);
    std::vector<double> z(p.classes);
    auto const w = spread(x);
    for (auto const& row : p.rows) {
      c.logits(row, z.data());
      for (std::size_t k = 0; k < p.classes; ++k) {
        double expected = w[static_cast<std::size_t>(p.dimension) * p.classes + k];
        for (auto const& f : row) { expected += w[f.index * p.classes + k] * static_cast<double>(f.value); }
        REQUIRE(z[k] == Catch::Approx(expected).margin(1e-5));
      }
    }
  }
}

TEST_CASE("the loss has the same bits on any number of threads", "[router]") {
  allow_many_threads();
  random_source random(4);
  std::vector<feature_row> rows;
  std::vector<std::size_t> label;
  for (int i = 0; i < 1000; ++i) {
    rows.push_back(random_row(random, 600));
    label.push_back(static_cast<std::size_t>(random.below(3)));
  }
  std::vector<double> const weight(rows.size(), 1.0);
  std::vector<std::size_t> all(rows.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  std::vector<double> x(601 * 3);
  for (double& v : x) { v = 0.1 * random.bell(); }
  std::vector<double> first, gradient(x.size());
  double value = 0.0;
  for (int threads : {1, 2, 7}) {
    braid::cpu const be(threads);
    detail::softmax_loss const loss({rows, label, weight}, all, 3, 0.01, be);
    REQUIRE(loss.variables() == x.size());
    double const v = loss(x, gradient);
    if (first.empty()) {
      first = gradient;
      value = v;
    }
    CHECK(v == value);
    CHECK(gradient == first);
  }
}

TEST_CASE("parts that are held out are whole groups of about equal size", "[router]") {
  random_source random(5);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::string> const experts{"a", "b", "c"};
    int const parts = random.between(2, 6);
    std::vector<std::size_t> label;
    std::vector<std::string> group;
    for (std::size_t k = 0; k < 3; ++k) {
      int const n = random.between(60, 200);
      for (int i = 0; i < n; ++i) {
        label.push_back(k);
        group.push_back(random.chance(0.5) ? std::string() : "g" + std::to_string(random.below(30)));
      }
    }
    auto const part = detail::held_out_parts(label, group, experts, parts, 7);
    CHECK(part == detail::held_out_parts(label, group, experts, parts, 7));
    CHECK(part != detail::held_out_parts(label, group, experts, parts, 8));
    for (std::size_t k = 0; k < 3; ++k) {
      std::map<std::string, std::set<int>> where;
      std::map<int, int> size;
      std::map<std::string, int> members;
      int largest = 1;
      for (std::size_t i = 0; i < label.size(); ++i) {
        if (label[i] != k) { continue; }
        ++size[part[i]];
        if (!group[i].empty()) {
          where[group[i]].insert(part[i]);
          largest = std::max(largest, ++members[group[i]]);
        }
      }
      for (auto const& [name, homes] : where) { REQUIRE(homes.size() == 1); }
      REQUIRE(size.size() == static_cast<std::size_t>(parts));
      int least = size[0], most = size[0];
      for (auto const& [p, n] : size) {
        least = std::min(least, n);
        most = std::max(most, n);
      }
      REQUIRE(most - least <= largest);
    }
  }
  std::vector<std::size_t> const label{0, 0, 1, 1};
  std::vector<std::string> const one{"g", "g", "", ""};
  CHECK_THROWS_AS(detail::held_out_parts(label, one, {"a", "b"}, 2, 0), braid::argument_error);
}

TEST_CASE("rare features are scaled up, and rows stay of length one", "[router]") {
  random_source random(7);
  for (int round = 0; round < 50; ++round) {
    problem const p = random_problem(random);
    auto const scale = detail::inverse_frequencies(p.rows, p.chosen, p.dimension);
    REQUIRE(scale.size() == static_cast<std::size_t>(p.dimension));
    for (std::uint32_t f = 0; f < scale.size(); ++f) {
      double count = 0.0;
      for (std::size_t const i : p.chosen) {
        for (auto const& x : p.rows[i]) { count += x.index == f ? 1.0 : 0.0; }
      }
      double const expected = std::log((1.0 + static_cast<double>(p.chosen.size())) / (1.0 + count)) + 1.0;
      REQUIRE(static_cast<double>(scale[f]) == Catch::Approx(expected).epsilon(1e-6));
    }
    for (auto const& row : p.rows) {
      auto const out = detail::scaled(row, scale);
      REQUIRE(out.size() == row.size());
      double squares = 0.0;
      for (auto const& f : row) { squares += std::pow(static_cast<double>(f.value) * static_cast<double>(scale[f.index]), 2.0); }
      for (std::size_t i = 0; i < row.size(); ++i) {
        double const expected = static_cast<double>(row[i].value) * static_cast<double>(scale[row[i].index]) / std::sqrt(squares);
        REQUIRE(static_cast<double>(out[i].value) == Catch::Approx(expected).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("temperature scaling finds how much too sure logits are", "[router]") {
  random_source random(6);
  for (double const too_sure : {0.25, 1.0, 4.0}) {
    constexpr std::size_t classes = 4;
    std::vector<double> logits;
    std::vector<std::size_t> label;
    std::vector<double> weight;
    for (int i = 0; i < 20000; ++i) {
      double z[classes], p[classes];
      for (std::size_t k = 0; k < classes; ++k) { p[k] = z[k] = 1.5 * random.bell(); }
      detail::softmax(p, classes);
      double u = random.unit();
      std::size_t drawn = 0;
      while (drawn + 1 < classes && u >= p[drawn]) { u -= p[drawn++]; }
      label.push_back(drawn);
      weight.push_back(1.0);
      for (double const x : z) { logits.push_back(too_sure * x); }
    }
    CHECK(detail::best_sharpness(logits, label, weight, classes) * too_sure == Catch::Approx(1.0).epsilon(0.04));
  }
  // Nothing but right answers: sure, but not beyond measure.
  std::vector<double> const right{2.0, 0.0, 0.0, 2.0, 2.0, 0.0};
  std::vector<std::size_t> const label{0, 1, 0};
  std::vector<double> const weight{1.0, 1.0, 1.0};
  double const s = detail::best_sharpness(right, label, weight, 2);
  CHECK(1.0 / (1.0 + std::exp(-2.0 * s)) == Catch::Approx(1.0 - 1.0 / 5.0).epsilon(1e-6));
}
