#include "support/catch.hpp"
#include "support/reference.hpp"

#include <braid/cluster/any.hpp>
#include <braid/similarity/any.hpp>

#include <map>

using namespace braid_test;
using braid::cluster_problem;

namespace {

braid::similarity::any policy_of(metric m) {
  if (m == metric::cosine) { return braid::similarity::cosine{}; }
  if (m == metric::euclidean) { return braid::similarity::euclidean{}; }
  if (m == metric::balanced) { return braid::similarity::balanced{}; }
  return braid::similarity::sign{};
}

braid::cluster::any clustering_of(clustering c, std::uint64_t seed) {
  if (c == clustering::exact) { return braid::cluster::exact{}; }
  if (c == clustering::kmeans) { return braid::cluster::kmeans{.seed = seed}; }
  if (c == clustering::agglomerative) { return braid::cluster::agglomerative{}; }
  return braid::cluster::random{.seed = seed};
}

/// A channel's problem with memory of its own.
struct owned_problem {
  metric similarity = metric::cosine;
  std::vector<std::vector<double>> gram;  // normalised
  std::vector<int> weight;
  std::vector<double> flat{};

  [[nodiscard]] int count() const { return static_cast<int>(weight.size()); }
  cluster_problem with(int groups, std::uint64_t stream = 1, index_t channel = 2) {
    flat.clear();
    for (auto const& row : gram) { flat.insert(flat.end(), row.begin(), row.end()); }
    return {count(), groups, flat.data(), weight.data(), stream, channel};
  }
};

owned_problem random_problem(random_source& random, metric m, int n, bool weighted, int least_cols = 1) {
  int const cols = random.between(least_cols, 12);
  deltas d(static_cast<std::size_t>(n));
  int const directions = random.between(1, n);
  std::vector<double> center(static_cast<std::size_t>(directions * cols));
  for (double& x : center) { x = random.bell(); }
  std::vector<double> norms;
  for (auto& row : d) {
    int const along = random.below(directions);
    for (int c = 0; c < cols; ++c) {
      row.push_back(static_cast<float>(center[static_cast<std::size_t>(along * cols + c)] + 0.7 * random.bell()));
    }
    norms.push_back(0.5 + random.unit());
  }
  owned_problem p{m, gram_of(compared_vectors(m, d, norms)), {}};
  for (int i = 0; i < n; ++i) { p.weight.push_back(weighted ? random.between(1, 4) : 1); }
  return p;
}

/// Nobody moved.
owned_problem problem_at_rest(metric m, int n) {
  auto const size = static_cast<std::size_t>(n);
  return {m, std::vector<std::vector<double>>(size, std::vector<double>(size, 0.0)), std::vector<int>(size, 1)};
}

/// The problem with every row as often as its weight says.
owned_problem expanded(owned_problem const& p, std::vector<std::size_t>& source) {
  source.clear();
  for (std::size_t i = 0; i < p.weight.size(); ++i) {
    source.insert(source.end(), static_cast<std::size_t>(p.weight[i]), i);
  }
  owned_problem e{p.similarity, {}, std::vector<int>(source.size(), 1)};
  for (std::size_t const i : source) {
    auto& row = e.gram.emplace_back();
    for (std::size_t const j : source) { row.push_back(p.gram[i][j]); }
  }
  return e;
}

std::vector<int> expand(std::vector<int> const& label, std::vector<std::size_t> const& source) {
  std::vector<int> all;
  for (std::size_t const i : source) { all.push_back(label[i]); }
  return all;
}

std::vector<int> partition(braid::cluster::any const& c, owned_problem& p, int groups, std::uint64_t stream = 1,
                           index_t channel = 2) {
  std::vector<int> label(p.weight.size(), -1);
  c.partition(policy_of(p.similarity), p.with(groups, stream, channel), label.data());
  return label;
}

/// Numbered by first appearance, with exactly `groups` groups.
bool is_canonical(std::vector<int> const& label, int groups) {
  int next = 0;
  for (int const g : label) {
    if (g < 0 || g > next) { return false; }
    if (g == next) { ++next; }
  }
  return next == groups;
}

double score_of(owned_problem const& p, std::vector<int> const& label) {
  std::vector<std::size_t> source;
  auto const all = expanded(p, source);
  return partition_score(p.similarity, all.gram, expand(label, source));
}

/// All partitions, in lexicographic order.
std::vector<std::vector<int>> partitions(int n, int groups) {
  std::vector<std::vector<int>> all;
  for_each_partition(n, groups, [&](std::vector<int> const& label) { all.push_back(label); });
  return all;
}

}  // namespace

