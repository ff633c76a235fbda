// No tests: what gpu/equals_cpu.cpp asks of the executor itself.

#include <braid/backend/cuda.cuh>

#include "gpu/pipelines.hpp"

namespace braid_test {
namespace {

struct double_it {
  float const* from;
  float* to;
  BRAID_HD void operator()(index_t i) const noexcept { to[i] = 2.0f * from[i]; }
};

}  // namespace

std::vector<float> doubled_on_device(std::vector<float> const& x) {
  braid::cuda const be;
  braid::cuda const same = be;  // copies share the stream
  auto const from = be.make_buffer<float>(x.size());
  auto const to = same.make_buffer<float>(x.size());
  be.to_device(from.data(), x.data(), x.size());
  same.for_each(static_cast<index_t>(x.size()), double_it{from.data(), to.data()});
  std::vector<float> y(x.size());
  be.to_host(y.data(), static_cast<float const*>(to.data()), y.size());
  be.synchronize();
  return y;
}

std::string message_of_device(int number) {
  try {
    braid::cuda const be(number);
    return {};
  } catch (braid::error const& e) {
    return e.what();
  }
}

}  // namespace braid_test
