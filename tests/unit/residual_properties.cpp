/// What holds for every residual code on every row: random shapes, lengths and distributions, all instruction sets.

#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/residuals.hpp"
#include "support/simd_scope.hpp"

#include <cstring>

namespace braid_test {
namespace {

constexpr index_t lengths[] = {0, 1, 2, 5, 7, 8, 9, 15, 16, 17, 39, 40, 41, 64, 319, 320, 321, 511, 512, 513, 1300};

/// Bell-shaped, heavy-tailed, sparse, all of one size, of two sizes, one spike, zeros.
std::vector<float> any_row(random_source& random, index_t cols) {
  int const kind = random.below(7);
  double const unit = std::exp2(random.between(-20, 10));
  std::vector<float> x;
  for (index_t c = 0; c < cols; ++c) {
    double v = random.bell();
    if (kind == 1) { v = v * v * v; }
    if (kind == 2) { v = random.chance(0.9) ? 0.0 : v; }
    if (kind == 3) { v = v < 0.0 ? -1.0 : 1.0; }
    if (kind == 4) { v = (v < 0.0 ? -1.0 : 1.0) * (random.chance(0.3) ? 1.0 : 3.0); }
    if (kind == 5) { v = c == cols / 2 ? 100.0 : 0.001 * v; }
    if (kind == 6) { v = 0.0; }
    x.push_back(static_cast<float>(unit * v));
  }
  return x;
}

std::vector<float> any_weights(random_source& random, index_t cols) {
  std::vector<float> h;
  double const unit = std::exp2(random.between(-10, 10));
  for (index_t c = 0; c < cols; ++c) { h.push_back(random.chance(0.1) ? 0.0f : static_cast<float>(unit * std::exp2(4.0 * random.bell()))); }
  return h;
}

/// Sum of weight * (a - b)^2, in double.
double weighted_error(std::vector<float> const& a, std::vector<float> const& b, std::vector<float> const& h) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double const e = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += (h.empty() ? 1.0 : static_cast<double>(h[i])) * e * e;
  }
  return sum;
}

std::vector<std::uint16_t> bits_of(std::vector<bfloat16> const& x) {
  std::vector<std::uint16_t> bits;
  for (auto const v : x) { bits.push_back(v.bits); }
  return bits;
}

void check_same(coded const& a, coded const& b) {
  REQUIRE(a.plane == b.plane);
  REQUIRE(bits_of(a.scale) == bits_of(b.scale));
}

}  // namespace

TEST_CASE("coding a row never leaves more error than not coding it, with and without weights") {
  random_source random(1);
  for (auto const& r : all_residuals()) {
    for (index_t const cols : lengths) {
      for (int round = 0; round < 8; ++round) {
        auto const x = any_row(random, cols);
        auto const h = round % 2 == 0 ? std::vector<float>{} : any_weights(random, cols);
        INFO(r.name << ", " << cols << " columns, round " << round);
        auto const c = encoded(r, x, h.empty() ? nullptr : h.data());
        std::vector<float> const zero(x.size(), 0.0f);
        REQUIRE(weighted_error(x, c.value, h) <= weighted_error(x, zero, h) * (1.0 + 1e-4));
      }
    }
  }
}

TEST_CASE("weights that are all one give the bits of no weights") {
  random_source random(2);
  for (auto const& r : all_residuals()) {
    for (index_t const cols : lengths) {
      INFO(r.name << ", " << cols << " columns");
      auto const x = any_row(random, cols);
      std::vector<float> const ones(x.size(), 1.0f);
      check_same(encoded(r, x), encoded(r, x, ones.data()));
    }
  }
}

TEST_CASE("a column without weight changes nothing of the others' code") {
  random_source random(3);
  for (auto const& r : all_residuals()) {
    if (r.code == residual_code::trellis1 || r.code == residual_code::trellis2) { continue; }  // a path knows its length
    for (int round = 0; round < 20; ++round) {
      INFO(r.name << ", round " << round);
      index_t const cols = random.between(2, 600);
      auto x = any_row(random, cols);
      std::vector<float> h(x.size(), 1.0f);
      auto const silent = static_cast<std::size_t>(random.below(static_cast<int>(cols)));
      h[silent] = 0.0f;
      auto const before = encoded(r, x, h.data());
      x[silent] = -1000.0f * x[silent];
      auto const after = encoded(r, x, h.data());
      REQUIRE(bits_of(before.scale) == bits_of(after.scale));
      for (std::size_t c = 0; c < x.size(); ++c) {
        if (c != silent) { REQUIRE(before.value[c] == after.value[c]); }
      }
    }
  }
}