TEST_CASE("every clustering gives exactly the wanted number of groups, numbered by first appearance", "[cluster]") {
  random_source random(61);
  for (clustering const c : all_clusterings) {
    for (metric const m : all_metrics) {
      for (int round = 0; round < 60; ++round) {
        int const n = random.between(1, c == clustering::exact ? 8 : 20);
        auto p = random_problem(random, m, n, random.chance(0.5));
        if (random.chance(0.2)) {
          for (auto& row : p.gram) { std::fill(row.begin(), row.end(), 0.0); }  // nobody moved
        }
        int const groups = random.between(1, n);
        auto const label = partition(clustering_of(c, random.bits()), p, groups, random.bits(), random.below(1 << 20));
        INFO(static_cast<int>(c) << ", " << n << " rows, " << groups << " groups");
        CHECK(is_canonical(label, groups));
      }
    }
  }
}

TEST_CASE("exact clustering is the best of all partitions, with weights", "[cluster][exact]") {
  random_source random(62);
  for (metric const m : all_metrics) {
    for (int round = 0; round < 80; ++round) {
      int const n = random.between(1, 6);
      auto p = random_problem(random, m, n, random.chance(0.5));
      int const groups = random.between(1, n);
      auto const found = partition(braid::cluster::exact{}, p, groups);
      std::vector<int> best;
      double best_score = 0.0;
      double runner_up = -1e300;
      for (auto const& label : partitions(n, groups)) {
        double const score = score_of(p, label);
        if (best.empty() || score > best_score) {
          runner_up = best.empty() ? runner_up : best_score;
          best = label;
          best_score = score;
        } else {
          runner_up = std::max(runner_up, score);
        }
      }
      CHECK(score_of(p, found) >= best_score - 1e-9 * (1.0 + std::abs(best_score)));
      if (best_score - runner_up > 1e-9 * (1.0 + std::abs(best_score))) { CHECK(found == best); }
    }
  }
}

TEST_CASE("of equal scores exact clustering takes the lexicographically first labels", "[cluster][exact]") {
  for (metric const m : all_metrics) {
    for (int n = 1; n <= 8; ++n) {
      // Nobody moved, or all moved at right angles: every partition of one shape has one score.
      owned_problem p = problem_at_rest(m, n);
      for (int groups = 1; groups <= n; ++groups) {
        CHECK(partition(braid::cluster::exact{}, p, groups) == partitions(n, groups).front());
      }
      for (std::size_t i = 0; i < p.gram.size(); ++i) { p.gram[i][i] = 1.0; }
      for (int groups = 1; groups <= n; ++groups) {
        std::vector<int> best;
        double best_score = 0.0;
        for (auto const& label : partitions(n, groups)) {
          double const score = score_of(p, label);
          if (best.empty() || score > best_score + 1e-12) {
            best = label;
            best_score = score;
          }
        }
        INFO(n << " rows, " << groups << " groups, metric " << static_cast<int>(m));
        CHECK(partition(braid::cluster::exact{}, p, groups) == best);
      }
    }
  }
}

TEST_CASE("exact clustering is never worse than the others", "[cluster][exact]") {
  random_source random(63);
  for (metric const m : all_metrics) {
    for (int round = 0; round < 40; ++round) {
      int const n = random.between(2, 10);
      auto p = random_problem(random, m, n, random.chance(0.5));
      int const groups = random.between(1, n);
      double const exact = score_of(p, partition(braid::cluster::exact{}, p, groups));
      for (clustering const c : {clustering::kmeans, clustering::agglomerative, clustering::random}) {
        double const other = score_of(p, partition(clustering_of(c, random.bits()), p, groups));
        CHECK(exact >= other - 1e-9 * (1.0 + std::abs(exact)));
      }
    }
  }
}

