#include "support/catch.hpp"
#include "support/reference.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/similarity/any.hpp>

using namespace braid_test;

namespace {

/// Random deltas of a channel, some of them zero or far longer than the others.
deltas random_deltas(random_source& random, int n, int cols) {
  deltas d(static_cast<std::size_t>(n));
  std::vector<double> common;
  for (int c = 0; c < cols; ++c) { common.push_back(random.bell()); }
  for (auto& row : d) {
    double const length = random.chance(0.1) ? 0.0 : std::exp2(random.between(-3, 3));
    double const along = random.unit();
    for (double const x : common) { row.push_back(static_cast<float>(length * (along * x + random.bell()))); }
  }
  return d;
}

std::vector<double> random_norms(random_source& random, int n) {
  std::vector<double> norms;
  for (int i = 0; i < n; ++i) { norms.push_back(random.chance(0.1) ? 0.0 : 0.1 + 10.0 * random.unit()); }
  return norms;
}

/// The raw Gram matrix that a policy is handed.
std::vector<double> raw_gram(bool signs, deltas const& d) {
  std::vector<double> gram;
  for (auto const& x : d) {
    for (auto const& y : d) {
      double sum = 0.0;
      for (std::size_t c = 0; c < x.size(); ++c) {
        auto const value = [&](float v) {
          return !signs ? static_cast<double>(v) : v > 0.0f ? 1.0 : v < 0.0f ? -1.0 : 0.0;
        };
        sum += value(x[c]) * value(y[c]);
      }
      gram.push_back(sum);
    }
  }
  return gram;
}

/// Sum of some vectors.
std::vector<double> sum_of(std::vector<std::vector<double>> const& v, std::vector<std::size_t> const& members) {
  std::vector<double> total(v[0].size(), 0.0);
  for (std::size_t const m : members) {
    for (std::size_t c = 0; c < total.size(); ++c) { total[c] += v[m][c]; }
  }
  return total;
}

double squared(std::vector<double> const& v) { return std::inner_product(v.begin(), v.end(), v.begin(), 0.0); }

/// A group's score, from the vectors: their sum's length, or minus the squared distances from their mean.
double group_score_by_definition(metric m, std::vector<std::vector<double>> const& v,
                                 std::vector<std::size_t> const& members) {
  auto mean = sum_of(v, members);
  if (m == metric::cosine || m == metric::sign) { return std::sqrt(squared(mean)); }
  for (double& x : mean) { x /= static_cast<double>(members.size()); }
  double error = 0.0;
  for (std::size_t const i : members) {
    for (std::size_t c = 0; c < mean.size(); ++c) { error += (v[i][c] - mean[c]) * (v[i][c] - mean[c]); }
  }
  return -error;
}

double distance_by_definition(metric m, std::vector<std::vector<double>> const& v, std::size_t i,
                              std::vector<std::size_t> const& members) {
  auto mean = sum_of(v, members);
  if (m == metric::cosine || m == metric::sign) {
    double const length = std::sqrt(squared(mean));
    return length > 0.0 ? 1.0 - std::inner_product(mean.begin(), mean.end(), v[i].begin(), 0.0) / length : 1.0;
  }
  double d = 0.0;
  for (std::size_t c = 0; c < mean.size(); ++c) {
    double const x = v[i][c] - mean[c] / static_cast<double>(members.size());
    d += x * x;
  }
  return d;
}

braid::similarity::any policy_of(metric m) {
  if (m == metric::cosine) { return braid::similarity::cosine{}; }
  if (m == metric::euclidean) { return braid::similarity::euclidean{}; }
  if (m == metric::balanced) { return braid::similarity::balanced{}; }
  return braid::similarity::sign{};
}

}  // namespace

