/// Columns of a tensor that differ: scales of their own (rank 1), weights, and what they change of a merge.

#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/residuals.hpp"

#include <algorithm>

namespace braid_test {
namespace {

using merge_type = channel_merge<cpu, prune::none, similarity::cosine, cluster::exact, consensus::mean, residual::any>;

/// Experts whose deltas have columns of very different sizes.
struct uneven {
  index_t rows;
  index_t cols;
  std::vector<float> base;
  std::vector<std::vector<float>> experts;
  std::vector<float> size;

  uneven(index_t r, index_t c, std::size_t n, unsigned seed) : rows(r), cols(c), base(gaussian(static_cast<std::size_t>(r * c), seed)) {
    for (float const v : gaussian(static_cast<std::size_t>(c), seed + 1)) { size.push_back(0.01f * std::exp(v)); }
    for (std::size_t e = 0; e < n; ++e) {
      auto w = gaussian(base.size(), seed + 2 + static_cast<unsigned>(e));
      for (std::size_t i = 0; i < w.size(); ++i) {
        w[i] = base[i] + size[i % size.size()] * (i / size.size() % 2 == 0 ? 1.0f : 5.0f) * w[i];
      }
      experts.push_back(std::move(w));
    }
  }
  [[nodiscard]] tensor_channels source() const {
    tensor_channels t;
    t.channels = rows;
    t.cols = cols;
    auto const of = [this](std::vector<float> const& x) {
      return channel_rows{reinterpret_cast<std::byte const*>(x.data()), dtype::f32, cols * index_t{sizeof(float)}};
    };
    t.base = of(base);
    for (auto const& e : experts) { t.experts.push_back(of(e)); }
    return t;
  }
};

residual::any with_columns(residual::any const& r, int sweeps = -1) {
  residual::any changed;
  std::visit(
      [&](auto choice) {
        if constexpr (requires { choice.rank_one = true; }) {
          choice.rank_one = true;
          if (sweeps >= 0) { choice.sweeps = sweeps; }
        }
        changed = residual::any(choice);
      },
      r.choice);
  return changed;
}

/// A tensor merged in one block.
struct one_block {
  std::vector<float> pool;
  residual_block residual;

