#include "gpu/coded_products.hpp"

#include "support/catch.hpp"

#include <braid/serve/row_linear.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace braid_test {

namespace {

coded_case random_case(random_source& random, dtype type, index_t channels, index_t cols, int batch) {
  coded_case c{{random, type, 3, channels, cols, all_codes(), random.chance(0.5)}, {}, {}};
  for (int b = 0; b < batch; ++b) { c.expert.push_back(static_cast<std::size_t>(random.below(3))); }
  for (index_t i = 0; i < batch * cols; ++i) { c.x.push_back(static_cast<float>(braid::bfloat16(static_cast<float>(random.bell())))); }
  return c;
}

std::vector<float> products_on_cpu(coded_case const& c) {
  auto const batch = static_cast<index_t>(c.expert.size());
  std::vector<float> y(c.expert.size() * static_cast<std::size_t>(c.rows.channels(0)));
  braid::row_linear(c.rows).apply(braid::cpu(), c.expert, braid::tensor_view<float const>(c.x.data(), batch, c.rows.cols()),
                                  braid::tensor_view<float>(y.data(), batch, c.rows.channels(0)));
  return y;
}

void check_case(random_source& random, dtype type, index_t channels, index_t cols, int batch) {
  auto const c = random_case(random, type, channels, cols, batch);
  INFO(channels << " x " << cols << " " << braid::name_of(type) << ", batch " << batch);
  auto const here = products_on_cpu(c);
  // A NaN is one on both, of each processor's own bits.
  auto const alike = [](float a, float b) { return std::isnan(a) ? std::isnan(b) : std::memcmp(&a, &b, sizeof a) == 0; };
  auto const same = [&](std::vector<float> const& there) { return std::equal(there.begin(), there.end(), here.begin(), here.end(), alike); };
  CHECK(same(coded_products_on_device(c)));
  if (type == dtype::bf16 && batch == 1 && cols % 8 == 0) { CHECK(same(narrow_products_on_device(c))); }
}

constexpr dtype types[] = {dtype::bf16, dtype::f16, dtype::f32, dtype::f8_e4m3, dtype::f8_e5m2};

}  // namespace

TEST_CASE("products by rows with residuals of every code have the CPU's bits, f8 included", "[short][serve]") {
  random_source random(421);
  for (int round = 0; round < 60; ++round) {
    constexpr index_t widths[] = {1, 15, 64, 127, 128, 512, 1000, 1600};
    index_t const cols = round % 6 == 0 ? random.between(300, 600) * 8 : random.one_of(widths);
    check_case(random, types[round % 5], random.between(1, cols > 1000 ? 60 : 200), cols, round % 3 == 0 ? random.between(2, 30) : 1);
  }
}

TEST_CASE("products with residuals of every code on tensor cores are near those in the fixed order", "[short][serve]") {
  random_source random(422);
  for (int const batch : {2, 20, 50, 140}) {
    for (dtype const type : {dtype::bf16, dtype::f16}) {
      auto c = random_case(random, type, random.between(1, 300), 8 * random.between(1, 100), batch);
      auto const fixed = products_on_cpu(c);
      auto const any = coded_products_on_tensor_cores(c);
      REQUIRE(any.size() == fixed.size());
      std::size_t wrong = 0;
      std::vector<float> row(static_cast<std::size_t>(c.rows.cols()));
      auto const channels = static_cast<std::size_t>(c.rows.channels(0));
      braid::row_linear const linear(c.rows);
      for (std::size_t i = 0; i < any.size(); ++i) {
        linear.row(c.expert[i / channels], static_cast<index_t>(i % channels), row);
        double all = 0.0;
        for (std::size_t k = 0; k < row.size(); ++k) {
          all += std::abs(static_cast<double>(row[k])) * std::abs(static_cast<double>(c.x[i / channels * row.size() + k]));
        }
        // Both may be infinite where rows have the largest numbers.
        bool const near = all > 0x1p126 || std::abs(static_cast<double>(any[i]) - static_cast<double>(fixed[i])) <= 1e-5 * all;
        wrong += near ? 0 : 1;
      }
      INFO(braid::name_of(type) << ", batch " << batch);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("every type of rows with residuals once, small enough for compute-sanitizer", "[sanitized][serve]") {
  random_source random(423);
  for (dtype const type : types) {
    check_case(random, type, 35, 264, 1);
    check_case(random, type, 35, 200, 5);
  }
}

}  // namespace braid_test