TEST_CASE("k-means finds the groups where they are plain to see", "[cluster][kmeans]") {
  random_source random(64);
  for (metric const m : {metric::cosine, metric::euclidean}) {
    for (int round = 0; round < 40; ++round) {
      int const n = random.between(4, 40);
      int const groups = random.between(2, 4);
      deltas d(static_cast<std::size_t>(n));
      std::vector<int> truth;
      for (int i = 0; i < n; ++i) {
        int const g = i < groups ? i : random.below(groups);
        truth.push_back(g);
        for (int c = 0; c < 8; ++c) {
          d[static_cast<std::size_t>(i)].push_back(static_cast<float>((c == g ? 10.0 : 0.0) + 0.05 * random.bell()));
        }
      }
      owned_problem p{m, gram_of(compared_vectors(m, d, {})), std::vector<int>(static_cast<std::size_t>(n), 1)};
      CHECK(partition(braid::cluster::kmeans{.seed = random.bits()}, p, groups) == truth);
      CHECK(partition(braid::cluster::agglomerative{}, p, groups) == truth);
    }
  }
}

TEST_CASE("agglomerative clustering joins the groups of smallest mean distance", "[cluster][agglomerative]") {
  random_source random(69);
  for (metric const m : {metric::cosine, metric::euclidean, metric::balanced}) {
    auto const policy = policy_of(m);
    for (int round = 0; round < 40; ++round) {
      int const n = random.between(2, 14);
      auto p = random_problem(random, m, n, random.chance(0.5), 6);
      std::vector<std::vector<std::size_t>> group;
      for (std::size_t i = 0; i < p.weight.size(); ++i) { group.push_back({i}); }
      auto const mean_distance = [&](std::vector<std::size_t> const& a, std::vector<std::size_t> const& b) {
        double sum = 0.0;
        double pairs = 0.0;
        for (std::size_t const i : a) {
          for (std::size_t const j : b) {
            double const both = p.weight[i] * p.weight[j];
            sum += both * policy.distance(p.gram[i][i], p.gram[i][j], p.gram[j][j], 1.0);
            pairs += both;
          }
        }
        return sum / pairs;
      };
      for (int left = n - 1; left >= 1; --left) {
        std::size_t first = 0;
        std::size_t second = 1;
        for (std::size_t a = 0; a < group.size(); ++a) {
          for (std::size_t b = a + 1; b < group.size(); ++b) {
            if (mean_distance(group[a], group[b]) < mean_distance(group[first], group[second])) {
              first = a;
              second = b;
            }
          }
        }
        group[first].insert(group[first].end(), group[second].begin(), group[second].end());
        group.erase(group.begin() + static_cast<std::ptrdiff_t>(second));
        std::vector<int> expected(p.weight.size());
        for (std::size_t g = 0; g < group.size(); ++g) {  // still in the order of their first members
          for (std::size_t const i : group[g]) { expected[i] = static_cast<int>(g); }
        }
        REQUIRE(partition(braid::cluster::agglomerative{}, p, left) == expected);
      }
    }
  }
}

TEST_CASE("agglomerative partitions are nested", "[cluster][agglomerative]") {
  random_source random(65);
  for (metric const m : all_metrics) {
    for (int round = 0; round < 20; ++round) {
      int const n = random.between(2, 12);
      auto p = random_problem(random, m, n, random.chance(0.5));
      auto finer = partition(braid::cluster::agglomerative{}, p, n);
      for (int groups = n - 1; groups >= 1; --groups) {
        auto const coarser = partition(braid::cluster::agglomerative{}, p, groups);
        std::map<int, int> into;
        for (std::size_t i = 0; i < coarser.size(); ++i) {
          CHECK(into.emplace(finer[i], coarser[i]).first->second == coarser[i]);
        }
        finer = coarser;
      }
    }
  }
}

