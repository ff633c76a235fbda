#pragma once

/// Starts the selection of cuts in one pass (sampled_kernel.cuh).

#include <braid/backend/cuda/candidate_search.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/value_select.cuh>

#include <bit>
#include <optional>
#include <vector>

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

/// Enqueues the sample, the pass that counts, and what finds cuts among equals.
/// Cuts: of each value, one of these numbers.
template <int... Cuts, class F, int Most>
void count_by_sample(cuda const& be, sampled_arguments<F, Most> const& a, std::uint32_t chunks) {
  auto const streams = static_cast<unsigned>(F::values(a.in.count) * a.cuts);
  sample_kernel<<<streams, sample_threads, 0, be.stream()>>>(a);
  bool usual = a.in.base.type == dtype::bf16;
  for (int i = 0; i < a.in.count; ++i) { usual = usual && a.in.models[i].type == dtype::bf16; }
  with_few_models<Most>(a.in.count, [&]<int N>(std::integral_constant<int, N>) {
    auto const run = [&]<int C>(std::integral_constant<int, C>) {
      auto const launch = [&](auto const kernel) {
        constexpr std::size_t shared = sizeof(chunk_counts<F::values(N), C>);
        allow_shared_memory(kernel);
        kernel<<<chunks, 256, shared, be.stream()>>>(a);
      };
      if (a.cuts != C) { return; }
      if (usual) {
        launch(count_around_kernel<N, C, true, F, Most>);
      } else {
        launch(count_around_kernel<N, C, false, F, Most>);
      }
    };
    (run(std::integral_constant<int, Cuts>{}), ...);
  });
  find_cut_kernel<<<streams, 1024, 0, be.stream()>>>(a, chunks);
  check_cuda(cudaGetLastError(), "starting a selection");
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
  constexpr index_t least = sample_threads * sample_tiles * tile_elements * 16;
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
  packed_room room;
  std::size_t const at_streams = room.add(n * sizeof(sampled_stream));
  std::size_t const at_equals = room.add(chunks * n * sizeof(std::uint32_t));
  std::size_t const at_digits = room.add(candidate_digits * sizeof(digit_counts));
  std::size_t const at_candidates = room.add(a.room * n * sizeof(unsigned long long));
  device_buffer<std::byte> const there = be.make_buffer<std::byte>(room.size());
  a.streams = reinterpret_cast<sampled_stream*>(there.data() + at_streams);
  a.equals = reinterpret_cast<std::uint32_t*>(there.data() + at_equals);
  a.candidates = reinterpret_cast<unsigned long long*>(there.data() + at_candidates);
  count_by_sample<Cuts...>(be, a, chunks);
  std::vector<sampled_stream> streams(n);
  auto const fetch = [&] {
    be.to_host(streams.data(), static_cast<sampled_stream const*>(a.streams), n);
    be.synchronize();
  };
  fetch();
  if (std::any_of(streams.begin(), streams.end(), [](auto const& s) { return s.state == sampled_stream::among_candidates; })) {
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
    if (!cuts[s] && streams[s].state == sampled_stream::found) { cuts[s] = streams[s].cut; }
  }
  return cuts;
}

}  // namespace detail
BRAID_NAMESPACE_END
