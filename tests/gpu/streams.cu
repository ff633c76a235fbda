// No tests: `braid::run` on the device, for gpu/streaming.cpp.

#include <braid/cuda.cuh>

#include "gpu/streams.hpp"

namespace braid_test {

braid::report run_on_device(stream_case const& c, braid::checkpoint const& base, std::vector<braid::checkpoint> const& experts,
                            std::filesystem::path const& out) {
  return with_stream_method<braid::cuda>(c, [&](auto const& method) {
    return braid::run(method, base, experts, out, options_of(c), braid::cuda());
  });
}

}  // namespace braid_test
