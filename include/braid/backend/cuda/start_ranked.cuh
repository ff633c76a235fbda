#pragma once

/// Starts the kernel that prunes rows by rank.

#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/method_blocks.cuh>
#include <braid/backend/cuda/ranked_kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Whether the kernel takes rows of `cols`: of bfloat16, from multiples of 16 bytes on, that fit a block's shared memory.
inline bool suits_ranked(device_input const& rows, index_t cols) noexcept {
  bool const lies = rows.data != nullptr && reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.stride % 16 == 0;
  return lies && rows.type == dtype::bf16 && cols % random_group == 0 && cols > 0 && cols <= 14336;
}

/// Tiles are shared out evenly; two blocks go to a multiprocessor where their rows are short.
inline unsigned ranked_threads(index_t cols) noexcept {
  index_t const tiles = cols / tile_elements;
  index_t const each = (tiles + 1023) / 1024;
  return static_cast<unsigned>(std::max<index_t>(256, ((tiles + each - 1) / each + 31) / 32 * 32));
}

inline index_t processors_of(cuda const& be) {
  int processors = 0;
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, be.device()), "asking a device what it is");
  return processors;
}

/// Enqueues.
template <int N, class Plan, class Out>
void start_ranked(cuda const& be, ranked_arguments<N, Plan, Out> const& a) {
  unsigned const threads = ranked_threads(a.cols);
  auto const kernel = ranked_kernel<N, Plan, Out>;
  std::size_t const shared = ranked_room<N>::bytes(a.cols, threads);
  allow_shared_memory(kernel);
  int at_once = 0;
  auto const of_block = static_cast<int>(threads);
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, kernel, of_block, shared), "asking how many blocks fit");
  auto const blocks = static_cast<unsigned>(std::min<index_t>(a.rows, processors_of(be) * at_once));
  kernel<<<blocks, threads, shared, be.stream()>>>(a);
  check_cuda(cudaGetLastError(), "starting a ranking");
}

}  // namespace detail
BRAID_NAMESPACE_END