TEST_CASE("a row times a power of two has the same code and scales times that power") {
  random_source random(4);
  for (auto const& r : all_residuals()) {
    for (index_t const cols : lengths) {
      for (int const power : {-3, 5}) {
        INFO(r.name << ", " << cols << " columns");
        auto const x = any_row(random, cols);
        auto const h = random.chance(0.5) ? std::vector<float>(x.size(), 1.0f) : any_weights(random, cols);
        std::vector<float> scaled;
        for (float const v : x) { scaled.push_back(std::ldexp(v, power)); }
        auto const a = encoded(r, x, h.data());
        auto const b = encoded(r, scaled, h.data());
        REQUIRE(a.plane == b.plane);
        for (std::size_t s = 0; s < a.scale.size(); ++s) {
          REQUIRE(std::ldexp(static_cast<float>(a.scale[s]), power) == static_cast<float>(b.scale[s]));
        }
      }
    }
  }
}

TEST_CASE("all instruction sets give a row the same code") {
  random_source random(5);
  for (auto const& r : all_residuals()) {
    for (index_t const cols : lengths) {
      INFO(r.name << ", " << cols << " columns");
      auto const x = any_row(random, cols);
      auto const h = random.chance(0.5) ? std::vector<float>(x.size(), 1.0f) : any_weights(random, cols);
      auto const one = encoded(r, x, h.data());
      for (auto const level : all_simd_levels) {
        simd_scope const scope(level);
        auto const other = encoded(r, x, h.data());
        check_same(one, other);
        REQUIRE(one.value == other.value);
      }
    }
  }
}

TEST_CASE("rows whose levels a code can name lose nothing") {
  random_source random(6);
  auto const exact = [](residual::any const& r, std::vector<float> const& x) { return encoded(r, x).value == x; };
  for (int round = 0; round < 50; ++round) {
    std::vector<float> one;
    std::vector<float> two;
    std::vector<float> three;
    for (int c = random.between(20, 700); c > 0; --c) {
      float const sign = random.chance(0.5) ? -0.25f : 0.25f;
      one.push_back(sign);
      two.push_back(sign * (random.chance(0.5) ? 1.0f : 3.0f));
      three.push_back(random.chance(0.4) ? 0.0f : sign);
    }
    CHECK(exact(residual::sign_bits<1>{}, one));
    CHECK(exact(residual::sign_bits<2>{}, one));
    CHECK(exact(residual::sign_bits<3>{}, one));
    CHECK(exact(residual::sign_bits<2>{}, two));
    CHECK(exact(residual::ternary{}, one));
    CHECK(exact(residual::ternary{}, three));
  }
}

TEST_CASE("what overflows float32, or vanishes in it, is coded as nothing rather than as infinity") {
  for (auto const& r : all_residuals()) {
    for (float const unit : {3e38f, 1e-45f}) {
      INFO(r.name << ", " << unit);
      std::vector<float> x(100, unit);
      for (std::size_t i = 0; i < x.size(); i += 3) { x[i] = -unit; }
      auto const c = encoded(r, x);
      for (float const v : c.value) { REQUIRE(std::isfinite(v)); }
    }
  }
}

TEST_CASE("the trellis search finds the best of all paths") {
  random_source random(7);
  for (int round = 0; round < 5; ++round) {
    std::vector<float> x;
    for (int c = 0; c < 10; ++c) { x.push_back(static_cast<float>(random.bell())); }
    float square = 0.0f;
    for (float const v : x) { square += v * v; }
    float const s = std::sqrt(square / 10.0f);
    std::vector<float> last(256);
    std::vector<std::byte> plane(2);
    std::vector<float> path(10);
    std::vector<std::uint8_t> decision(160);
    std::vector<float> unit;
    for (float const v : x) { unit.push_back(v / s); }
    detail::trellis_forward_body<1>::run<8>(unit.data(), nullptr, 10, decision.data(), last.data());
    detail::trellis_backward_body<1>::run<8>(last.data(), decision.data(), 10, plane.data(), path.data());
    double least = 1e30;
    for (unsigned bits = 0; bits < 1024; ++bits) {
      std::byte const stream[2] = {static_cast<std::byte>(bits & 255u), static_cast<std::byte>(bits >> 8)};
      bfloat16 const one(1.0f);
      std::vector<float> decoded(10);
      decode_residual(residual_code::trellis1, stream, &one, 10, decoded.data());
      least = std::min(least, squared_error(unit, decoded));
    }
    CHECK(squared_error(unit, path) == Catch::Approx(least));
    bfloat16 const one(1.0f);
    std::vector<float> decoded(10);
    decode_residual(residual_code::trellis1, plane.data(), &one, 10, decoded.data());
    CHECK(decoded == path);
  }
}

}  // namespace braid_test
