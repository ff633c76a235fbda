#pragma once

/// Starts the pass that prunes by rank and merges at once.

#include <braid/backend/cuda/start_ranked.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Whether `merge_ranked` takes a block: few models, all of them pruned, in rows that suit its kernel.
inline bool takes_ranked(channel_block const& block, index_t cols, std::byte const* out) noexcept {
  std::size_t const n = block.experts.size();
  bool all = n >= 1 && n <= most_few_models && block.out == dtype::bf16 && reinterpret_cast<std::uintptr_t>(out) % 16 == 0;
  all = all && suits_ranked(device_input(block.base), cols);
  for (auto const& e : block.experts) { all = all && suits_ranked(device_input(e), cols); }
  return all;
}

/// Prunes and merges a block that `takes_ranked` says it takes. Enqueues.
/// @param plans      one a model
/// @param f          a join_function, of whose pruning nothing is asked
/// @param first_bad  null, or where the lowest channel with NaN or infinity is noted
template <class Plan, class F>
void merge_ranked(cuda const& be, channel_block const& block, index_t cols, std::byte* out, std::vector<Plan> const& plans, F const& f,
                  unsigned long long* first_bad) {
  auto const left = be.make_buffer<std::uint32_t>(static_cast<std::size_t>(block.rows) + 1);
  check_cuda(cudaMemsetAsync(left.data(), 0, sizeof(std::uint32_t), be.stream()), "clearing a count");
  // For the rows that are left, which are few or none: each block has room for the ranks of one.
  auto const blocks = static_cast<unsigned>(std::min<index_t>(block.rows, processors_of(be)));
  auto const ranks = be.make_buffer<std::uint32_t>(blocks * plans.size() * static_cast<std::size_t>(cols));
  with_few_models<most_few_models>(static_cast<int>(plans.size()), [&]<int N>(std::integral_constant<int, N>) {
    ranked_arguments<N, Plan, ranked_join<F>> a{};
    a.base = device_input(block.base);
    for (int m = 0; m < N; ++m) {
      a.models[m] = device_input(block.experts[static_cast<std::size_t>(m)]);
      a.plans[m] = plans[static_cast<std::size_t>(m)];
    }
    a.keys = random_keys(a.plans[0].seed);  // a method's policies share a seed
    a.rows = block.rows;
    a.cols = cols;
    a.first = block.first;
    a.first_bad = first_bad;
    a.left = left.data();
    a.out = {out, f};
    start_ranked(be, a);
    constexpr int items = 29;
    auto const kernel = left_rows_kernel<N, items, Plan, F>;
    constexpr std::size_t shared = rank_memory<items>();
    allow_shared_memory(kernel);
    kernel<<<blocks, rank_threads, shared, be.stream()>>>(a, ranks.data());
    check_cuda(cudaGetLastError(), "starting a merge");
  });
}

}  // namespace detail
BRAID_NAMESPACE_END
