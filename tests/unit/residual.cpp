/// Residual codes: what they store, what they lose, and what coding a group jointly gains.

#include "support/catch.hpp"
#include "support/residuals.hpp"

#include <braid/residual/expected_error.hpp>

namespace braid_test {

TEST_CASE("a residual code loses the share of a Gaussian row's energy that theory gives it") {
  struct expectation {
    residual::any code;
    double least;
    double most;
  };
  // Signs: 1 - 2 / pi. Best quantisers of 3 and 4 levels: 0.190, 0.1175. No code of one bit: under 0.25.
  expectation const all[] = {
      {residual::sign_bits<1>{}, 0.350, 0.376}, {residual::ternary{}, 0.183, 0.198},
      {residual::sign_bits<2>{}, 0.112, 0.126}, {residual::sign_bits<3>{}, 0.030, 0.048},
      {residual::trellis<1>{}, 0.250, 0.300},   {residual::trellis<2>{}, 0.0625, 0.086},
  };
  auto const x = gaussian(20000, 1);
  double const energy = squared_error(x, std::vector<float>(x.size(), 0.0f));
  for (auto const& e : all) {
    INFO(e.code.name);
    double const share = squared_error(x, encoded(e.code, x).value) / energy;
    CHECK(share > e.least);
    CHECK(share < e.most);
  }
}

TEST_CASE("rows of any length are encoded, and nothing of the last byte is left undefined") {
  for (auto const& r : all_residuals()) {
    for (std::size_t cols : {std::size_t{1}, std::size_t{2}, std::size_t{5}, std::size_t{7}, std::size_t{8}, std::size_t{9},
                             std::size_t{31}, std::size_t{513}}) {
      INFO(r.name << ", " << cols << " columns");
      auto const x = gaussian(cols, static_cast<unsigned>(cols));
      auto const a = encoded(r, x);
      auto const b = encoded(r, x);
      CHECK(a.plane == b.plane);
      CHECK(squared_error(x, a.value) <= squared_error(x, std::vector<float>(cols, 0.0f)) * 1.01);
    }
  }
}

TEST_CASE("a row of zeros has a residual of zeros") {
  for (auto const& r : all_residuals()) {
    INFO(r.name);
    std::vector<float> const x(77, 0.0f);
    CHECK(squared_error(x, encoded(r, x).value) == 0.0);
  }
}

TEST_CASE("column weights of one change no bit of a code, and others move the error to where it counts little") {
  for (auto const& r : all_residuals()) {
    for (std::size_t cols : {std::size_t{1}, std::size_t{9}, std::size_t{513}}) {
      INFO(r.name << ", " << cols << " columns");
      auto const x = gaussian(cols, static_cast<unsigned>(cols) + 7);
      std::vector<float> const ones(cols, 1.0f);
      auto const plain = encoded(r, x);
      auto const weighted = encoded(r, x, ones.data());
      CHECK(plain.plane == weighted.plane);
      CHECK(plain.value == weighted.value);
    }
    INFO(r.name);
    // Large numbers where nobody looks, small ones where an error counts.
    auto x = gaussian(4096, 3);
    std::vector<float> weight(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = i % 2 == 0 ? 8.0f * x[i] : x[i];
      weight[i] = i % 2 == 0 ? 0.001f : 1.0f;
    }
    auto const cost = [&](std::vector<float> const& value) {
      double sum = 0.0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        double const e = static_cast<double>(x[i]) - static_cast<double>(value[i]);
        sum += static_cast<double>(weight[i]) * e * e;
      }
      return sum;
    };
    CHECK(cost(encoded(r, x, weight.data()).value) < 0.5 * cost(encoded(r, x).value));
  }
}

TEST_CASE("merging with column weights of one is merging without, and weights that can't be meant are refused") {
  index_t const channels = 5;
  index_t const cols = 70;
  auto const base = gaussian(static_cast<std::size_t>(channels * cols), 1);
  std::vector<std::vector<float>> experts;
  for (unsigned e = 0; e < 4; ++e) { experts.push_back(gaussian(base.size(), e + 2)); }
  std::vector<float> weight(static_cast<std::size_t>(cols), 1.0f);
  auto const plain = merged(residual::ternary{}, 2, experts, base, channels, cols);
  auto const ones = merged(residual::ternary{}, 2, experts, base, channels, cols, 1, weight);
  for (std::size_t e = 0; e < experts.size(); ++e) {
    CHECK(plain.rows(e) == ones.rows(e));
    CHECK(rebuilt(plain, e) == rebuilt(ones, e));
  }
  auto const merge_with = [&](std::vector<float> const& w) { return merged(residual::ternary{}, 2, experts, base, channels, cols, 1, w); };
  CHECK_THROWS_AS(merge_with(std::vector<float>(69, 1.0f)), shape_error);
  CHECK_THROWS_AS(merge_with(std::vector<float>(70, 0.0f)), argument_error);
  weight[3] = -1.0f;
  CHECK_THROWS_AS(merge_with(weight), argument_error);
  weight[3] = std::nanf("");
  CHECK_THROWS_AS(merge_with(weight), argument_error);
  weight[3] = 0.0f;
  CHECK_NOTHROW(merge_with(weight));
}

