#pragma once

/// Starts the selection of cuts in one pass (sampled_kernel.cuh).

#include <braid/backend/cuda/candidate_search.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/pinned_bytes.cuh>
#include <braid/backend/cuda/value_select.cuh>
#include <braid/core/detail/memory_layout.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <optional>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Enqueues the sample, the pass that counts, and what finds cuts among equals.
/// Cuts: of each value, one of these numbers.
template <int... Cuts, class F, int Most>
void count_by_sample(cuda const& be, sampled_arguments<F, Most> const& a, std::uint32_t chunks) {
  constexpr char const* doing = "starting a selection";
  auto const streams = static_cast<std::size_t>(F::values(a.in.count) * a.cuts);
  bool usual = a.in.base.type == dtype::bf16;
  for (int i = 0; i < a.in.count; ++i) { usual = usual && a.in.models[i].type == dtype::bf16; }
  with_few_models<Most>(a.in.count, [&]<int N>(std::integral_constant<int, N>) {
    auto const run = [&]<int C>(std::integral_constant<int, C>) {
      if (a.cuts != C) { return; }
      launch(sample_kernel<sample_blocks, sample_tiles<F>(C), F, Most>, {streams * sample_blocks, sample_threads, 0, sample_blocks}, be.stream(), doing, a);
      auto const kernel = usual ? count_around_kernel<N, C, true, F, Most> : count_around_kernel<N, C, false, F, Most>;
      allow_shared_memory(kernel);
      launch(kernel, {chunks, 256, sizeof(chunk_counts<F::values(N), C>), 0, true}, be.stream(), doing, a);
    };
    (run(std::integral_constant<int, Cuts>{}), ...);
  });
  launch(find_cut_kernel<F, Most>, {streams, 1024, 0, 0, true}, be.stream(), doing, a, chunks);
}

/// Page-locked memory for the results of `n` streams, all of them `missed`, as the device sees it; null where none is to be had.
inline sampled_result* place_results(pinned_bytes& here, std::size_t n) {
  try {
    here.fit(n * sizeof(sampled_result));
  } catch (backend_error const&) {
    return nullptr;
  }
  for (std::size_t s = 0; s < n; ++s) { new (here.data() + s * sizeof(sampled_result)) sampled_result{sampled_stream::missed, {}}; }
  void* seen = nullptr;
  check_cuda(cudaHostGetDevicePointer(&seen, here.data(), 0), "asking for the address of the host's memory");
  return static_cast<sampled_result*>(seen);
}

/// What a selection takes of each value's elements.
struct sampled_wish {
  std::vector<index_t> wanted;  // [cuts, values]
  float share = 0.0f;           // instead: of the one value's elements that aren't zero
};

/// The cuts [cuts, values] that take what is wished, where one pass finds them: those that it doesn't suit, or that the sample
/// misled, are left out. Waits.
/// Cuts: of each value, one of these numbers.
template <int... Cuts, class F>
std::vector<std::optional<magnitude_cut>> select_by_sample(device_method_workspace& work, channel_block const& block, index_t cols, F const& values,
                                                           sampled_wish const& wish, radix_select::order order) {
  constexpr int most = F::most;
  cuda const& be = work.executor();
  current_device const current(be.device());
  auto const models = static_cast<int>(block.experts.size());
  std::size_t const n = F::shares ? 1 : wish.wanted.size();
  std::vector<std::optional<magnitude_cut>> cuts(n);
  constexpr index_t least = index_t{sample_blocks} * sample_threads * most_sample_tiles * tile_elements * 4;
  index_t const elements = block.rows * cols;
  bool const suits = models >= 1 && models <= most && elements >= least && elements <= index_t{0xFFFFFFFF} && cols % tile_elements == 0;
  if (!suits || block.first != 0) { return cuts; }
  sampled_arguments<F, most> a{};
  a.in = inputs_of<most>(block, cols, {operand::deltas});
  a.of_row = static_cast<std::uint32_t>(cols / tile_elements);
  a.f = values;
  a.largest = order == radix_select::order::largest;
  a.share = wish.share;
  bool any = F::shares;
  for (std::size_t s = 0; s < wish.wanted.size(); ++s) {
    index_t const wanted = wish.wanted[s];
    a.wanted[s] = static_cast<unsigned long long>(wanted);
    if (wanted <= 0) {
      cuts[s] = magnitude_cut{a.largest ? 0xFFFFFFFFu : 0u, -1};
    } else if (wanted >= elements) {
      cuts[s] = magnitude_cut{a.largest ? 0u : 0x7FFFFFFFu, elements};
    }
    any = any || !cuts[s];
  }
  if (!any || !a.in.has_base || !a.in.whole || a.in.rows != 1) { return cuts; }
  auto const chunks = static_cast<std::uint32_t>((elements + sampled_chunk - 1) / sampled_chunk);
  a.cuts = static_cast<int>(n) / F::values(models);
  a.room = static_cast<unsigned long long>(elements / (8 * a.cuts));
  a.index_bits = std::bit_width(static_cast<std::uint64_t>(elements));
  memory_layout room;
  std::size_t const at_streams = room.place(n * sizeof(sampled_stream));
  std::size_t const at_equals = room.place(chunks * n * sizeof(std::uint32_t));
  std::size_t const at_digits = room.place(candidate_digits * sizeof(digit_counts));
  std::size_t const at_candidates = room.place(a.room * n * sizeof(unsigned long long));
  device_buffer<std::byte> const there = be.make_buffer<std::byte>(room.size());
  a.streams = reinterpret_cast<sampled_stream*>(there.data() + at_streams);
  a.equals = reinterpret_cast<std::uint32_t*>(there.data() + at_equals);
  a.candidates = reinterpret_cast<unsigned long long*>(there.data() + at_candidates);
  // The kernel writes results to the host's memory, since a copy behind it would take longer.
  pinned_bytes here(locked_pool::of_numbers());
  a.results = place_results(here, n);
  count_by_sample<Cuts...>(be, a, chunks);
  std::vector<sampled_result> results(n);
  auto const fetch = [&] {
    std::vector<sampled_stream> streams(n);
    be.to_host(streams.data(), static_cast<sampled_stream const*>(a.streams), n);
    be.synchronize();
    for (std::size_t s = 0; s < n; ++s) { results[s] = {streams[s].state, streams[s].cut}; }
  };
  if (a.results == nullptr) {
    fetch();
  } else {
    be.synchronize();
    std::memcpy(results.data(), here.data(), n * sizeof(sampled_result));
  }
  if (std::any_of(results.begin(), results.end(), [](auto const& r) { return r.state == sampled_stream::among_candidates; })) {
    auto* const digits = reinterpret_cast<digit_counts*>(there.data() + at_digits);
    check_cuda(cudaMemsetAsync(digits, 0, candidate_digits * sizeof(digit_counts), be.stream()), "clearing counts");
    auto const blocks = static_cast<std::uint32_t>(std::clamp<index_t>(elements >> 19, 8, 64));  // a stream
    for (int d = 0; d < candidate_digits; ++d) {
      search_candidates_kernel<<<static_cast<unsigned>(n) * blocks, search_threads, 0, be.stream()>>>(a, digits + d, blocks);
    }
    check_cuda(cudaGetLastError(), "starting a selection");
    fetch();
  }
  for (std::size_t s = 0; s < n; ++s) {
    if (!cuts[s] && results[s].state == sampled_stream::found) { cuts[s] = results[s].cut; }
  }
  return cuts;
}

}  // namespace detail
BRAID_NAMESPACE_END
