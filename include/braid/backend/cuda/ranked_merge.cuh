#pragma once

/// Starts the pass that prunes by rank and merges at once.

#include <braid/backend/cuda/method_blocks.cuh>
#include <braid/backend/cuda/ranked_kernel.cuh>
#include <braid/backend/cuda/row_codes.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Whether `merge_ranked` takes a block: few models, all pruned, in rows of bfloat16 from multiples of 16 bytes on that fit a
/// block's shared memory.
inline bool takes_ranked(channel_block const& block, index_t cols, std::byte const* out) noexcept {
  auto const takes = [cols](channel_rows const& rows) {
    return rows.type == dtype::bf16 && reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.stride % 16 == 0 && rows.data != nullptr && cols > 0;
  };
  bool all = takes(block.base) && block.out == dtype::bf16 && reinterpret_cast<std::uintptr_t>(out) % 16 == 0;
  for (auto const& e : block.experts) { all = all && takes(e); }
  std::size_t const n = block.experts.size();
  return all && n >= 1 && n <= most_few_models && cols % random_group == 0 && cols <= 14336;
}

/// Tiles are shared out evenly; two blocks go to a multiprocessor where their rows are short.
inline unsigned ranked_threads(index_t cols) noexcept {
  index_t const tiles = cols / tile_elements;
  index_t const each = (tiles + 1023) / 1024;
  return static_cast<unsigned>(std::max<index_t>(256, ((tiles + each - 1) / each + 31) / 32 * 32));
}

/// Prunes and merges a block that `takes_ranked` says it takes. Enqueues.
/// @param plans      one a model
/// @param f          a join_function, of whose pruning nothing is asked
/// @param first_bad  null, or where the lowest channel with NaN or infinity is noted
template <class Plan, class F>
void merge_ranked(cuda const& be, channel_block const& block, index_t cols, std::byte* out, std::vector<Plan> const& plans, F const& f, unsigned long long* first_bad) {
  int processors = 0;
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, be.device()), "asking a device what it is");
  auto const rows = static_cast<std::size_t>(block.rows);
  auto const left = be.make_buffer<std::uint32_t>(rows + 1);
  check_cuda(cudaMemsetAsync(left.data(), 0, sizeof(std::uint32_t), be.stream()), "clearing a count");
  auto const blocks_left = static_cast<unsigned>(std::min<index_t>(block.rows, processors));
  auto const ranks = be.make_buffer<std::uint32_t>(blocks_left * plans.size() * static_cast<std::size_t>(cols));
  with_few_models<most_few_models>(static_cast<int>(plans.size()), [&]<int N>(std::integral_constant<int, N>) {
    ranked_arguments<N, Plan, F> a{};
    a.base = device_input(block.base);
    for (int m = 0; m < N; ++m) {
      a.models[m] = device_input(block.experts[static_cast<std::size_t>(m)]);
      a.plans[m] = plans[static_cast<std::size_t>(m)];
    }
    a.keys = random_keys(a.plans[0].seed);  // a method's policies share a seed
    a.rows = block.rows;
    a.cols = cols;
    a.first = block.first;
    a.out = out;
    a.first_bad = first_bad;
    a.left = left.data();
    a.f = f;
    unsigned const threads = ranked_threads(cols);
    auto const kernel = ranked_merge_kernel<N, Plan, F>;
    std::size_t const shared = ranked_room<N>::bytes(cols, threads);
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), "asking for shared memory");
    int at_once = 0;
    check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, kernel, static_cast<int>(threads), shared), "asking how many blocks fit");
    auto const blocks = static_cast<unsigned>(std::min<index_t>(block.rows, static_cast<index_t>(processors) * at_once));
    kernel<<<blocks, threads, shared, be.stream()>>>(a);
    check_cuda(cudaGetLastError(), "starting a merge");
    auto const start_left = [&]<int Items>(std::integral_constant<int, Items>) {
      auto const sorts = left_rows_kernel<N, Items, Plan, F>;
      constexpr std::size_t of_rank = rank_memory<Items>();
      check_cuda(cudaFuncSetAttribute(sorts, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(of_rank)), "asking for shared memory");
      sorts<<<blocks_left, rank_threads, of_rank, be.stream()>>>(a, ranks.data());
      check_cuda(cudaGetLastError(), "starting a merge");
    };
    start_left(std::integral_constant<int, 29>{});
  });
}

}  // namespace detail
BRAID_NAMESPACE_END
