#pragma once

/// Starts the selection of cuts in one pass (sampled_kernel.cuh).

#include <braid/backend/cuda/candidate_search.cuh>
#include <braid/backend/cuda/value_select.cuh>

#include <bit>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Places of several arrays in one block of device memory.
class packed_room {
 public:
  /// Where an array of so many bytes begins.
  std::size_t add(std::size_t bytes) noexcept {
    std::size_t const at = size_;
    size_ += (bytes + 255) / 256 * 256;
    return at;
  }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::size_t size_ = 0;
};

/// Enqueues the sample and the pass that counts.
inline void count_by_sample(cuda const& be, sampled_arguments<most_few_models> const& a, std::uint32_t chunks) {
  auto const streams = static_cast<unsigned>(a.in.count * a.cuts);
  sample_kernel<<<streams, sample_threads, 0, be.stream()>>>(a);
  bool usual = a.in.base.type == dtype::bf16;
  for (int i = 0; i < a.in.count; ++i) { usual = usual && a.in.models[i].type == dtype::bf16; }
  with_few_models<most_few_models>(a.in.count, [&]<int N>(std::integral_constant<int, N>) {
    auto const run = [&]<int Cuts, bool Usual>(std::integral_constant<int, Cuts>, std::bool_constant<Usual>) {
      constexpr std::size_t shared = sizeof(chunk_counts<N, Cuts>);
      auto const kernel = count_around_kernel<N, Cuts, Usual, most_few_models>;
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), "asking for shared memory");
      kernel<<<chunks, 256, shared, be.stream()>>>(a);
    };
    auto const run_cuts = [&](auto const type) {
      if (a.cuts == 1) {
        run(std::integral_constant<int, 1>{}, type);
      } else {
        run(std::integral_constant<int, 2>{}, type);
      }
    };
    if (usual) {
      run_cuts(std::true_type{});
    } else {
      run_cuts(std::false_type{});
    }
  });
  find_cut_kernel<<<streams, 1024, 0, be.stream()>>>(a, chunks);
  check_cuda(cudaGetLastError(), "starting a selection");
}

/// The cuts that take `wanted[c * models + i]` elements of the delta of model i, one or two cuts c of each model, where one pass
/// finds them: those that it doesn't suit, or that the sample misled, are left out. Waits.
inline std::vector<std::optional<magnitude_cut>> select_by_sample(device_method_workspace& work, channel_block const& block, index_t cols,
                                                                  std::vector<index_t> const& wanted, radix_select::order order) {
  cuda const& be = work.executor();
  current_device const current(be.device());
  std::size_t const models = block.experts.size();
  std::size_t const n = wanted.size();
  std::vector<std::optional<magnitude_cut>> cuts(n);
  constexpr index_t least = sample_threads * sample_tiles * tile_elements * 16;
  index_t const elements = block.rows * cols;
  sampled_arguments<most_few_models> a{};
  a.largest = order == radix_select::order::largest;
  bool any = false;
  for (std::size_t s = 0; s < n; ++s) {
    a.wanted[s] = static_cast<unsigned long long>(wanted[s]);
    if (wanted[s] <= 0) {
      cuts[s] = magnitude_cut{a.largest ? 0xFFFFFFFFu : 0u, -1};
    } else if (wanted[s] >= elements) {
      cuts[s] = magnitude_cut{a.largest ? 0u : 0x7FFFFFFFu, elements};
    }
    any = any || !cuts[s];
  }
  a.in = inputs_of<most_few_models>(block, cols, {operand::deltas});
  if (!any || !a.in.whole || a.in.rows != 1 || elements % tile_elements != 0 || elements < least || elements > index_t{0xFFFFFFFF} || block.first != 0) { return cuts; }
  auto const chunks = static_cast<std::uint32_t>((elements + sampled_chunk - 1) / sampled_chunk);
  a.cuts = static_cast<int>(n / models);
  a.room = static_cast<unsigned long long>(elements / (8 * a.cuts));
  a.index_bits = std::bit_width(static_cast<std::uint64_t>(elements));
  packed_room room;
  std::size_t const at_streams = room.add(n * sizeof(sampled_stream));
  std::size_t const at_equals = room.add(chunks * n * sizeof(std::uint32_t));
  std::size_t const at_digits = room.add(candidate_digits * sizeof(digit_counts));
  std::size_t const at_candidates = room.add(a.room * n * sizeof(unsigned long long));
  device_buffer<std::byte> const there = be.make_buffer<std::byte>(room.size());
  a.streams = reinterpret_cast<sampled_stream*>(there.data() + at_streams);
  a.equals = reinterpret_cast<std::uint32_t*>(there.data() + at_equals);
  a.candidates = reinterpret_cast<unsigned long long*>(there.data() + at_candidates);
  count_by_sample(be, a, chunks);
  std::vector<sampled_stream> streams(n);
  auto const fetch = [&] {
    be.to_host(streams.data(), static_cast<sampled_stream const*>(a.streams), n);
    be.synchronize();
  };
  fetch();
  if (std::any_of(streams.begin(), streams.end(), [](auto const& s) { return s.state == sampled_stream::among_candidates; })) {
    auto* const digits = reinterpret_cast<digit_counts*>(there.data() + at_digits);
    check_cuda(cudaMemsetAsync(digits, 0, candidate_digits * sizeof(digit_counts), be.stream()), "clearing counts");
    std::uint32_t const blocks = a.cuts == 1 ? 32 : 16;
    for (int d = 0; d < candidate_digits; ++d) {
      search_candidates_kernel<<<static_cast<unsigned>(n) * blocks, search_threads, 0, be.stream()>>>(a, digits + d, blocks);
    }
    check_cuda(cudaGetLastError(), "starting a selection");
    fetch();
  }
  for (std::size_t s = 0; s < n; ++s) {
    if (!cuts[s] && streams[s].state == sampled_stream::found) { cuts[s] = streams[s].cut; }
  }
  return cuts;
}

}  // namespace detail
BRAID_NAMESPACE_END
