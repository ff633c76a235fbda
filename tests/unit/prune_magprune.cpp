#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/backend/cpu/row_select.hpp>
#include <braid/prune/magprune.hpp>

#include <algorithm>
#include <numeric>

using namespace braid_test;
using braid::prune::magprune;

namespace {

std::vector<float> random_row(random_source& random, index_t cols) {
  int const kind = random.below(6);
  std::vector<float> row;
  for (index_t c = 0; c < cols; ++c) {
    row.push_back(kind == 0   ? static_cast<float>(random.bell() * std::exp2(random.between(-30, 30)))
                  : kind == 1 ? static_cast<float>(random.below(5) - 2)
                  : kind == 2 ? static_cast<float>(random.below(1 << 14) - (1 << 13))
                  : kind == 3 ? 0.0f
                  : kind == 4 ? static_cast<float>(braid::bfloat16(static_cast<float>(random.bell()))) * (random.chance(0.03) ? 1.01f : 1.0f)
                              : std::ldexp(static_cast<float>(random.below(200)), -149));  // subnormal
  }
  return row;
}

std::vector<std::uint32_t> ranks_of(std::vector<float> const& row) {
  braid::detail::row_workspace work;
  std::vector<std::uint32_t> twice(row.size());
  braid::detail::row_ranks(row.data(), static_cast<index_t>(row.size()), work, twice.data());
  return twice;
}

/// The mean of the ranks that an element and its equals take together, by counting.
double mean_rank(std::vector<float> const& row, float x) {
  double below = 0.0;
  double equal = 0.0;
  for (float const y : row) {
    below += std::abs(y) < std::abs(x) ? 1.0 : 0.0;
    equal += std::abs(y) == std::abs(x) ? 1.0 : 0.0;
  }
  return below + (equal - 1.0) / 2.0;
}

}  // namespace

TEST_CASE("equal magnitudes of a row share the mean of their ranks", "[prune][magprune]") {
  random_source random(41);
  for (int round = 0; round < 200; ++round) {
    auto const row = random_row(random, random_cols(random));
    auto const twice = ranks_of(row);
    bool right = true;
    for (std::size_t c = 0; c < row.size(); ++c) { right = right && twice[c] == 2.0 * mean_rank(row, row[c]); }
    REQUIRE(right);
  }
}

TEST_CASE("the mean of a row's ranks doesn't depend on its magnitudes", "[prune][magprune]") {
  random_source random(45);
  for (int round = 0; round < 100; ++round) {
    auto const row = random_row(random, random_cols(random));
    auto const twice = ranks_of(row);
    auto const n = row.size();
    REQUIRE(std::accumulate(twice.begin(), twice.end(), std::uint64_t{0}) == (n == 0 ? 0 : n * (n - 1)));
  }
}

TEST_CASE("magprune's keep probability rises linearly with the rank", "[prune][magprune]") {
  random_source random(42);
  for (int round = 0; round < 6; ++round) {
    magprune policy;
    policy.density = 0.3 + 0.4 * random.unit();
    policy.epsilon = (std::min(policy.density, 1.0 - policy.density) - 0.01) * random.unit();
    index_t const cols = random.between(2, 60);
    auto const row = random_row(random, cols);
    auto const twice = ranks_of(row);
    constexpr int seeds = 4000;
    std::vector<int> kept(static_cast<std::size_t>(cols), 0);
    std::uint64_t const stream = random.bits();
    for (int s = 0; s < seeds; ++s) {
      policy.seed = static_cast<std::uint64_t>(s);
      auto const plan = policy.plan({stream, 1, cols}, {twice.data(), cols});
      for (index_t c = 0; c < cols; ++c) { kept[static_cast<std::size_t>(c)] += plan(1.0f, 0, c) != 0.0f ? 1 : 0; }
    }
    // The sum over ranks of squared standardised errors is chi-square with `cols` degrees of freedom.
    double chi_square = 0.0;
    for (std::size_t c = 0; c < kept.size(); ++c) {
      double const p = policy.density - policy.epsilon + 2.0 * policy.epsilon * mean_rank(row, row[c]) / static_cast<double>(cols - 1);
      double const error = kept[c] - seeds * p;
      chi_square += error * error / (seeds * p * (1.0 - p));
      CHECK(std::abs(error) <= 5.0 * std::sqrt(seeds * p * (1.0 - p)));
    }
    auto const n = static_cast<double>(cols);
    INFO("density " << policy.density << ", epsilon " << policy.epsilon << ", columns " << cols);
    CHECK(std::abs(chi_square - n) <= 6.0 * std::sqrt(2.0 * n) + 6.0);
  }
}

