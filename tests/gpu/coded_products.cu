// No tests: the device's products of gpu/coded_products.hpp.

#include <braid/serve/cuda/row_linear.cuh>

#include "gpu/coded_products.hpp"

namespace braid_test {

namespace {

constexpr auto device = braid::memory_space::device;

template <class X>
std::vector<float> products(coded_case const& c, std::vector<X> const& x, std::optional<braid::product_order> order) {
  braid::cuda const be;
  auto const batch = static_cast<index_t>(c.expert.size());
  index_t const channels = c.rows.channels(0);
  braid::device_row_linear linear(be, c.rows);
  auto const in = be.make_buffer<X>(x.size());
  be.to_device(in.data(), x.data(), x.size());
  std::vector<float> y(static_cast<std::size_t>(batch * channels), std::nanf(""));
  auto const out = be.make_buffer<float>(y.size());
  be.to_device(out.data(), y.data(), y.size());
  braid::tensor_view<X const, device> const from(in.data(), batch, c.rows.cols());
  braid::tensor_view<float, device> const to(out.data(), batch, channels);
  if constexpr (std::is_same_v<X, float>) {
    linear.apply(be, std::span<std::size_t const>(c.expert), from, to, *order);
  } else {
    linear.apply(be, std::span<std::size_t const>(c.expert), from, to);
  }
  be.to_host(y.data(), static_cast<float const*>(out.data()), y.size());
  be.synchronize();
  return y;
}

}  // namespace

std::vector<float> coded_products_on_device(coded_case const& c) { return products(c, c.x, braid::product_order::fixed); }
std::vector<float> coded_products_on_tensor_cores(coded_case const& c) { return products(c, c.x, braid::product_order::any); }
std::vector<float> narrow_products_on_device(coded_case const& c) {
  std::vector<braid::bfloat16> narrow;
  for (float const v : c.x) { narrow.emplace_back(v); }
  return products(c, narrow, std::nullopt);
}

}  // namespace braid_test