TEST_CASE("a row of weight two counts like two experts", "[cluster]") {
  random_source random(66);
  for (metric const m : all_metrics) {
    auto const policy = policy_of(m);
    for (int round = 0; round < 50; ++round) {
      int const n = random.between(2, 6);
      auto p = random_problem(random, m, n, true, 6);
      std::vector<std::size_t> source;
      auto all = expanded(p, source);
      int const groups = random.between(1, n);
      // Whatever the partition, the library's own score is the same for both.
      auto const label = random.one_of(partitions(n, groups));
      auto const labels = expand(label, source);
      double const weighted = braid::cluster::detail::score(policy, p.with(groups), label.data());
      double const plain = braid::cluster::detail::score(policy, all.with(groups), labels.data());
      CHECK(weighted == Catch::Approx(plain).margin(1e-9).epsilon(1e-9));
      // Average linkage joins what lies together first. Signs are too few to tell all rows apart.
      if (m == metric::sign) { continue; }
      CHECK(expand(partition(braid::cluster::agglomerative{}, p, groups), source) ==
            partition(braid::cluster::agglomerative{}, all, groups));
    }
  }
}

TEST_CASE("random clustering is uniform over partitions", "[cluster][random]") {
  auto const chi_square = [](int n, int groups, int draws) {
    auto const all = partitions(n, groups);
    std::map<std::vector<int>, int> seen;
    owned_problem p = problem_at_rest(metric::cosine, n);
    auto const problem = p.with(groups);
    std::vector<int> label(static_cast<std::size_t>(n));
    for (int i = 0; i < draws; ++i) {
      auto one = problem;
      one.stream = static_cast<std::uint64_t>(i % 7);
      one.channel = i / 7;
      braid::cluster::random{.seed = 5}.partition(braid::similarity::cosine{}, one, label.data());
      ++seen[label];
    }
    REQUIRE(seen.size() <= all.size());
    double const expected = static_cast<double>(draws) / static_cast<double>(all.size());
    double sum = 0.0;
    for (auto const& label_of : all) {
      double const error = seen[label_of] - expected;
      sum += error * error / expected;
    }
    return sum;
  };
  // 99.99 % quantiles of chi-square with 6, 24 and 64 degrees of freedom.
  CHECK(chi_square(4, 2, 20000) < 27.9);
  CHECK(chi_square(5, 3, 40000) < 59.2);
  CHECK(chi_square(6, 4, 40000) < 115.0);
}

TEST_CASE("random clustering doesn't look at the deltas, and k-means repeats itself", "[cluster][random][kmeans]") {
  random_source random(67);
  for (int round = 0; round < 30; ++round) {
    int const n = random.between(2, 12);
    int const groups = random.between(1, n);
    std::uint64_t const seed = random.bits();
    auto p = random_problem(random, metric::cosine, n, false);
    auto q = random_problem(random, metric::euclidean, n, true);
    CHECK(partition(braid::cluster::random{.seed = seed}, p, groups) ==
          partition(braid::cluster::random{.seed = seed}, q, groups));
    CHECK(partition(braid::cluster::kmeans{.seed = seed}, p, groups) ==
          partition(braid::cluster::kmeans{.seed = seed}, p, groups));
  }
}

TEST_CASE("255 experts are clustered", "[cluster]") {
  random_source random(68);
  auto p = random_problem(random, metric::cosine, 255, false);
  for (int const groups : {1, 2, 7, 254, 255}) {
    for (clustering const c : {clustering::kmeans, clustering::random}) {
      INFO(static_cast<int>(c) << ", " << groups << " groups");
      CHECK(is_canonical(partition(clustering_of(c, 1), p, groups), groups));
    }
  }
  CHECK(is_canonical(partition(braid::cluster::agglomerative{}, p, 5), 5));
  CHECK(is_canonical(partition(braid::cluster::agglomerative{}, p, 255), 255));
}

TEST_CASE("exact clustering says how many experts it takes", "[cluster][exact]") {
  CHECK_NOTHROW(braid::cluster::exact::check_experts(10));
  CHECK_THROWS_AS(braid::cluster::exact::check_experts(11), braid::argument_error);
  CHECK_THROWS_AS(braid::cluster::any{}.check_experts(11), braid::argument_error);
  CHECK_NOTHROW(braid::cluster::any{braid::cluster::kmeans{}}.check_experts(255));
}