  one_block(merge_type const& merge, tensor_context const& context, uneven const& u) : pool(u.base.size()) {
    std::vector<std::byte> scratch;
    std::vector<std::uint8_t> label(static_cast<std::size_t>(u.rows) * u.experts.size());
    merged_block out;
    out.group_zero = reinterpret_cast<std::byte*>(pool.data());
    out.label = label.data();
    out.residual = &residual;
    braid::detail::channel_workspace work;
    merge.block_operation()(context, u.source().block(0, u.rows, scratch), out, work);
  }
};

}  // namespace

TEST_CASE("the scales of columns are those of the plainest code, on any number of threads") {
  for (unsigned seed : {1u, 2u}) {
    uneven const u(seed == 1 ? 37 : 300, seed == 1 ? 530 : 50, 3, 10 * seed);
    std::vector<double> expected(static_cast<std::size_t>(u.cols), 0.0);
    for (index_t r = 0; r < u.rows; ++r) {
      std::vector<double> square(expected.size(), 0.0);
      double total = 0.0;
      for (std::size_t c = 0; c < expected.size(); ++c) {
        std::size_t const i = static_cast<std::size_t>(r * u.cols) + c;
        double mean = 0.0;
        for (auto const& e : u.experts) { mean += static_cast<double>(e[i]) / 3.0; }
        for (auto const& e : u.experts) { square[c] += (static_cast<double>(e[i]) - mean) * (static_cast<double>(e[i]) - mean); }
        total += square[c];
      }
      for (std::size_t c = 0; c < expected.size(); ++c) { expected[c] += square[c] / total; }
    }
    double mean = 0.0;
    for (double& x : expected) { mean += (x = std::sqrt(x)) / static_cast<double>(u.cols); }
    auto const one = ops::column_scales<cpu>{}(cpu{1}, u.source());
    auto const two = ops::column_scales<cpu>{}(cpu{2}, u.source());
    REQUIRE(one.size() == expected.size());
    for (std::size_t c = 0; c < one.size(); ++c) {
      CHECK(one[c].bits == two[c].bits);
      CHECK(static_cast<double>(static_cast<float>(one[c])) == Catch::Approx(std::max(expected[c] / mean, 0x1p-8)).epsilon(0.005));
    }
  }
}

TEST_CASE("scales of columns are never zero, and all one where experts don't differ") {
  uneven u(4, 20, 3, 5);
  for (auto& e : u.experts) {
    for (index_t r = 0; r < 4; ++r) { e[static_cast<std::size_t>(r * 20 + 7)] = 0.5f; }
  }
  auto const scales = ops::column_scales<cpu>{}(cpu{1}, u.source());
  for (auto const s : scales) { CHECK(static_cast<float>(s) >= 0x1p-8f); }
  CHECK(static_cast<float>(scales[7]) == 0x1p-8f);
  for (auto& e : u.experts) { e = u.base; }
  for (auto const s : ops::column_scales<cpu>{}(cpu{1}, u.source())) { CHECK(static_cast<float>(s) == 1.0f); }
}

TEST_CASE("scales of columns halve the error where columns differ, and cost two bytes a column") {
  uneven const u(24, 400, 4, 77);
  for (auto const& r : all_residuals()) {
    INFO(r.name);
    auto const plain = merged(r, 1, u.experts, u.base, u.rows, u.cols);
    auto const columns = merged(with_columns(r), 1, u.experts, u.base, u.rows, u.cols);
    CHECK(plain.column_scales().empty());
    CHECK(columns.column_scales().size() == static_cast<std::size_t>(u.cols));
    CHECK(columns.stored_bytes() == plain.stored_bytes() + 2u * static_cast<std::size_t>(u.cols));
    CHECK(lost(columns, u.experts) < 0.6 * lost(plain, u.experts));
    for (std::size_t e = 0; e < u.experts.size(); ++e) {
      auto const one = rebuilt(columns, e);
      CHECK(one == rebuilt(merged(with_columns(r), 1, u.experts, u.base, u.rows, u.cols, 2), e));
    }
  }
}

TEST_CASE("scales of columns that are all one change no bit") {
  uneven const u(6, 130, 3, 8);
  std::vector<float> const weight(u.size.begin(), u.size.end());
  for (auto const& r : all_residuals()) {
    for (bool const weighted : {false, true}) {
      INFO(r.name << (weighted ? ", weighted" : ""));
      merge_type const merge{{.residual = r, .groups = 1}};
      auto source = u.source();
      source.column_weight = weighted ? weight.data() : nullptr;
      tensor_context context = merge.prepare(cpu{1}, "w", {"a", "b", "c"}, source);
      one_block const plain(merge, context, u);
      context.column.assign(static_cast<std::size_t>(u.cols), bfloat16(1.0f));
      one_block const ones(merge, context, u);
      CHECK(plain.pool == ones.pool);
      CHECK(plain.residual.planes == ones.residual.planes);
      CHECK(std::equal(plain.residual.scales.begin(), plain.residual.scales.end(), ones.residual.scales.begin(),
                       [](bfloat16 a, bfloat16 b) { return a.bits == b.bits; }));
    }
  }
}

TEST_CASE("weights move a group's error to the columns that count little") {
  uneven const u(12, 256, 3, 9);
  std::vector<float> weight;
  for (float const s : u.size) { weight.push_back(1e-6f / (s * s * s * s)); }
  auto const cost = [&](grouped_tensor<float> const& g) {
    double sum = 0.0;
    for (std::size_t e = 0; e < u.experts.size(); ++e) {
      auto const out = rebuilt(g, e);
      for (std::size_t i = 0; i < out.size(); ++i) {
        double const d = static_cast<double>(out[i]) - static_cast<double>(u.experts[e][i]);
        sum += static_cast<double>(weight[i % weight.size()]) * d * d;
      }
    }
    return sum;
  };
  for (auto const& r : all_residuals()) {
    INFO(r.name);
    for (auto const& code : {r, with_columns(r)}) {
      CHECK(cost(merged(code, 1, u.experts, u.base, u.rows, u.cols, 1, weight)) <
            cost(merged(code, 1, u.experts, u.base, u.rows, u.cols)));
    }
  }
}

TEST_CASE("a group with residuals is never farther from its experts than its mean is") {
  random_source random(3);
  for (auto const& r : all_residuals()) {
    for (index_t const cols : {index_t{0}, index_t{1}, index_t{7}, index_t{9}, index_t{512}, index_t{513}}) {
      for (std::size_t n = 2; n <= 5; ++n) {
        INFO(r.name << ", " << cols << " columns, " << n << " experts");
        std::vector<float> const base(static_cast<std::size_t>(3 * cols), 0.0f);
        std::vector<std::vector<float>> experts;
        for (std::size_t e = 0; e < n; ++e) {
          std::vector<float> w;
          for (std::size_t i = 0; i < base.size(); ++i) {
            double const v = random.bell();
            w.push_back(static_cast<float>(i < base.size() / 3 ? v : i < 2 * base.size() / 3 ? v * v * v : random.chance(0.1) ? v : 0.0));
          }
          experts.push_back(std::move(w));
        }
        double const plain = lost(merged(residual::none{}, 1, experts, base, 3, cols), experts);
        for (auto const& code : {r, with_columns(r), with_columns(r, 0)}) {
          REQUIRE(lost(merged(code, 1, experts, base, 3, cols), experts) <= plain * (1.0 + 1e-4));
        }
      }
    }
  }
}

TEST_CASE("NaN and infinity, where they are allowed, spoil no other column") {
  index_t const cols = 100;
  auto const base = gaussian(static_cast<std::size_t>(cols), 1);
  std::vector<std::vector<float>> experts;
  for (unsigned e = 0; e < 3; ++e) { experts.push_back(gaussian(base.size(), e + 2)); }
  experts[1][5] = std::nanf("");
  experts[2][50] = HUGE_VALF;
  std::vector<expert_view<float>> const views{
      {"a", {experts[0].data(), 1, cols}}, {"b", {experts[1].data(), 1, cols}}, {"c", {experts[2].data(), 1, cols}}};
  for (auto const& r : all_residuals()) {
    for (auto const& code : {r, with_columns(r)}) {
      INFO(r.name);
      merge_type const merge{{.residual = code, .groups = 1, .allow_nonfinite = true}};
      auto const g = merge(cpu{1}, "w", {base.data(), 1, cols}, views);
      for (std::size_t e = 0; e < 3; ++e) {
        auto const out = rebuilt(g, e);
        double error = 0.0;
        for (std::size_t c = 0; c < out.size(); ++c) {
          if (c == 5 || c == 50) { continue; }
          double const d = static_cast<double>(out[c]) - static_cast<double>(experts[e][c]);
          error += d * d;
        }
        CHECK(error < 30.0);
      }
      CHECK_THROWS_AS((merge_type{{.residual = code, .groups = 1}}(cpu{1}, "w", {base.data(), 1, cols}, views)), value_error);
    }
  }
}

TEST_CASE("experts near the largest number of their type come back finite") {
  index_t const cols = 64;
  auto const shape = gaussian(static_cast<std::size_t>(4 * cols), 1);
  std::vector<float16> const base(static_cast<std::size_t>(cols), float16(0.0f));
  std::vector<std::vector<float16>> experts(4);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    experts[i % 4].push_back(float16(shape[i] < 0.0f ? -65504.0f + 20000.0f * std::min(1.0f, -shape[i]) : 65504.0f));
  }
  for (auto const& r : all_residuals()) {
    INFO(r.name);
    auto const g = merged(r, 1, experts, base, 1, cols);
    for (index_t c = 0; c < cols; ++c) { CHECK(std::isfinite(static_cast<float>(g.pool().row(0)[c]))); }
    for (std::size_t e = 0; e < 4; ++e) {
      for (float16 const x : rebuilt(g, e)) { CHECK(std::isfinite(static_cast<float>(x))); }
    }
  }
}

}  // namespace braid_test