TEST_CASE("clustering joins the experts that are alike where columns count") {
  // In the first half of the columns a is like b and c like d; in the second half a is like c, b like d, and louder.
  index_t const cols = 64;
  std::vector<float> const base(static_cast<std::size_t>(cols), 0.0f);
  auto const shape = gaussian(static_cast<std::size_t>(cols), 1);
  auto const other = gaussian(static_cast<std::size_t>(cols), 2);
  std::vector<std::vector<float>> experts;
  for (int e = 0; e < 4; ++e) {
    auto w = gaussian(static_cast<std::size_t>(cols), static_cast<unsigned>(e) + 3);
    for (index_t c = 0; c < cols; ++c) {
      auto const i = static_cast<std::size_t>(c);
      bool const first = c < cols / 2;
      float const which = (first ? e / 2 : e % 2) == 0 ? shape[i] : other[i];
      w[i] = 0.1f * w[i] + (first ? which : 3.0f * which);
    }
    experts.push_back(std::move(w));
  }
  std::vector<float> weight(static_cast<std::size_t>(cols), 0.0f);
  std::fill(weight.begin(), weight.begin() + cols / 2, 2.0f);
  auto const plain = merged(residual::none{}, 2, experts, base, 1, cols);
  auto const halves = merged(residual::none{}, 2, experts, base, 1, cols, 1, weight);
  CHECK((plain.group(0, 0) == plain.group(2, 0) && plain.group(0, 0) != plain.group(1, 0)));
  CHECK((halves.group(0, 0) == halves.group(1, 0) && halves.group(0, 0) != halves.group(2, 0)));
}

TEST_CASE("a code is found again by its name") {
  for (int c = 0; c < residual_codes; ++c) {
    auto const code = static_cast<residual_code>(c);
    CHECK(residual_code_named(name_of(code)) == code);
  }
  CHECK_FALSE(residual_code_named("sign4").has_value());
}

TEST_CASE("residuals bring every expert nearer, and refining the shared row nearer still") {
  index_t const channels = 6;
  index_t const cols = 256;
  for (std::size_t n : {std::size_t{2}, std::size_t{3}, std::size_t{5}}) {
    auto const base = gaussian(static_cast<std::size_t>(channels * cols), 99);
    std::vector<std::vector<float>> experts;
    for (std::size_t e = 0; e < n; ++e) {
      auto w = gaussian(base.size(), static_cast<unsigned>(e));
      for (std::size_t i = 0; i < w.size(); ++i) { w[i] = base[i] + 0.1f * w[i]; }
      experts.push_back(std::move(w));
    }
    double const plain = lost(merged(residual::none{}, 1, experts, base, channels, cols), experts);
    for (auto r : all_residuals()) {
      INFO(r.name << ", " << n << " experts");
      auto still = r;
      std::visit(
          [&](auto& choice) {
            if constexpr (requires { choice.sweeps = 0; }) {
              choice.sweeps = 0;
              still = choice;
            }
          },
          still.choice);
      REQUIRE(still.sweeps == 0);
      double const once = lost(merged(still, 1, experts, base, channels, cols), experts);
      double const refined = lost(merged(r, 1, experts, base, channels, cols), experts);
      CHECK(once < 0.45 * plain);
      CHECK(refined < 0.9 * once);
    }
  }
}

