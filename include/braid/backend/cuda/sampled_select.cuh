#pragma once

/// Starts the selection of cuts in one pass (sampled_kernel.cuh).

#include <braid/backend/cuda/sampled_kernel.cuh>
#include <braid/backend/cuda/value_select.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The last of `rank` candidates, by passes of 11 bits. Waits.
inline unsigned long long nth_candidate(cuda const& be, unsigned long long const* candidates, unsigned long long count, unsigned long long rank) {
  unsigned long long prefix = 0;
  for (int shift = 55; shift >= 0; shift -= count_bits) {  // 66 bits
    device_buffer<std::uint32_t> const there = be.make_buffer<std::uint32_t>(count_bins);
    check_cuda(cudaMemsetAsync(there.data(), 0, count_bins * sizeof(std::uint32_t), be.stream()), "clearing counts");
    count_candidates_kernel<<<132, 512, 0, be.stream()>>>(candidates, count, prefix, shift, there.data());
    check_cuda(cudaGetLastError(), "starting a selection");
    auto const counts = download(be, there);
    std::uint32_t bin = 0;
    for (; bin + 1 < count_bins && counts[bin] < rank; ++bin) { rank -= counts[bin]; }
    prefix = prefix << count_bits | bin;
  }
  return prefix;
}

/// The cuts that take `wanted[i]` elements of the delta of model i, where one pass finds them: models that it doesn't suit, or
/// whose sample misled it, are left out. Waits.
inline std::vector<std::optional<magnitude_cut>> select_by_sample(device_method_workspace& work, channel_block const& block, index_t cols,
                                                                  std::vector<index_t> const& wanted, radix_select::order order) {
  cuda const& be = work.executor();
  current_device const current(be.device());
  std::size_t const n = block.experts.size();
  std::vector<std::optional<magnitude_cut>> cuts(n);
  constexpr index_t least = sample_threads * sample_tiles * tile_elements * 16;
  index_t const elements = block.rows * cols;
  sampled_arguments<most_few_models> a{};
  a.in = inputs_of<most_few_models>(block, cols, {operand::deltas});
  bool const inside = std::all_of(wanted.begin(), wanted.end(), [&](index_t w) { return w > 0 && w < elements; });
  if (!inside || !a.in.whole || a.in.rows != 1 || elements < least || elements > index_t{0xFFFFFFFF} || block.first != 0) { return cuts; }
  std::vector<sampled_stream> streams(n);
  for (std::size_t i = 0; i < n; ++i) {
    streams[i].wanted = static_cast<unsigned long long>(wanted[i]);
    streams[i].largest = order == radix_select::order::largest;
  }
  device_buffer<sampled_stream> const there = upload(be, streams);
  auto const chunks = static_cast<std::uint32_t>((elements + sampled_chunk - 1) / sampled_chunk);
  a.room = static_cast<unsigned long long>(elements / 16);
  device_buffer<std::uint32_t> const equals = be.make_buffer<std::uint32_t>(chunks * n);
  device_buffer<unsigned long long> const candidates = be.make_buffer<unsigned long long>(a.room * n);
  a.streams = there.data();
  a.equals = equals.data();
  a.candidates = candidates.data();
  sample_kernel<<<static_cast<unsigned>(n), sample_threads, 0, be.stream()>>>(a);
  with_few_models<most_few_models>(static_cast<int>(n), [&]<int N>(std::integral_constant<int, N>) {
    constexpr std::size_t shared = N * (chunk_candidates + 3) * sizeof(unsigned long long);
    auto const kernel = count_around_kernel<N, most_few_models>;
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), "asking for shared memory");
    kernel<<<chunks, 256, shared, be.stream()>>>(a);
  });
  find_cut_kernel<<<static_cast<unsigned>(n), 1024, 0, be.stream()>>>(a, chunks);
  check_cuda(cudaGetLastError(), "starting a selection");
  streams = download(be, there);
  for (std::size_t i = 0; i < n; ++i) {
    sampled_stream const& s = streams[i];
    if (s.state == sampled_stream::found) {
      cuts[i] = s.cut;
    } else if (s.state == sampled_stream::among_candidates) {
      unsigned long long const last = nth_candidate(be, candidates.data() + i * a.room, s.candidates, s.rank);
      auto const key = static_cast<std::uint32_t>(last >> 32);
      cuts[i] = magnitude_cut{s.largest ? 0x7FFFFFFFu - key : key, static_cast<index_t>(last & 0xFFFFFFFFu)};
    }
  }
  return cuts;
}

}  // namespace detail
BRAID_NAMESPACE_END
