#include "gpu/row_linear.hpp"

#include "support/catch.hpp"

#include <braid/serve/row_linear.hpp>

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

}  // namespace

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
    for (int const batch : {1, 3, 64}) { check_same(random_case(random, channels, cols, batch, batch)); }
  }
}

TEST_CASE("every kernel of products once, small enough for compute-sanitizer", "[sanitized][serve]") {
  random_source random(413);
  int kind = 0;
  for (int const batch : {1, 2, 4, 7, 17}) {
    for (index_t const cols : {40, 1100}) { check_same(random_case(random, 37, cols, batch, kind++)); }
  }
}

}  // namespace braid_test
