#pragma once

/// Starts TIES at full speed (election_kernel.cuh).

#include <braid/backend/cuda/election_kernel.cuh>
#include <braid/backend/cuda/method_blocks.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

template <class Consensus>
inline constexpr bool elects_sign = false;
template <consensus::ballot Ballot>
inline constexpr bool elects_sign<consensus::elected_sum<Ballot>> = true;

/// Enqueues the merge of a block whose numbers are ordinary; false where they aren't. Parameters are those of
/// `ordinary_election`.
template <consensus::ballot Ballot>
bool elect_ordinary(consensus::elected_sum<Ballot> const&, device_method_workspace& work, channel_block const& block, index_t cols,
                    std::byte* out, std::vector<magnitude_cut> const& cuts, std::vector<float> const& weight, float lambda, bool normalize) {
  auto a = ordinary_election<most_few_models>(block, cols, out, cuts, weight, lambda, normalize);
  if (!a) { return false; }
  cuda const& be = work.executor();
  current_device const current(be.device());
  a->in.first_bad = work.watch(block, cols, operand::deltas);
  constexpr unsigned threads = 256;
  constexpr int steps = 1;
  auto const blocks = (a->tiles + threads * steps - 1) / (threads * steps);
  with_few_models<most_few_models>(a->in.count, [&]<int N>(std::integral_constant<int, N>) {
    if constexpr (N > 1) {
      auto const kernel = a->tiny ? election_kernel<N, Ballot, true, steps, most_few_models>
                                  : election_kernel<N, Ballot, false, steps, most_few_models>;
      kernel<<<blocks, threads, 0, be.stream()>>>(*a);
    }
  });
  check_cuda(cudaGetLastError(), "starting a method");
  return true;
}

}  // namespace detail
BRAID_NAMESPACE_END
