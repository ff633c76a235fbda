#include <braid/serve/cuda/row_products.cuh>

#include "emulated/device_products.hpp"
#include "support/catch.hpp"
#include "support/coded_rows.hpp"

#include <braid/serve/row_linear.hpp>

using namespace braid_test;
namespace detail = braid::detail;

namespace {

template <class T, class X>
void run_vector(detail::product_arguments const& a, int blocks) {
  using layout = detail::vector_layout<T>;
  emulated::run(blocks, 1, layout::threads, layout::bytes(a.cols, 2), 0, [&a] { detail::row_vector_kernel<T, X, 2, true>(a); });
}

/// The kernels on rows of random codes against row_linear on the CPU, bit for bit.
template <class T>
void check(random_source& random, index_t channels, index_t cols, std::vector<std::size_t> const& expert) {
  bool const columns_scaled = random.chance(0.5);
  coded_rows const source(random, braid::dtype_of<T>, 3, channels, cols, all_codes(), columns_scaled);
  auto const batch = static_cast<index_t>(expert.size());
  std::vector<braid::bfloat16> narrow;
  std::vector<float> x;
  for (index_t i = 0; i < batch * cols; ++i) {
    narrow.emplace_back(static_cast<float>(random.bell()));
    x.push_back(batch == 1 ? static_cast<float>(narrow.back()) : static_cast<float>(random.bell()));
  }
  std::vector<float> expected(static_cast<std::size_t>(batch * channels));
  braid::row_linear(source).apply(braid::cpu(1), expert, braid::tensor_view<float const>(x.data(), batch, cols),
                                  braid::tensor_view<float>(expected.data(), batch, channels));

  auto const pool = detail::make_device_pool(source);
  auto const plan = detail::plan_rows(pool.experts, expert, 0);
  device_products const placed(pool, plan, cols, channels);
  device_copy const there(x);
  device_copy const narrow_x(narrow);
  std::vector<float> y(expected.size(), std::nanf(""));
  detail::product_arguments a = placed.arguments;
  a.x = there.data;
  a.x_stride = cols;
  a.y = y.data();
  INFO(channels << " x " << cols << " " << braid::name_of(braid::dtype_of<T>) << (columns_scaled ? ", scaled columns" : "") << ", batch "
                << batch);
  auto const differing = [&] {
    std::size_t count = 0;
    for (std::size_t i = 0; i < y.size(); ++i) { count += std::memcmp(&y[i], &expected[i], sizeof(float)) != 0 ? 1 : 0; }
    return count;
  };
  using layout = detail::product_tile_layout<T, 2>;
  emulated::run(static_cast<int>(plan.tiles.size()), 1, layout::threads, static_cast<std::size_t>(layout::bytes), 0,
                [&a] { detail::row_tile_kernel<T, 2, true>(a); });
  CHECK(differing() == 0);
  if (batch != 1) { return; }
  std::fill(y.begin(), y.end(), std::nanf(""));
  run_vector<T, float>(a, 1);
  CHECK(differing() == 0);
  std::fill(y.begin(), y.end(), std::nanf(""));
  a.x = reinterpret_cast<float const*>(narrow_x.data);
  run_vector<T, braid::bfloat16>(a, 2);
  CHECK(differing() == 0);
}

}  // namespace

TEST_CASE("emulated products of rows with every code have the CPU's bits", "[emulated][serve]") {
  random_source random(511);
  int round = 0;
  for (index_t const cols : {1, 30, 128, 131, 513, 600, 1100, 4200}) {
    std::vector<std::size_t> expert{static_cast<std::size_t>(random.below(3))};
    if (round % 4 == 3) { expert = {0, 2, 1, 2}; }
    index_t const channels = random.between(1, cols > 1000 ? 19 : 40);
    check<braid::bfloat16>(random, channels, cols, expert);
    switch (round++ % 4) {
      case 0: check<braid::float8_e4m3>(random, channels, cols, expert); break;
      case 1: check<float>(random, channels, cols, expert); break;
      case 2: check<braid::float16>(random, channels, cols, expert); break;
      default: check<braid::float8_e5m2>(random, channels, cols, expert); break;
    }
  }
}

TEST_CASE("emulated: f8 in words is widened as on the CPU", "[emulated]") {
  for (unsigned b = 0; b < 256; ++b) {
    auto const byte = static_cast<std::uint8_t>(b);
    auto const same = [](float x, float y) { return (x != x && y != y) || std::memcmp(&x, &y, sizeof x) == 0; };
    CHECK(same(detail::word_codec<braid::float8_e4m3>::widen_one(byte), static_cast<float>(braid::float8_e4m3::from_bits(byte))));
    CHECK(same(detail::word_codec<braid::float8_e5m2>::widen_one(byte), static_cast<float>(braid::float8_e5m2::from_bits(byte))));
  }
}
