#include "gpu/row_linear.hpp"

#include "support/catch.hpp"

#include <braid/serve/row_linear.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace braid_test {

std::vector<float> products_on_cpu(product_case const& c) {
  std::vector<float> y(c.expert.size() * static_cast<std::size_t>(c.models.base.rows));
  auto const batch = static_cast<index_t>(c.expert.size());
  with_merged_rows(c, [&](auto const& source) {
    braid::row_linear(source).apply(braid::cpu(), c.expert, braid::tensor_view<float const>(c.x.data(), batch, c.models.base.cols, c.stride),
                                    braid::tensor_view<float>(y.data(), batch, c.models.base.rows));
  });
  return y;
}

namespace {

product_case random_case(random_source& random, index_t channels, index_t cols, int batch, int kind) {
  product_case c;
  constexpr dtype types[] = {dtype::bf16, dtype::f16, dtype::f32};
  c.models = random_family(random, random.one_of(types), channels, cols, 4);
  switch (kind % 5) {
    case 1: c.code = braid::residual::sign_bits<1>{}; break;
    case 2: c.code = braid::residual::sign_bits<2>{}; break;
    case 3: c.code = braid::residual::sign_bits<3>{}; break;
    default: break;
  }
  c.code.rank_one = kind % 2 == 0;
  c.groups = c.code.code == braid::residual_code::none ? random.between(1, 4) : random.between(1, 2);
  for (int b = 0; b < batch; ++b) { c.expert.push_back(static_cast<std::size_t>(random.below(4))); }
  c.stride = cols + (random.chance(0.5) ? 0 : random.between(0, 5));
  c.x.resize(static_cast<std::size_t>(batch * c.stride));
  for (float& v : c.x) { v = random.chance(0.02) ? -0.0f : static_cast<float>(random.bell()); }
  return c;
}

void check_same(product_case const& c) {
  INFO(c.models.base.rows << " x " << c.models.base.cols << " " << braid::name_of(c.models.base.type) << ", " << c.code.name << ", batch "
                          << c.expert.size() << ", stride " << c.stride);
  auto const here = products_on_cpu(c);
  auto const there = products_on_device(c);
  REQUIRE(there.size() == here.size());
  REQUIRE(std::memcmp(here.data(), there.data(), here.size() * sizeof(float)) == 0);
}

/// On tensor cores: sums of float64, within what float32 sums of rounded vectors may differ.
void check_near(product_case c, bool own_type) {
  if (own_type) {
    for (float& v : c.x) { v = c.models.base.type == dtype::f16 ? static_cast<float>(braid::float16(v)) : static_cast<float>(braid::bfloat16(v)); }
  }
  INFO(c.models.base.rows << " x " << c.models.base.cols << " " << braid::name_of(c.models.base.type) << ", " << c.code.name << ", batch "
                          << c.expert.size() << ", stride " << c.stride << (own_type ? ", vectors of that type" : ""));
  auto const there = products_on_tensor_cores(c, own_type);
  auto const channels = static_cast<std::size_t>(c.models.base.rows);
  REQUIRE(there.size() == c.expert.size() * channels);
  std::size_t wrong = 0;
  with_merged_rows(c, [&](auto const& source) {
    braid::row_linear const rows(source);
    std::vector<float> row(static_cast<std::size_t>(c.models.base.cols));
    for (std::size_t b = 0; b < c.expert.size(); ++b) {
      float const* const x = c.x.data() + static_cast<index_t>(b) * c.stride;
      for (std::size_t channel = 0; channel < channels; ++channel) {
        rows.row(c.expert[b], static_cast<index_t>(channel), row);
        double sum = 0.0;
        double all = 0.0;
        double largest = 0.0;
        for (std::size_t k = 0; k < row.size(); ++k) {
          sum += static_cast<double>(row[k]) * static_cast<double>(x[k]);
          all += std::abs(static_cast<double>(row[k]));
          largest = std::max(largest, std::abs(static_cast<double>(x[k])));
        }
        if (!(std::abs(sum - static_cast<double>(there[b * channels + channel])) <= 2e-6 * all * largest + static_cast<double>(row.size()) * 0x1p-147)) { ++wrong; }
      }
    }
  });
  CHECK(wrong == 0);
}

product_case random_16_bit_case(random_source& random, index_t channels, index_t cols, int batch, int kind) {
  for (;;) {
    auto c = random_case(random, channels, cols, batch, kind);
    if (c.models.base.type != dtype::f32) { return c; }
  }
}

}  // namespace

TEST_CASE("products on tensor cores are those of float64, within float32's digits", "[short][serve]") {
  random_source random(414);
  for (int round = 0; round < 60; ++round) {
    index_t const cols = round % 7 == 0 ? random.between(3000, 9000) : random_cols(random);
    int const batch = round % 3 == 0 ? random.between(1, 16) : random.between(1, 150);
    check_near(random_16_bit_case(random, random.between(1, cols > 1000 ? 50 : 200), cols, batch, round), random.chance(0.5));
  }
  check_near(random_16_bit_case(random, 300, 4096, 64, 0), false);
  check_near(random_16_bit_case(random, 2300, 600, 20, 4), true);
}

TEST_CASE("products by rows on the device have the CPU's bits", "[short][serve]") {
  random_source random(411);
  for (int round = 0; round < 120; ++round) {
    index_t const cols = round % 7 == 0 ? random.between(3000, 9000) : random_cols(random);
    int const batch = round % 3 == 0 ? 1 : random.between(1, 40);
    check_same(random_case(random, random.between(1, cols > 1000 ? 50 : 200), cols, batch, round));
  }
}

TEST_CASE("products of rows that real models have", "[serve]") {
  random_source random(412);
  for (auto const& [channels, cols] : {std::pair<index_t, index_t>{700, 4096}, {300, 14336}, {520, 11008}}) {
    for (int const batch : {1, 3, cols == 4096 ? 64 : 10}) { check_same(random_case(random, channels, cols, batch, batch)); }
  }
}

TEST_CASE("every kernel of products once, small enough for compute-sanitizer", "[sanitized][serve]") {
  random_source random(413);
  int kind = 0;
  for (int const batch : {1, 2, 4, 7, 17}) {
    for (index_t const cols : {40, 1100}) { check_same(random_case(random, 37, cols, batch, kind++)); }
  }
  for (int const batch : {1, 20, 40}) {
    check_near(random_16_bit_case(random, 70, 300, batch, kind), false);
    check_near(random_16_bit_case(random, 70, 300, batch, kind++), true);
  }
}

}  // namespace braid_test
