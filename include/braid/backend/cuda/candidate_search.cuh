#pragma once

/// Where a cut lies among a sampled selection's candidates (sampled_kernel.cuh): digit by digit, without the host.

#include <braid/backend/cuda/sampled_kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Digits of a candidate: those of the distance, of at most 31 bits, end where the element's number begins, of at most 32.
inline constexpr int candidate_digits = (31 + count_bits - 1) / count_bits + (32 + count_bits - 1) / count_bits;
inline constexpr unsigned search_threads = 512;

/// Counts of one digit, in device memory; they begin at zero.
struct digit_counts {
  std::uint32_t bins[most_sampled_streams][count_bins];
  std::uint32_t arrived[most_sampled_streams];
};

struct search_room {
  std::uint32_t bins[count_bins];
  std::uint32_t of_warps[search_threads / 32];
  std::uint32_t number;  // of this block among those that have arrived
};

/// Finds one more digit of each stream's cut that lies among candidates. `blocks` blocks take a stream.
template <class F, int Most>
BRAID_KERNEL void __launch_bounds__(search_threads)
search_candidates_kernel(__grid_constant__ sampled_arguments<F, Most> const a, digit_counts* counts, std::uint32_t blocks) {
  BRAID_BLOCK_OBJECT(search_room, shared);
  auto const own = blockIdx.x / blocks;
  sampled_stream& stream = a.streams[own];
  if (stream.state != sampled_stream::among_candidates) { return; }
  int const behind = stream.left > a.index_bits ? a.index_bits : 0;
  int const bits = stream.left - behind < count_bits ? stream.left - behind : count_bits;
  int const shift = stream.left - bits;
  unsigned long long const prefix = stream.prefix;
  unsigned long long const rank = stream.rank;
  for (unsigned b = threadIdx.x; b < count_bins; b += search_threads) { shared.bins[b] = 0; }
  __syncthreads();
  unsigned long long const* const candidates = a.candidates + own * a.room;
  unsigned long long const step = static_cast<unsigned long long>(blocks) * search_threads;
  for (unsigned long long i = static_cast<unsigned long long>(blockIdx.x % blocks) * search_threads + threadIdx.x; i < stream.candidates; i += step) {
    unsigned long long const one = candidates[i];
    if (one >> shift >> bits == prefix) { atomicAdd(&shared.bins[one >> shift & ((1u << bits) - 1u)], 1u); }
  }
  __syncthreads();
  std::uint32_t* const all = counts->bins[own];
  for (unsigned b = threadIdx.x; b < count_bins; b += search_threads) {
    if (shared.bins[b] != 0) { atomicAdd(&all[b], shared.bins[b]); }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) { shared.number = atomicAdd(&counts->arrived[own], 1u); }
  __syncthreads();
  if (shared.number + 1 != blocks) { return; }
  __threadfence();
  // The last block knows all counts. Each thread has neighbours.
  constexpr unsigned each = count_bins / search_threads;
  unsigned const begin = threadIdx.x * each;
  std::uint32_t here[each];
  std::uint32_t mine = 0;
#pragma unroll
  for (unsigned k = 0; k < each; ++k) {
    here[k] = *const_cast<std::uint32_t const volatile*>(all + begin + k);
    mine += here[k];
  }
  std::uint32_t sum = mine;
#pragma unroll
  for (unsigned reach = 1; reach < 32; reach *= 2) {
    std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, sum, reach);
    if (threadIdx.x % 32 >= reach) { sum += lower; }
  }
  if (threadIdx.x % 32 == 31) { shared.of_warps[threadIdx.x / 32] = sum; }
  __syncthreads();
  unsigned long long before = sum - mine;
  for (unsigned w = 0; w < threadIdx.x / 32; ++w) { before += shared.of_warps[w]; }
  if (rank <= before || rank > before + mine) { return; }
  unsigned bin = 0;
  for (; before + here[bin] < rank; ++bin) { before += here[bin]; }
  unsigned long long const found = prefix << bits | (begin + bin);
  stream.prefix = found;
  stream.rank = rank - before;
  stream.left = shift;
  // Where all of a magnitude's elements are taken it doesn't matter where the last one lies.
  bool const whole = shift == a.index_bits && here[bin] == rank - before;
  if (!whole && shift > 0) { return; }
  unsigned long long const at = found << shift;
  auto const distance = static_cast<std::uint32_t>(at >> a.index_bits);
  stream.cut = {a.largest ? stream.high - distance : stream.low + distance,
                whole ? a.in.cols : static_cast<index_t>(at & ((1ull << a.index_bits) - 1))};
  stream.state = sampled_stream::found;
}

}  // namespace detail
BRAID_NAMESPACE_END
