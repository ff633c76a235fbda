/// Products with rows that have residuals, decoded as they are multiplied.

#include "support/catch.hpp"
#include "support/coded_rows.hpp"
#include "support/simd_scope.hpp"

#include <braid/serve/detail/device_planes.hpp>
#include <braid/serve/row_linear.hpp>

namespace braid_test {
namespace {

/// The product with the row that apply_residual gives, in the order of sums.
float expected(coded_rows const& rows, std::size_t expert, index_t channel, float const* x) {
  index_t const cols = rows.cols();
  braid::stored_row const from = rows.row(expert, channel);
  matrix row(rows.type(), 1, cols);
  braid::apply_residual(rows.type(), from.shared, from.code, from.plane, from.scale, rows.column_scales(), cols, row.row(0));
  return braid::sum_order::sum(cols, [&](index_t c) { return row.at(0, c) * x[c]; });
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

TEST_CASE("a vector times a row with a residual is the product with the row that it means, at every vector width", "[serve]") {
  random_source random(701);
  for (braid::simd_level const level : all_simd_levels) {
    simd_scope const scope(level);
    for (dtype const type : {dtype::bf16, dtype::f16, dtype::f32, dtype::f8_e4m3}) {
      for (index_t const cols : {16, 48, 512, 700, 2560, 2672}) {
        coded_rows const rows(random, type, 3, random.between(1, 40), cols, all_codes(), random.chance(0.5));
        index_t const channels = rows.channels(0);
        braid::row_linear const linear(rows);
        INFO(braid::name_of(type) << ", " << channels << " x " << cols);
        for (int const batch : {1, 2}) {
          std::vector<float> x;
          for (index_t i = 0; i < batch * cols; ++i) { x.push_back(random.chance(0.05) ? -0.0f : static_cast<float>(random.bell())); }
          std::vector<float> y(static_cast<std::size_t>(batch * channels));
          linear.apply(braid::cpu(1), 1, braid::tensor_view<float const>(x.data(), batch, cols),
                       braid::tensor_view<float>(y.data(), batch, channels));
          int wrong = 0;
          for (index_t i = 0; i < batch * channels; ++i) {
            float const one = expected(rows, 1, i % channels, x.data() + i / channels * cols);
            wrong += same_bits(y[static_cast<std::size_t>(i)], one) ? 0 : 1;
          }
          CHECK(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("bodies of products with residuals give the same bits at widths that the machine lacks", "[serve]") {
  random_source random(704);
  for (auto const code : {braid::residual_code::sign1, braid::residual_code::sign3, braid::residual_code::ternary}) {
    coded_rows const rows(random, dtype::bf16, 1, 9, 2640, {code}, true);
    std::vector<float> x;
    for (int i = 0; i < 2640; ++i) { x.push_back(static_cast<float>(random.bell())); }
    for (index_t c = 0; c < 9; ++c) {
      braid::stored_row const row = rows.row(0, c);
      float const one = expected(rows, 0, c, x.data());
      if (!std::isfinite(one)) { continue; }
      auto const* const shared = reinterpret_cast<braid::bfloat16 const*>(row.shared);
      auto const body = [&]<int W, class Columns>(std::integral_constant<int, W>, Columns const& coded) {
        float total = 0.0f;
        using kernel = braid::detail::coded_product_body<braid::bfloat16, Columns>;
        kernel::template run<W>(shared, shared, coded, rows.column_scales(), x.data(), 2640, &total);
        return total;
      };
      auto const at_every_width = [&]<class Columns, class T>(Columns const& coded, T*) {
        CHECK(same_bits(body(std::integral_constant<int, 4>{}, coded), one));
        CHECK(same_bits(body(std::integral_constant<int, 8>{}, coded), one));
        CHECK(same_bits(body(std::integral_constant<int, 16>{}, coded), one));
      };
      bool const readable = braid::detail::visit_one_pass(dtype::bf16, row.code, row.plane, row.scale, 2640, 0, at_every_width);
      CHECK(readable == !(code == braid::residual_code::ternary && static_cast<float>(row.scale[0]) < 0.0f));
    }
  }
}

TEST_CASE("NaN and infinity in rows with residuals reach the product", "[serve]") {
  random_source random(702);
  for (braid::simd_level const level : all_simd_levels) {
    simd_scope const scope(level);
    for (float const odd : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("")}) {
      for (dtype const type : {dtype::bf16, dtype::f16, dtype::f32}) {
        coded_rows rows(random, type, 1, 20, 64, all_codes(), false);
        for (index_t c = 0; c < 20; ++c) { rows.set(0, c, random.below(64), odd); }
        std::vector<float> x;
        for (int i = 0; i < 64; ++i) { x.push_back(static_cast<float>(random.bell())); }
        std::vector<float> y(20);
        braid::row_linear(rows).apply(braid::cpu(1), 0, x, y);
        for (index_t c = 0; c < 20; ++c) {
          float const one = expected(rows, 0, c, x.data());
          float const got = y[static_cast<std::size_t>(c)];
          CHECK((same_bits(got, one) || (one != one && got != got)));
          CHECK_FALSE(std::isfinite(one));
        }
      }
    }
  }
}

TEST_CASE("a device's words of residuals hold what their bytes mean", "[serve]") {
  random_source random(703);
  auto const trellis = braid::detail::device_trellis();
  for (braid::residual_code const code : all_codes()) {
    for (index_t const cols : {1, 31, 128, 129, 300}) {
      std::vector<std::byte> plane;
      for (index_t i = 0; i < braid::residual_bytes(code, cols); ++i) { plane.push_back(static_cast<std::byte>(random.below(256))); }
      std::vector<braid::bfloat16> const scale{braid::bfloat16(1.0f), braid::bfloat16(0.5f), braid::bfloat16(0.25f)};
      std::vector<float> decoded(static_cast<std::size_t>(cols));
      braid::decode_residual(code, plane.data(), scale.data(), cols, decoded.data());
      std::vector<std::uint32_t> words{7u};  // of a row before
      braid::detail::append_device_planes(code, plane.data(), cols, words);
      int const planes = braid::detail::device_planes(code);
      REQUIRE(static_cast<index_t>(words.size()) == 1 + (cols + 127) / 128 * planes * 4);
      // Bit number `bit` of plane p; of a trellis, of the whole string.
      auto const word = [&](index_t at) { return words[static_cast<std::size_t>(1 + at)]; };
      auto const plane_bit = [&](int p, index_t c) { return word((c / 128 * planes + p) * 4 + c % 128 / 32) >> (c % 32) & 1u; };
      auto const string_bit = [&](index_t bit) { return bit < 0 ? 0u : word(bit / 32) >> (31 - bit % 32) & 1u; };
      for (index_t c = 0; c < cols; ++c) {
        float value = 0.0f;
        switch (code) {
          case braid::residual_code::none: break;
          case braid::residual_code::ternary: value = plane_bit(0, c) == 0 ? 0.0f : plane_bit(1, c) != 0 ? -1.0f : 1.0f; break;
          case braid::residual_code::trellis1:
          case braid::residual_code::trellis2: {
            int const bits = code == braid::residual_code::trellis1 ? 1 : 2;
            std::size_t state = 0;
            for (index_t b = bits * (c + 1) - 8; b < bits * (c + 1); ++b) { state = 2 * state + string_bit(b); }
            value = static_cast<float>(trellis[static_cast<std::size_t>(bits - 1) * 256 + state]);
            break;
          }
          default:
            for (int p = 0; p < planes; ++p) { value += plane_bit(p, c) != 0 ? -std::ldexp(1.0f, -p) : std::ldexp(1.0f, -p); }
        }
        REQUIRE(value == decoded[static_cast<std::size_t>(c)]);
      }
    }
  }
}

}  // namespace braid_test