TEST_CASE("a similarity scores groups as the vectors' definition does", "[similarity]") {
  random_source random(51);
  for (metric const m : all_metrics) {
    auto const policy = policy_of(m);
    for (int round = 0; round < 300; ++round) {
      int const n = random.between(1, 8);
      auto const d = random_deltas(random, n, random.between(1, 30));
      auto const norms = random_norms(random, n);
      auto gram = raw_gram(policy.operand == braid::gram_operand::signs, d);
      policy.normalise(gram.data(), n, policy.needs_norms ? norms.data() : nullptr);
      auto const v = compared_vectors(m, d, norms);

      std::vector<std::size_t> members;
      for (int i = 0; i < n; ++i) {
        if (random.chance(0.6) || i == 0) { members.push_back(static_cast<std::size_t>(i)); }
      }
      double total = 0.0;
      double trace = 0.0;
      for (std::size_t const i : members) {
        trace += gram[i * static_cast<std::size_t>(n) + i];
        for (std::size_t const j : members) { total += gram[i * static_cast<std::size_t>(n) + j]; }
      }
      auto const size = static_cast<double>(members.size());
      // A length near zero is the root of a rounded square.
      double const margin = 1e-7 * (1.0 + trace);
      CHECK(policy.group_score(total, trace, size) ==
            Catch::Approx(group_score_by_definition(m, v, members)).margin(margin).epsilon(1e-9));
      auto const i = static_cast<std::size_t>(random.below(n));
      double cross = 0.0;
      for (std::size_t const j : members) { cross += gram[i * static_cast<std::size_t>(n) + j]; }
      double const distance = policy.distance(gram[i * static_cast<std::size_t>(n) + i], cross, total, size);
      CHECK(distance >= 0.0 - 1e-12);
      if (total > 1e-6 || total == 0.0) {
        CHECK(distance ==
              Catch::Approx(distance_by_definition(m, v, i, members)).margin(1e-9 * (1.0 + trace)).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("the best score of a similarity never gets worse as there are more groups", "[similarity][exact]") {
  random_source random(52);
  for (metric const m : all_metrics) {
    auto const policy = policy_of(m);
    for (int round = 0; round < 60; ++round) {
      int const n = random.between(2, 7);
      auto const d = random_deltas(random, n, random.between(1, 20));
      auto const norms = random_norms(random, n);
      auto gram = raw_gram(policy.operand == braid::gram_operand::signs, d);
      policy.normalise(gram.data(), n, policy.needs_norms ? norms.data() : nullptr);
      std::vector<int> const weight(static_cast<std::size_t>(n), 1);
      std::vector<int> label(static_cast<std::size_t>(n));
      double before = -1e300;
      for (int k = 1; k <= n; ++k) {
        braid::cluster_problem const problem{n, k, gram.data(), weight.data(), 0, 0};
        braid::cluster::exact{}.partition(policy, problem, label.data());
        double const score = braid::cluster::detail::score(policy, problem, label.data());
        INFO(policy.name << ", " << n << " experts, " << k << " groups");
        CHECK(score >= before - 1e-9 * (1.0 + std::abs(before)));
        before = score;
      }
    }
  }
}

TEST_CASE("every similarity is defined where deltas are zero", "[similarity]") {
  for (metric const m : all_metrics) {
    auto const policy = policy_of(m);
    std::vector<double> gram{0.0, 0.0, 0.0, 4.0};  // one expert at rest, one that moved by 2
    double const norms[] = {0.0, 2.0};
    policy.normalise(gram.data(), 2, policy.needs_norms ? norms : nullptr);
    for (double const g : gram) { CHECK(std::isfinite(g)); }
    CHECK(gram[0] == 0.0);
    CHECK(gram[1] == 0.0);
    CHECK(gram[3] == (m == metric::euclidean ? 4.0 : 1.0));
    CHECK(policy.group_score(0.0, 0.0, 1.0) == 0.0);
    CHECK(std::isfinite(policy.distance(0.0, 0.0, 0.0, 1.0)));
    CHECK(std::isfinite(policy.distance(0.0, 0.0, gram[3], 1.0)));
    CHECK(std::isfinite(policy.distance(gram[3], 0.0, 0.0, 1.0)));
  }
}

TEST_CASE("a similarity chosen at run time is the one that was chosen", "[similarity]") {
  CHECK(braid::similarity::any{}.name == "cosine");
  CHECK(policy_of(metric::euclidean).name == "euclidean");
  CHECK(policy_of(metric::balanced).name == "balanced");
  CHECK(policy_of(metric::balanced).needs_norms);
  CHECK_FALSE(policy_of(metric::euclidean).needs_norms);
  CHECK(policy_of(metric::sign).name == "sign");
  CHECK(policy_of(metric::sign).operand == braid::gram_operand::signs);
  CHECK(policy_of(metric::cosine).operand == braid::gram_operand::deltas);
}
