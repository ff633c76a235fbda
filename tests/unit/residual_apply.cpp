/// How an expert's row is rebuilt from a shared row and a residual.

#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/simd_scope.hpp"

#include <braid/residual/apply.hpp>

#include <cmath>

namespace braid_test {
namespace {

using namespace braid;

constexpr residual_code all_codes[] = {residual_code::sign1,   residual_code::sign2,    residual_code::sign3,
                                       residual_code::ternary, residual_code::trellis1, residual_code::trellis2};
constexpr dtype all_types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2};

struct stored_residual {
  residual_code code;
  index_t cols;
  std::vector<std::byte> plane;
  std::vector<bfloat16> scale;
};

/// Any bytes at all: a decoder has a value for each.
stored_residual any_residual(random_source& random, residual_code code, index_t cols, float unit) {
  stored_residual r{code, cols, {}, {}};
  for (index_t i = 0; i < residual_bytes(code, cols); ++i) { r.plane.push_back(static_cast<std::byte>(random.below(256))); }
  for (int i = 0; i < residual_scales(code); ++i) {
    r.scale.push_back(bfloat16(unit * static_cast<float>(random.chance(0.1) ? 0.0 : random.bell())));
  }
  return r;
}

std::vector<float> decoded(stored_residual const& r) {
  std::vector<float> x(static_cast<std::size_t>(r.cols));
  decode_residual(r.code, r.plane.data(), r.scale.data(), r.cols, x.data());
  return x;
}

bool same_bits(float const* a, float const* b, std::size_t n) { return n == 0 || std::memcmp(a, b, n * sizeof(float)) == 0; }

float largest(dtype t) {
  switch (t) {
    case dtype::f16: return 65504.0f;
    case dtype::bf16: return 3.38953139e38f;
    case dtype::f8_e4m3: return 448.0f;
    case dtype::f8_e5m2: return 57344.0f;
    default: return 3.40282347e38f;
  }
}

matrix apply(dtype type, matrix const& shared, stored_residual const& r, std::vector<bfloat16> const& column) {
  matrix out(type, 1, r.cols);
  apply_residual(type, shared.row(0), r.code, r.plane.data(), r.scale.data(), column.empty() ? nullptr : column.data(), r.cols,
                 out.row(0));
  return out;
}

}  // namespace

TEST_CASE("a residual decoded in pieces is the residual decoded at once, at every vector width") {
  random_source random(601);
  for (simd_level const level : all_simd_levels) {
    simd_scope const scope(level);
    for (residual_code const code : all_codes) {
      for (int round = 0; round < 40; ++round) {
        index_t const cols = random_cols(random);
        INFO(name_of(code) << ", " << cols << " columns");
        auto const r = any_residual(random, code, cols, 1.0f);
        auto const whole = decoded(r);
        for (index_t first = 0; first < cols;) {
          auto const left = static_cast<int>(cols - first);
          int const n = random.chance(0.3) ? left : std::min(left, 40 * random.between(1, 20));
          std::vector<float> piece(static_cast<std::size_t>(n) + 1, 7.0f);
          detail::decode_residual_piece(code, r.plane.data(), r.scale.data(), cols, first, n, piece.data());
          REQUIRE(same_bits(piece.data(), whole.data() + first, static_cast<std::size_t>(n)));
          REQUIRE(piece.back() == 7.0f);  // nothing beyond the end
          first += n;
        }
      }
    }
  }
}

TEST_CASE("a row is its shared row plus the residual, each product and sum rounded once") {
  random_source random(602);
  for (simd_level const level : all_simd_levels) {
    simd_scope const scope(level);
    for (dtype const type : all_types) {
      for (residual_code const code : all_codes) {
        index_t const cols = random_cols(random);
        matrix shared(type, 1, cols);
        fill_with_any_finite(random, shared);
        // From residuals that vanish beside the row to those that don't fit into the type.
        auto const r = any_residual(random, code, cols, std::ldexp(1.0f, random.between(-20, 20)));
        std::vector<bfloat16> column;
        if (random.chance(0.7)) {
          for (index_t c = 0; c < cols; ++c) { column.push_back(bfloat16(static_cast<float>(random.bell()))); }
        }
        auto const x = decoded(r);
        auto const out = apply(type, shared, r, column);
        INFO(name_of(type) << ", " << name_of(code) << ", " << cols << " columns");
        for (index_t c = 0; c < cols; ++c) {
          auto const i = static_cast<std::size_t>(c);
          float more = x[i];
          if (!column.empty()) { more = static_cast<float>(static_cast<double>(static_cast<float>(column[i])) * static_cast<double>(more)); }
          double const sum = static_cast<double>(shared.at(0, c)) + static_cast<double>(more);
          double const top = static_cast<double>(largest(type));
          auto const expected = static_cast<float>(std::clamp(sum, -top, top));
          matrix one(type, 1, 1);
          one.set(0, 0, expected);
          REQUIRE(std::memcmp(one.row(0), out.row(0) + static_cast<std::size_t>(c) * size_of(type), size_of(type)) == 0);
          REQUIRE(std::isfinite(out.at(0, c)));
        }
      }
    }
  }
}

TEST_CASE("without a residual the shared row is copied bit for bit, whatever it holds") {
  random_source random(603);
  for (dtype const type : all_types) {
    index_t const cols = 77;
    matrix shared(type, 1, cols);
    for (auto& byte : shared.memory) { byte = static_cast<std::byte>(random.below(256)); }
    auto const out = apply(type, shared, {residual_code::none, cols, {}, {}}, {});
    CHECK(out.memory == shared.memory);
  }
}

TEST_CASE("NaN and infinity of a shared row stay what they are") {
  random_source random(604);
  for (simd_level const level : all_simd_levels) {
    simd_scope const scope(level);
    for (dtype const type : {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e5m2}) {
      index_t const cols = 45;
      matrix shared(type, 1, cols);
      for (index_t c = 0; c < cols; ++c) {
        float const inf = std::numeric_limits<float>::infinity();
        shared.set(0, c, c % 3 == 0 ? inf : c % 3 == 1 ? -inf : std::numeric_limits<float>::quiet_NaN());
      }
      auto const out = apply(type, shared, any_residual(random, residual_code::sign1, cols, 1e4f), {});
      for (index_t c = 0; c < cols; ++c) {
        if (c % 3 == 2) {
          CHECK(std::isnan(out.at(0, c)));
        } else {
          CHECK(out.at(0, c) == shared.at(0, c));
        }
      }
    }
  }
}

TEST_CASE("a row may be rebuilt in its place") {
  random_source random(605);
  index_t const cols = 1300;
  matrix row(dtype::bf16, 1, cols);
  fill_with_any_finite(random, row);
  auto const r = any_residual(random, residual_code::ternary, cols, 1.0f);
  auto const apart = apply(dtype::bf16, row, r, {});
  apply_residual(dtype::bf16, row.row(0), r.code, r.plane.data(), r.scale.data(), nullptr, cols, row.row(0));
  CHECK(row.memory == apart.memory);
}

}  // namespace braid_test
