// No tests: the device's products of gpu/row_linear.hpp.

#include <braid/cuda.cuh>  // programs merge and serve: the headers go together
#include <braid/serve/cuda/row_linear.cuh>

#include "gpu/row_linear.hpp"

namespace braid_test {

namespace {

constexpr auto device = braid::memory_space::device;

braid::cuda const& executor() {
  static braid::cuda const be;
  return be;
}

/// Three times what `multiply` writes to its argument [batch, channels]; nothing if answers differ.
template <class F>
std::vector<float> three_times(product_case const& c, F const& multiply) {
  braid::cuda const& be = executor();
  std::vector<float> y;
  auto const batch = static_cast<index_t>(c.expert.size());
  index_t const channels = c.models.base.rows;
  auto const out = be.make_buffer<float>(static_cast<std::size_t>(batch * channels));
  y.resize(out.size());
  for (int round = 0; round < 3; ++round) {
    std::vector<float> again(out.size(), std::nanf(""));
    be.to_device(out.data(), again.data(), again.size());
    multiply(braid::tensor_view<float, device>(out.data(), batch, channels));
    be.to_host(again.data(), static_cast<float const*>(out.data()), again.size());
    be.synchronize();
    if (round == 0) { y = again; }
    if (std::memcmp(y.data(), again.data(), y.size() * sizeof(float)) != 0) { return {}; }
  }
  return y;
}

template <class T>
std::vector<float> with_own_type(product_case const& c, braid::device_row_linear& linear) {
  auto const batch = static_cast<index_t>(c.expert.size());
  index_t const cols = c.models.base.cols;
  index_t const pitch = (cols + 7) / 8 * 8;
  std::vector<T> rounded(static_cast<std::size_t>(batch * pitch), T::from_bits(0x7FFF));  // NaN behind the columns
  for (index_t b = 0; b < batch; ++b) {
    for (index_t k = 0; k < cols; ++k) { rounded[static_cast<std::size_t>(b * pitch + k)] = T(c.x[static_cast<std::size_t>(b * c.stride + k)]); }
  }
  auto const x = executor().make_buffer<T>(rounded.size());
  executor().to_device(x.data(), rounded.data(), rounded.size());
  return three_times(c, [&](auto y) { linear.apply(executor(), c.expert, braid::tensor_view<T const, device>(x.data(), batch, cols, pitch), y); });
}

std::vector<float> with_floats(product_case const& c, braid::device_row_linear& linear, braid::product_order order) {
  auto const batch = static_cast<index_t>(c.expert.size());
  auto const x = executor().make_buffer<float>(c.x.size());
  executor().to_device(x.data(), c.x.data(), c.x.size());
  return three_times(c, [&](auto y) {
    linear.apply(executor(), c.expert, braid::tensor_view<float const, device>(x.data(), batch, c.models.base.cols, c.stride), y, order);
  });
}

}  // namespace

std::vector<float> products_on_device(product_case const& c) {
  std::vector<float> y;
  with_merged_rows(c, [&](auto const& source) {
    braid::device_row_linear linear(executor(), source);
    y = with_floats(c, linear, braid::product_order::fixed);
  });
  return y;
}

std::vector<float> products_on_tensor_cores(product_case const& c, bool own_type) {
  std::vector<float> y;
  with_merged_rows(c, [&](auto const& source) {
    braid::device_row_linear linear(executor(), source);
    if (!own_type) {
      y = with_floats(c, linear, braid::product_order::any);
    } else if (c.models.base.type == dtype::f16) {
      y = with_own_type<braid::float16>(c, linear);
    } else {
      y = with_own_type<braid::bfloat16>(c, linear);
    }
  });
  return y;
}

}  // namespace braid_test
