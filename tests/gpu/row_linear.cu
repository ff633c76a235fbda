// No tests: the device's products of gpu/row_linear.hpp.

#include <braid/serve/cuda/row_linear.cuh>

#include "gpu/row_linear.hpp"

namespace braid_test {

std::vector<float> products_on_device(product_case const& c) {
  static braid::cuda const be;
  constexpr auto device = braid::memory_space::device;
  std::vector<float> y;
  with_merged_rows(c, [&](auto const& source) {
    braid::device_row_linear linear(be, source);
    auto const batch = static_cast<index_t>(c.expert.size());
    index_t const channels = c.models.base.rows;
    auto const x = be.make_buffer<float>(c.x.size());
    auto const out = be.make_buffer<float>(static_cast<std::size_t>(batch * channels));
    be.to_device(x.data(), c.x.data(), c.x.size());
    y.resize(out.size());
    for (int round = 0; round < 3; ++round) {
      std::vector<float> again(out.size(), std::nanf(""));
      be.to_device(out.data(), again.data(), again.size());
      linear.apply(be, c.expert, braid::tensor_view<float const, device>(x.data(), batch, c.models.base.cols, c.stride),
                   braid::tensor_view<float, device>(out.data(), batch, channels));
      be.to_host(again.data(), static_cast<float const*>(out.data()), again.size());
      be.synchronize();
      if (round == 0) { y = again; }
      if (std::memcmp(y.data(), again.data(), y.size() * sizeof(float)) != 0) { y.clear(); }
    }
  });
  return y;
}

}  // namespace braid_test
