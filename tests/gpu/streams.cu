// No tests: `braid::run` on the device, for gpu/streaming.cpp.

#include <braid/cuda.cuh>

#include "gpu/streams.hpp"

namespace braid_test {

std::vector<int> shared_devices() {
  int count = 0;
  braid::detail::check_cuda(cudaGetDeviceCount(&count), "looking for devices");
  std::vector<int> all;
  for (int d = 0; d < count; ++d) { all.push_back(d); }
  if (count == 1) { all.push_back(0); }
  return all;
}

braid::report run_on_device(stream_case const& c, braid::checkpoint const& base, std::vector<braid::checkpoint> const& experts,
                            std::filesystem::path const& out) {
  return with_stream_method<braid::cuda>(c, [&](auto const& method) {
    return braid::run(method, base, experts, out, options_of(c), braid::cuda());
  });
}

}  // namespace braid_test
