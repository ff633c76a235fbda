/// Storage budgets: curves, prices, and merges that keep to them.

#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/braid.hpp>

#include <cmath>

namespace braid_test {
namespace {

using namespace braid;
using cluster::curve_point;

using merge_method = channel_merge<cpu, prune::none, similarity::any, cluster::any, consensus::mean, residual::palette>;

struct small_model {
  index_t channels;
  index_t cols;
  std::vector<float> base;
  std::vector<std::vector<float>> experts;

  [[nodiscard]] std::vector<expert_view<float>> views() const {
    static char const* const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    std::vector<expert_view<float>> v;
    for (std::size_t e = 0; e < experts.size(); ++e) { v.push_back({names[e], {experts[e].data(), channels, cols}}); }
    return v;
  }
  [[nodiscard]] grouped_tensor<float> merged(merge_method const& m, int threads = 1) const {
    return m(cpu{threads}, "layer.weight", {base.data(), channels, cols}, views());
  }
  [[nodiscard]] double bytes() const { return static_cast<double>(experts.size() * base.size() * sizeof(float)); }

  /// Squared error of all experts, each in units of its squared delta.
  [[nodiscard]] double error(grouped_tensor<float> const& t) const {
    double sum = 0.0;
    std::vector<float> out(base.size());
    for (std::size_t e = 0; e < experts.size(); ++e) {
      t.extract(e, {out.data(), channels, cols});
      double lost = 0.0;
      double all = 0.0;
      for (std::size_t i = 0; i < out.size(); ++i) {
        double const x = static_cast<double>(experts[e][i]);
        lost += std::pow(static_cast<double>(out[i]) - x, 2);
        all += std::pow(static_cast<double>(base[i]) - x, 2);
      }
      sum += all > 0.0 ? lost / all : 0.0;
    }
    return sum;
  }
};

/// Experts of different strengths, whose channels differ in importance; some rows are shared or untrained.
small_model random_model(random_source& random, int experts, index_t channels, index_t cols) {
  small_model m{channels, cols, {}, {}};
  auto const size = static_cast<std::size_t>(channels * cols);
  for (std::size_t i = 0; i < size; ++i) { m.base.push_back(static_cast<float>(random.bell())); }
  for (int e = 0; e < experts; ++e) {
    auto& w = m.experts.emplace_back(m.base);
    for (index_t c = 0; c < channels; ++c) {
      auto const first = static_cast<std::size_t>(c * cols);
      if (e > 0 && random.chance(0.05)) {
        std::copy_n(m.experts[0].begin() + static_cast<std::ptrdiff_t>(first), cols, w.begin() + static_cast<std::ptrdiff_t>(first));
        continue;
      }
      if (random.chance(0.03)) { continue; }
      double const strength = 0.05 * (1 + e) * std::exp(random.bell());
      for (index_t i = 0; i < cols; ++i) {
        auto const at = first + static_cast<std::size_t>(i);
        w[at] = static_cast<float>(static_cast<double>(w[at]) + strength * random.bell());
      }
    }
  }
  return m;
}

merge_method under(double stored, int groups = 8, similarity::any similarity = similarity::balanced{},
                   residual_code_list codes = {residual_code::sign1, residual_code::ternary, residual_code::sign2}) {
  merge_method::options o;
  o.similarity = similarity;
  o.groups = groups;
  o.residual.allowed = codes;
  o.budget.stored = stored;
  return merge_method{o};
}

TEST_CASE("a hull keeps the points below every line between others, in order of bytes", "[budget]") {
  random_source random(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<curve_point> points;
    int const n = random.between(1, 30);
    for (int i = 0; i < n; ++i) {
      points.push_back({{i + 1, residual_code::none}, static_cast<std::uint64_t>(random.below(20)), random.below(50) * 0.25});
    }
    auto hull = points;
    cluster::detail::keep_hull(hull);
    REQUIRE(!hull.empty());
    for (std::size_t i = 1; i < hull.size(); ++i) {
      CHECK(hull[i].bytes > hull[i - 1].bytes);
      CHECK(hull[i].error < hull[i - 1].error);
      if (i > 1) { CHECK(cluster::step_slope(hull, i) < cluster::step_slope(hull, i - 1)); }
    }
    // At any price, no point is better than the one that is chosen.
    for (double price : {0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 100.0}) {
      auto const cost = [&](curve_point const& p) { return p.error + price * static_cast<double>(p.bytes); };
      double best = cost(points[0]);
      for (auto const& p : points) { best = std::min(best, cost(p)); }
      auto const choice = cluster::choose(hull, static_cast<float>(price));
      auto const& chosen = points[static_cast<std::size_t>(choice.groups - 1)];
      CHECK(cost(chosen) == Catch::Approx(best).margin(1e-5));
    }
  }
}

TEST_CASE("a price buys as many steps as the bytes allow, cheapest error first", "[budget]") {
  random_source random(4);
  for (int round = 0; round < 50; ++round) {
    cluster::budget_histogram histogram;
    std::vector<std::pair<float, std::uint64_t>> steps;
    std::uint64_t all = 0;
    for (int i = random.between(1, 2000); i > 0; --i) {
      auto const slope = static_cast<float>(std::exp(3.0 * random.bell()));
      auto const bytes = static_cast<std::uint64_t>(random.between(1, 5000));
      histogram.add(slope, bytes);
      steps.emplace_back(slope, bytes);
      all += bytes;
    }
    CHECK(histogram.price(all) == 0.0f);
    auto const allowed = static_cast<std::uint64_t>(random.unit() * static_cast<double>(all));
    float const price = histogram.price(allowed);
    std::uint64_t bought = 0;
    std::uint64_t next = 0;  // what the bin below would cost as well
    for (auto const& [slope, bytes] : steps) {
      bought += slope >= price ? bytes : 0;
      next += slope >= price * (1.0f - 0x1p-11f) ? bytes : 0;
    }
    CHECK(bought <= allowed);
    CHECK(next > allowed);
  }
}

TEST_CASE("a merge is never larger than its budget, and uses it", "[budget]") {
  random_source random(5);
  similarity::any const similarities[] = {similarity::cosine{}, similarity::balanced{}, similarity::sign{}};
  for (int round = 0; round < 12; ++round) {
    auto const m = random_model(random, random.between(2, 5), random.between(60, 300), random.between(20, 150));
    double const stored = 1.0 / static_cast<double>(m.experts.size()) + 0.12 + 0.8 * random.unit();
    auto const t = m.merged(under(stored, 8, random.one_of(similarities)));
    CHECK(static_cast<double>(t.stored_bytes()) <= stored * m.bytes());
    if (stored < 0.9) { CHECK(static_cast<double>(t.stored_bytes()) > (stored - 0.012) * m.bytes()); }
  }
}

TEST_CASE("a larger budget never makes the expected error larger, and one that is large enough loses nothing", "[budget]") {
  random_source random(6);
  auto const m = random_model(random, 4, 150, 96);
  double last = 1e9;
  for (double const stored : {0.29, 0.33, 0.38, 0.45, 0.55, 0.7, 0.9}) {
    double const error = m.error(m.merged(under(stored)));
    CHECK(error < last);
    last = error;
  }
  auto const whole = m.merged(under(1.1));
  CHECK(m.error(whole) == 0.0);
  CHECK(m.error(m.merged(under(0.5))) > 0.0);
}

TEST_CASE("a budget of groups alone loses less than the same number of groups in every channel", "[budget]") {
  random_source random(7);
  for (int round = 0; round < 4; ++round) {
    auto const m = random_model(random, 4, 200, 64);
    merge_method::options o;
    o.similarity = similarity::balanced{};
    o.groups = 2;
    using fixed_method = channel_merge<cpu, prune::none, similarity::any, cluster::any, consensus::mean>;
    auto const fixed = fixed_method{{.similarity = o.similarity, .groups = 2}}(cpu{1}, "layer.weight", {m.base.data(), m.channels, m.cols}, m.views());
    // The same bytes, but for the codes, which a palette without codes doesn't have.
    auto const chosen = m.merged(under(static_cast<double>(fixed.stored_bytes()) / m.bytes(), 4, similarity::balanced{}, {}));
    CHECK(chosen.stored_bytes() <= fixed.stored_bytes());
    CHECK(m.error(chosen) < 0.9 * m.error(fixed));
  }
}

TEST_CASE("channels that are all alike still use up a budget", "[budget]") {
  random_source random(8);
  auto m = random_model(random, 3, 1, 64);
  index_t const channels = 400;
  for (auto* w : {&m.base, &m.experts[0], &m.experts[1], &m.experts[2]}) {
    auto const row = *w;
    for (index_t c = 1; c < channels; ++c) { w->insert(w->end(), row.begin(), row.end()); }
  }
  m.channels = channels;
  double const all = static_cast<double>(m.merged(under(1.1)).stored_bytes()) / m.bytes();
  double const least = 1.0 / 3.0 + 0.03;
  for (double const part : {0.1, 0.3, 0.5, 0.7, 0.9}) {
    double const stored = least + part * (all - least);
    auto const t = m.merged(under(stored));
    CHECK(static_cast<double>(t.stored_bytes()) <= stored * m.bytes());
    CHECK(static_cast<double>(t.stored_bytes()) > (stored - 0.02) * m.bytes());
  }
}

TEST_CASE("choices under a budget depend on neither threads nor the order of experts", "[budget]") {
  random_source random(9);
  auto const m = random_model(random, 4, 700, 40);
  auto const method = under(0.4);
  auto const t = m.merged(method, 1);
  auto const threaded = m.merged(method, 3);
  auto views = m.views();
  random.shuffle(views);
  auto const shuffled = method(cpu{2}, "layer.weight", {m.base.data(), m.channels, m.cols}, views);
  std::vector<float> a(m.base.size());
  std::vector<float> b(m.base.size());
  for (std::size_t e = 0; e < 4; ++e) {
    t.extract(e, {a.data(), m.channels, m.cols});
    for (auto const* other : {&threaded, &shuffled}) {
      other->extract(e, {b.data(), m.channels, m.cols});
      CHECK(a == b);
      CHECK(other->stored_bytes() == t.stored_bytes());
    }
  }
}

TEST_CASE("important columns get more of a budget's precision where weights say so", "[budget]") {
  random_source random(10);
  auto const m = random_model(random, 4, 100, 64);
  std::vector<float> weight(64, 1.0f);
  for (std::size_t c = 0; c < 8; ++c) { weight[c] = 400.0f; }
  auto const method = under(0.36);
  auto const plain = m.merged(method);
  auto const weighted = method(cpu{1}, "layer.weight", {m.base.data(), m.channels, m.cols}, m.views(), weight);
  auto const lost = [&](grouped_tensor<float> const& t) {
    double sum = 0.0;
    std::vector<float> out(m.base.size());
    for (std::size_t e = 0; e < 4; ++e) {
      t.extract(e, {out.data(), m.channels, m.cols});
      for (std::size_t i = 0; i < out.size(); ++i) {
        sum += static_cast<double>(weight[i % 64]) * std::pow(static_cast<double>(out[i]) - static_cast<double>(m.experts[e][i]), 2);
      }
    }
    return sum;
  };
  CHECK(lost(weighted) < lost(plain));
}

TEST_CASE("scales of columns, one expert and many experts keep to a budget", "[budget]") {
  random_source random(13);
  for (int round = 0; round < 4; ++round) {
    auto const m = random_model(random, random.between(2, 4), random.between(2, 80), random.between(200, 900));
    merge_method::options o;
    o.groups = 4;
    o.similarity = similarity::balanced{};
    o.residual.rank_one = true;
    for (double const part : {0.05, 0.2, 0.5, 1.0}) {
      o.budget.stored = 1.0 / static_cast<double>(m.experts.size()) + 0.02 + part;
      auto const t = m.merged(merge_method{o});
      CHECK(static_cast<double>(t.stored_bytes()) <= o.budget.stored * m.bytes());
    }
  }
  auto const one = random_model(random, 1, 30, 40);
  auto const alone = one.merged(under(1.0));
  CHECK(alone.stored_bytes() == one.base.size() * sizeof(float));
  CHECK(one.error(alone) == 0.0);

  auto many = random_model(random, 8, 40, 60);
  merge_method::options o = under(0.3).settings();
  o.groups = 8;
  o.cluster = cluster::kmeans{.seed = 3};
  CHECK(static_cast<double>(many.merged(merge_method{o}).stored_bytes()) <= 0.3 * many.bytes());
  o.cluster = cluster::random{.seed = 3};
  CHECK(static_cast<double>(many.merged(merge_method{o}).stored_bytes()) <= 0.3 * many.bytes());
}

TEST_CASE("one shared row a channel and nothing else needs no more budget than its bytes", "[budget]") {
  random_source random(14);
  auto const m = random_model(random, 4, 50, 64);
  auto const t = m.merged(under(0.25));
  CHECK(t.stored_bytes() == m.base.size() * sizeof(float));
  CHECK_THROWS_AS(m.merged(under(0.2499)), argument_error);
}

TEST_CASE("an expert that was hardly trained doesn't take the others' budget", "[budget]") {
  random_source random(15);
  auto m = random_model(random, 4, 120, 96);
  m.experts[3] = m.base;
  auto const error_of_first = [&](small_model const& model) {
    auto const t = model.merged(under(0.4));
    double lost = 0.0;
    std::vector<float> out(model.base.size());
    for (std::size_t e = 0; e < 3; ++e) {
      t.extract(e, {out.data(), model.channels, model.cols});
      for (std::size_t i = 0; i < out.size(); ++i) { lost += std::pow(static_cast<double>(out[i]) - static_cast<double>(model.experts[e][i]), 2); }
    }
    return lost;
  };
  double const untrained = error_of_first(m);
  m.experts[3][17] = std::nextafter(m.experts[3][17], 10.0f);
  double const hardly = error_of_first(m);
  CHECK(hardly < 1.05 * untrained);
  CHECK(untrained < 1.05 * hardly);
}

TEST_CASE("numbers of sweeps that can't be meant are refused", "[budget]") {
  merge_method::options o = under(0.5).settings();
  o.residual.set_sweeps(-1);
  CHECK_THROWS_WITH(merge_method{o}, Catch::Contains("-1 sweeps"));
  using plain = channel_merge<cpu, prune::none, similarity::cosine, cluster::exact, consensus::mean, residual::ternary>;
  CHECK_THROWS_AS((plain{{.residual = {.sweeps = -1}}}), argument_error);
  CHECK_THROWS_AS((plain{{.residual = {.sweeps = 2000}}}), argument_error);
}

TEST_CASE("the measuring pass finds the lengths of deltas to the bit", "[budget]") {
  random_source random(11);
  auto const m = random_model(random, 3, 700, 130);
  tensor_channels source;
  source.channels = m.channels;
  source.cols = m.cols;
  auto const rows = [&](std::vector<float> const& w) {
    return channel_rows{reinterpret_cast<std::byte const*>(w.data()), dtype::f32, m.cols * 4};
  };
  source.base = rows(m.base);
  for (auto const& e : m.experts) { source.experts.push_back(rows(e)); }
  cluster::budget_histogram curves;
  auto const measured = under(0.5).measure(cpu{2}, "layer.weight", {"a", "b", "c"}, source, curves);
  CHECK(measured.norms == ops::delta_norms<cpu>{}(cpu{1}, source));
}

TEST_CASE("budgets that can't be meant are refused", "[budget]") {
  CHECK_THROWS_AS(under(-0.1), argument_error);
  CHECK_THROWS_AS(under(std::nan("")), argument_error);
  CHECK_THROWS_WITH(under(0.0), Catch::Contains("under a budget"));
  random_source random(12);
  auto const m = random_model(random, 4, 10, 32);
  CHECK_THROWS_WITH(m.merged(under(0.2)), Catch::Contains("layer.weight: a budget of 0.2") && Catch::Contains("give 0.25"));
  auto broken = m;
  broken.experts[1][37] = std::nanf("");
  CHECK_THROWS_WITH(broken.merged(under(0.5)), Catch::Contains("expert 'b' has NaN in channel 1, column 5"));
}

}  // namespace
}  // namespace braid_test