TEST_CASE("the error that is expected of a group is what Gaussian deltas leave") {
  index_t const cols = 2048;
  std::vector<float> const base(static_cast<std::size_t>(3 * cols), 0.0f);
  for (std::size_t n : {std::size_t{2}, std::size_t{3}, std::size_t{5}, std::size_t{6}}) {
    std::vector<std::vector<float>> experts;
    for (std::size_t e = 0; e < n; ++e) { experts.push_back(gaussian(base.size(), static_cast<unsigned>(100 * n + e))); }
    auto const members = static_cast<int>(n);
    double const plain = lost(merged(residual::none{}, 1, experts, base, 3, cols), experts);
    CHECK(expected_residual_error(residual_code::none, members) == 1.0);
    for (auto const& r : all_residuals()) {
      INFO(r.name << ", " << n << " experts");
      double const share = lost(merged(r, 1, experts, base, 3, cols), experts) / plain;
      CHECK(share == Catch::Approx(expected_residual_error(r.code, members)).epsilon(0.08));
    }
  }
  for (auto const& r : all_residuals()) {
    CHECK(expected_residual_error(r.code, 1) == 0.0);
    for (int n = 3; n < 40; ++n) {
      CHECK(expected_residual_error(r.code, n) > expected_residual_error(r.code, n - 1));
      CHECK(expected_residual_error(r.code, n) < squared_error(gaussian(4096, 5), encoded(r, gaussian(4096, 5)).value) / 3900.0);
    }
  }
}

TEST_CASE("an expert alone in its group keeps its row bit for bit beside others' residuals") {
  index_t const channels = 8;
  index_t const cols = 64;
  auto const base = gaussian(static_cast<std::size_t>(channels * cols), 5);
  std::vector<std::vector<float>> experts;
  for (unsigned e = 0; e < 3; ++e) {
    auto w = gaussian(base.size(), e + 10);
    for (std::size_t i = 0; i < w.size(); ++i) { w[i] += base[i]; }
    experts.push_back(std::move(w));
  }
  auto const g = merged(residual::ternary{}, 2, experts, base, channels, cols);
  int lone = 0;
  for (std::size_t e = 0; e < 3; ++e) {
    auto const out = rebuilt(g, e);
    for (index_t c = 0; c < channels; ++c) {
      bool alone = true;
      for (std::size_t other = 0; other < 3; ++other) { alone = alone && (other == e || g.group(other, c) != g.group(e, c)); }
      CHECK((g.residual(e, c) == residual_code::none) == alone);
      if (!alone) { continue; }
      ++lone;
      auto const begin = static_cast<std::ptrdiff_t>(c * cols);
      CHECK(std::equal(out.begin() + begin, out.begin() + begin + cols, experts[e].begin() + begin));
    }
  }
  CHECK(lone == channels);
}

TEST_CASE("experts with equal rows get equal rows back, whatever the residual") {
  index_t const channels = 4;
  index_t const cols = 96;
  auto const base = gaussian(static_cast<std::size_t>(channels * cols), 5);
  std::vector<std::vector<float>> experts{gaussian(base.size(), 1), gaussian(base.size(), 2), gaussian(base.size(), 1),
                                          gaussian(base.size(), 3)};
  for (auto const& r : all_residuals()) {
    INFO(r.name);
    auto const g = merged(r, 1, experts, base, channels, cols);
    CHECK(rebuilt(g, 0) == rebuilt(g, 2));
  }
}

TEST_CASE("residuals don't depend on threads or instruction set") {
  index_t const channels = 40;
  index_t const cols = 200;
  auto const wide = gaussian(static_cast<std::size_t>(channels * cols), 5);
  std::vector<bfloat16> base;
  for (float const x : wide) { base.push_back(bfloat16(x)); }
  std::vector<std::vector<bfloat16>> experts;
  for (unsigned e = 0; e < 4; ++e) {
    auto const d = gaussian(base.size(), e);
    std::vector<bfloat16> w;
    for (std::size_t i = 0; i < d.size(); ++i) { w.push_back(bfloat16(wide[i] + 0.1f * d[i])); }
    experts.push_back(std::move(w));
  }
  auto const bits = [](std::vector<bfloat16> const& row) {
    std::vector<std::uint16_t> b;
    for (auto const x : row) { b.push_back(x.bits); }
    return b;
  };
  for (auto const& r : all_residuals()) {
    INFO(r.name);
    auto const one = merged(r, 2, experts, base, channels, cols, 1);
    auto const two = merged(r, 2, experts, base, channels, cols, 2);
    limit_simd_level(simd_level::portable);
    auto const portable = merged(r, 2, experts, base, channels, cols, 1);
    limit_simd_level(simd_level::avx512);
    CHECK(one.stored_bytes() == two.stored_bytes());
    for (std::size_t e = 0; e < 4; ++e) {
      CHECK(bits(rebuilt(one, e)) == bits(rebuilt(two, e)));
      CHECK(bits(rebuilt(one, e)) == bits(rebuilt(portable, e)));
    }
  }
}

}  // namespace braid_test
