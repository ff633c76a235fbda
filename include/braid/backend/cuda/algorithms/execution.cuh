#pragma once

/// Thrust's algorithms on an executor: its stream, memory in the order of that stream, and braid's errors.

#include <braid/backend/cuda.cuh>

#include <thrust/execution_policy.h>
#include <thrust/system/system_error.h>
#include <thrust/system_error.h>

#include <new>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Temporary memory of algorithms: an allocator of bytes as Thrust wants one. What is given back may still be used by work that
/// is queued on the stream; the device's pool keeps it for the next.
class stream_memory {
 public:
  using value_type = char;

  explicit stream_memory(cuda const& be) : be_(be) {}

  char* allocate(std::ptrdiff_t bytes) {
    taken_.push_back(be_.make_buffer<char>(static_cast<std::size_t>(bytes)));
    return taken_.back().data();
  }
  void deallocate(char* p, std::size_t) noexcept {
    for (auto& block : taken_) {
      if (block.data() == p) {
        std::swap(block, taken_.back());
        taken_.pop_back();
        return;
      }
    }
  }

 private:
  cuda be_;
  std::vector<device_buffer<char>> taken_;
};

/// Calls `f(policy)` with Thrust's execution policy for an executor. Algorithms that return nothing, or only where their output
/// ends, are enqueued; those that return a value wait.
/// @throws backend_error
template <class F>
void run_algorithm(cuda const& be, char const* doing, F const& f) {
  current_device const current(be.device());
  stream_memory memory(be);
  try {
    f(thrust::cuda::par_nosync(memory).on(be.stream()));
  } catch (thrust::system_error const& e) {
    (void)cudaGetLastError();
    throw backend_error("braid::cuda: " + std::string(doing) + ": " + e.what());
  } catch (std::bad_alloc const&) {
    throw backend_error("braid::cuda: " + std::string(doing) + ": no memory");
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
