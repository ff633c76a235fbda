#pragma once

/// Starts the selection of cuts in one pass (sampled_kernel.cuh).

#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/sampled_kernel.cuh>
#include <braid/backend/cuda/value_select.cuh>

#include <bit>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Finds cuts among candidates, by passes of 11 bits over all streams that ask for it. Waits.
inline void search_candidates(cuda const& be, sampled_arguments<most_few_models> const& a, std::vector<sampled_stream>& streams) {
  candidate_pass pass{};
  std::vector<unsigned long long> rank;
  std::uint32_t most_span = 0;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    bool const asks = streams[i].state == sampled_stream::among_candidates;
    pass.candidates[i] = a.candidates + i * a.room;
    pass.count[i] = asks ? streams[i].candidates : 0;
    rank.push_back(streams[i].rank);
    if (asks) { most_span = std::max(most_span, streams[i].high - streams[i].low); }
  }
  // Whole passes over the magnitudes' bits, then over the numbers'.
  std::vector<int> shifts;
  for (int left = std::bit_width(most_span); left > 0; left -= count_bits) { shifts.push_back(a.index_bits + std::max(0, left - count_bits)); }
  for (int left = a.index_bits; left > 0; left -= count_bits) { shifts.push_back(std::max(0, left - count_bits)); }
  auto const kernel_blocks = std::uint32_t{64};
  device_buffer<std::uint32_t> const there = be.make_buffer<std::uint32_t>(streams.size() * count_bins);
  pass.counts = there.data();
  int above = a.index_bits + std::bit_width(most_span);  // bits below those of the prefix
  for (int const shift : shifts) {
    pass.shift = shift;
    pass.bits = above - shift;
    above = shift;
    check_cuda(cudaMemsetAsync(there.data(), 0, there.size() * sizeof(std::uint32_t), be.stream()), "clearing counts");
    for (std::uint32_t i = 0; i < streams.size(); ++i) {
      if (pass.count[i] > 0) { count_candidates_kernel<<<kernel_blocks, 512, 0, be.stream()>>>(pass, i, kernel_blocks); }
    }
    check_cuda(cudaGetLastError(), "starting a selection");
    auto const counts = download(be, there);
    bool open = false;
    for (std::size_t i = 0; i < streams.size(); ++i) {
      if (pass.count[i] == 0) { continue; }
      std::uint32_t const* const bins = counts.data() + i * count_bins;
      std::uint32_t bin = 0;
      for (; bin + 1 < count_bins && bins[bin] < rank[i]; ++bin) { rank[i] -= bins[bin]; }
      pass.prefix[i] = pass.prefix[i] << pass.bits | bin;
      // Where all of a magnitude's elements are taken it doesn't matter where the last one lies.
      bool const whole = shift == a.index_bits && bins[bin] == rank[i];
      if (!whole && shift > 0) {
        open = true;
        continue;
      }
      sampled_stream& s = streams[i];
      unsigned long long const at = pass.prefix[i] << shift;
      auto const distance = static_cast<std::uint32_t>(at >> a.index_bits);
      s.cut = {a.largest ? s.high - distance : s.low + distance, whole ? a.in.cols : static_cast<index_t>(at & ((1ull << a.index_bits) - 1))};
      s.state = sampled_stream::found;
      pass.count[i] = 0;
    }
    if (!open) { return; }
  }
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
  if (!inside || !a.in.whole || a.in.rows != 1 || elements % tile_elements != 0 || elements < least || elements > index_t{0xFFFFFFFF} || block.first != 0) { return cuts; }
  std::vector<sampled_stream> streams(n);
  for (std::size_t i = 0; i < n; ++i) {
    streams[i].wanted = static_cast<unsigned long long>(wanted[i]);
  }
  device_buffer<sampled_stream> const there = upload(be, streams);
  auto const chunks = static_cast<std::uint32_t>((elements + sampled_chunk - 1) / sampled_chunk);
  a.room = static_cast<unsigned long long>(elements / 8);
  a.largest = order == radix_select::order::largest;
  a.index_bits = std::bit_width(static_cast<std::uint64_t>(elements));
  device_buffer<std::uint32_t> const equals = be.make_buffer<std::uint32_t>(chunks * n);
  device_buffer<unsigned long long> const candidates = be.make_buffer<unsigned long long>(a.room * n);
  a.streams = there.data();
  a.equals = equals.data();
  a.candidates = candidates.data();
  sample_kernel<<<static_cast<unsigned>(n), sample_threads, 0, be.stream()>>>(a);
  with_few_models<most_few_models>(static_cast<int>(n), [&]<int N>(std::integral_constant<int, N>) {
    constexpr std::size_t shared = N * (chunk_candidates * sizeof(std::uint16_t) + sizeof(unsigned long long) + 4 * sizeof(std::uint32_t));
    auto const run = [&]<bool Usual>(std::bool_constant<Usual>) {
      auto const kernel = count_around_kernel<N, Usual, most_few_models>;
      allow_shared_memory(kernel);
      kernel<<<chunks, 256, shared, be.stream()>>>(a);
    };
    bool usual = a.in.base.type == dtype::bf16;
    for (int i = 0; i < N; ++i) { usual = usual && a.in.models[i].type == dtype::bf16; }
    if (usual) {
      run(std::true_type{});
    } else {
      run(std::false_type{});
    }
  });
  find_cut_kernel<<<static_cast<unsigned>(n), 1024, 0, be.stream()>>>(a, chunks);
  check_cuda(cudaGetLastError(), "starting a selection");
  streams = download(be, there);
  if (std::any_of(streams.begin(), streams.end(), [](auto const& s) { return s.state == sampled_stream::among_candidates; })) {
    search_candidates(be, a, streams);
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (streams[i].state == sampled_stream::found) { cuts[i] = streams[i].cut; }
  }
  return cuts;
}

}  // namespace detail
BRAID_NAMESPACE_END