TEST_CASE("magprune's survivors keep the expected value", "[prune][magprune]") {
  random_source random(43);
  index_t const cols = 300;
  auto const row = [&] {
    std::vector<float> r;
    for (index_t c = 0; c < cols; ++c) { r.push_back(static_cast<float>(random.bell())); }
    return r;
  }();
  auto const twice = ranks_of(row);
  magprune policy;
  double sum = 0.0;
  double variance = 0.0;
  double const expected = std::accumulate(row.begin(), row.end(), 0.0);
  constexpr int seeds = 2000;
  for (int s = 0; s < seeds; ++s) {
    policy.seed = static_cast<std::uint64_t>(s);
    auto const plan = policy.plan({77, 1, cols}, {twice.data(), cols});
    for (index_t c = 0; c < cols; ++c) {
      auto const slot = static_cast<std::size_t>(c);
      float const p = plan.probability(twice[slot]);
      float const y = plan(row[slot], 0, c);
      bool const exact = y == 0.0f || y == row[slot] / p;
      if (!exact) { FAIL("a survivor isn't divided by its keep probability"); }
      sum += static_cast<double>(y);
      if (s == 0) {
        double const x = static_cast<double>(row[slot]);
        variance += x * x * (1.0 / static_cast<double>(p) - 1.0);
      }
    }
  }
  CHECK(std::abs(sum / seeds - expected) <= 5.0 * std::sqrt(variance / seeds));
}

TEST_CASE("magprune with epsilon 0 keeps every rank with probability density", "[prune][magprune]") {
  auto const twice = ranks_of({3.0f, 1.0f, 2.0f, 2.0f});
  auto const plan = magprune{.density = 0.4, .epsilon = 0.0}.plan({1, 1, 4}, {twice.data(), 4});
  for (std::uint32_t of = 0; of <= 6; ++of) { CHECK(plan.probability(of) == 26214.0f / 65536.0f); }
}

TEST_CASE("magprune's probabilities never exceed 1, and a row of one column has probability density",
          "[prune][magprune]") {
  random_source random(44);
  for (int round = 0; round < 100; ++round) {
    magprune policy;
    policy.epsilon = 0.45 * random.unit();
    policy.density = 1.0 - policy.epsilon;  // up to exactly 1
    index_t const cols = random.between(2, 5000);
    auto const plan = policy.plan({1, 1, cols}, {nullptr, cols});
    float const top = plan.probability(static_cast<std::uint32_t>(2 * (cols - 1)));
    CHECK(top <= 1.0f);
    CHECK(top > 0.9999f);
  }
  std::uint32_t const only = 0;
  auto const plan = magprune{.density = 0.7, .epsilon = 0.2}.plan({1, 4, 1}, {&only, 1});
  CHECK(plan.probability(0) == 45875.0f / 65536.0f);
}

TEST_CASE("magprune refuses keep probabilities of zero and less, or more than one", "[prune][magprune]") {
  CHECK_NOTHROW(magprune{}.validate());
  CHECK_NOTHROW(magprune{.density = 0.85, .epsilon = 0.15}.validate());
  CHECK_NOTHROW(magprune{.density = 1.0, .epsilon = 0.0}.validate());
  CHECK_THROWS_AS((magprune{.density = 0.9, .epsilon = 0.15}.validate()), braid::argument_error);
  CHECK_THROWS_AS((magprune{.density = 0.1, .epsilon = 0.1}.validate()), braid::argument_error);
  CHECK_THROWS_AS((magprune{.density = 0.5, .epsilon = -0.1}.validate()), braid::argument_error);
  CHECK_THROWS_AS((magprune{.density = 0.5, .epsilon = std::nan("")}.validate()), braid::argument_error);
  CHECK_THROWS_AS((magprune{.density = std::nan("")}.validate()), braid::argument_error);
}

TEST_CASE("magprune prunes runs of columns as it prunes single ones, wherever they begin", "[prune][magprune]") {
  random_source random(44);
  for (int round = 0; round < 300; ++round) {
    index_t const cols = random.between(1, 700);
    auto const row = random_row(random, cols);
    auto const twice = ranks_of(row);
    double const epsilon = 0.4 * random.unit();
    magprune policy{0.5, epsilon, random.bits(), random.chance(0.5)};
    if (round % 3 == 1) { policy.density = 1.0 - epsilon; }  // up to probability 1
    if (round % 3 == 2) {                                    // thresholds of few bits
      policy.density = 0.004;
      policy.epsilon = 0.0039 * random.unit();
    }
    index_t const channel = random.below(1000);
    auto const plan = policy.plan({random.bits(), channel + 1, cols}, {twice.data(), cols});
    index_t const col = random.below(static_cast<int>(cols));
    int const count = random.below(static_cast<int>(cols - col) + 1);
    std::vector<float> run(row.begin() + col, row.begin() + col + count);
    run.push_back(42.0f);
    plan.apply(run.data(), count, channel, col);
    int wrong = 0;
    for (int i = 0; i < count; ++i) {
      float const single = plan(row[static_cast<std::size_t>(col + i)], channel, col + i);
      wrong += std::memcmp(&single, &run[static_cast<std::size_t>(i)], sizeof(float)) != 0 ? 1 : 0;
    }
    REQUIRE(wrong == 0);
    REQUIRE(run.back() == 42.0f);
  }
}
