#pragma once

/// Selection by magnitude, of values that are functions of the inputs, in one pass over these: a sample says between which
/// magnitudes a cut lies, and the pass counts what is above, and keeps what is between. Magnitudes that many elements share, as
/// differences of 16-bit numbers do, are counted, not kept.

#include <braid/backend/cuda/cut_sample.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int sampled_chunk_steps = 8;
inline constexpr index_t sampled_chunk = 256 * tile_elements * sampled_chunk_steps;  // elements of a block
inline constexpr unsigned chunk_candidates = 2048;                                    // of a stream

/// What a block of the kernel below counts, and which elements it finds between.
template <int Values, int Cuts>
struct chunk_counts {
  static constexpr unsigned streams = Values * Cuts;
  static constexpr unsigned room = Values * chunk_candidates;  // of each cut
  struct alignas(16) bracket {
    float low, middle, high;
  } brackets[streams];
  std::uint16_t kept[Cuts][room];  // value x sampled_chunk + number in the chunk
  unsigned long long place[streams];
  std::uint32_t kept_count[Cuts];
  std::uint32_t of_stream[streams];
  std::uint32_t given[streams];
  std::uint32_t equal[streams];
  std::uint32_t beyond[streams];
  std::uint32_t larger[streams];
  std::uint32_t zeros;
  bool odd;  // NaN or infinity
};

/// How many blocks' registers a multiprocessor has room for: with more of them more loads are under way.
constexpr int counting_blocks(int streams, bool usual) noexcept { return (streams > 4 ? 2 : 3) + (usual ? 2 : 0); }

/// A block takes a chunk of the elements of all models.
/// Usual: all are bfloat16.
template <int N, int Cuts, bool Usual, class F, int Most>
BRAID_KERNEL void __launch_bounds__(256, counting_blocks(F::values(N) * Cuts, Usual)) count_around_kernel(__grid_constant__ sampled_arguments<F, Most> const a) {
  BRAID_BLOCK_MEMORY(memory);
  constexpr int values = F::values(N);
  auto& own = *reinterpret_cast<chunk_counts<values, Cuts>*>(memory);
  constexpr unsigned streams = values * Cuts;
  static_assert(values * sampled_chunk <= 65536, "braid: places of candidates are 16 bits");
  if (threadIdx.x < streams) {
    own.of_stream[threadIdx.x] = 0;
    own.given[threadIdx.x] = 0;
    own.equal[threadIdx.x] = 0;
    own.beyond[threadIdx.x] = 0;
    own.larger[threadIdx.x] = 0;
  }
  if (threadIdx.x < Cuts) { own.kept_count[threadIdx.x] = 0; }
  if (threadIdx.x == 0) {
    own.zeros = 0;
    own.odd = false;
  }
  ptx::wait_for_last();
  ptx::let_next_start();
  if (threadIdx.x < streams) {
    sampled_stream const& stream = a.streams[threadIdx.x];
    own.brackets[threadIdx.x] = {__uint_as_float(stream.low), __uint_as_float(stream.middle), __uint_as_float(stream.high)};
  }
  __syncthreads();
  // Of few streams from shared memory each time, for the sake of registers.
  constexpr bool reads = streams <= 4;
  typename chunk_counts<values, Cuts>::bracket held[streams]{};
  auto const bracket_of = [&](int s) {
    if constexpr (reads) { return own.brackets[ptx::as_new(s)]; }
    return held[s];
  };
  float beyond[streams];
  float equal[streams];
#pragma unroll
  for (unsigned s = 0; s < streams; ++s) {
    if constexpr (!reads) { held[s] = own.brackets[s]; }
    beyond[s] = 0.0f;
    equal[s] = 0.0f;
  }
  float zero = 0.0f;  // times anything finite
  std::uint32_t zeros = 0;
  unsigned const lane = threadIdx.x % 32;
  index_t const chunk = static_cast<index_t>(blockIdx.x) * sampled_chunk;
#pragma unroll 1
  for (int step = 0; step < sampled_chunk_steps; ++step) {
    int const at = (step * 256 + static_cast<int>(threadIdx.x)) * tile_elements;
    std::uint32_t inside[Cuts];  // a bit an element
#pragma unroll
    for (int c = 0; c < Cuts; ++c) { inside[c] = 0; }
    if (chunk + at < a.in.cols) {
      element_tile<N> tile;
      if constexpr (Usual) {
        load_deltas<N, tile_layout::together>(a.in, 0, chunk + at, tile);
      } else {
        load_elements<N, tile_layout::together>(a.in, 0, chunk + at, true, tile);
      }
      index_t const row = row_of_tile(a, (chunk + at) / tile_elements);
#pragma unroll
      for (int v = 0; v < values; ++v) {
        typename chunk_counts<values, Cuts>::bracket bracket[Cuts];
#pragma unroll
        for (int c = 0; c < Cuts; ++c) { bracket[c] = bracket_of(c * values + v); }
#pragma unroll
        for (int j = 0; j < tile_elements; ++j) {
          float one[N];
#pragma unroll
          for (int i = 0; i < N; ++i) { one[i] = tile.x[i][j]; }
          float const value = a.f.value(v, static_cast<float const*>(one), N, row, index_t{0});
          zero = ptx::fused(value, 0.0f, zero);
          if constexpr (F::shares) { zeros += value == 0.0f ? 1u : 0u; }
#pragma unroll
          for (int c = 0; c < Cuts; ++c) {
            int const s = c * values + v;
            ptx::place_in_bracket(value, bracket[c].low, bracket[c].middle, bracket[c].high, equal[s], beyond[s], inside[c],
                                  1u << (v * tile_elements + j));
          }
        }
      }
    }
#pragma unroll
    for (int c = 0; c < Cuts; ++c) {
      // Places of the warp's candidates, from the lowest lane.
      auto const mine = static_cast<std::uint32_t>(__popc(inside[c]));
      std::uint32_t sum = mine;
#pragma unroll
      for (unsigned reach = 1; reach < 32; reach *= 2) {
        std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, sum, reach);
        if (lane >= reach) { sum += lower; }
      }
      std::uint32_t slot = 0;
      if (lane == 31 && sum != 0) { slot = atomicAdd(&own.kept_count[c], sum); }
      slot = __shfl_sync(0xFFFFFFFFu, slot, 31) + sum - mine;
      for (std::uint32_t left = inside[c]; left != 0; left &= left - 1, ++slot) {
        auto const bit = static_cast<std::uint32_t>(__ffs(static_cast<int>(left)) - 1);
        if (slot < own.room) {
          std::uint32_t const number = static_cast<std::uint32_t>(at) + bit % tile_elements;
          own.kept[c][slot] = static_cast<std::uint16_t>(bit / tile_elements * static_cast<std::uint32_t>(sampled_chunk) + number);
        }
      }
    }
  }
  if (zero != zero) { own.odd = true; }
  if constexpr (F::shares) {
    zeros = __reduce_add_sync(0xFFFFFFFFu, zeros);
    if (lane == 0) { atomicAdd(&own.zeros, zeros); }
  }
#pragma unroll
  for (unsigned s = 0; s < streams; ++s) {
    // Both counts of a warp are below 2^16.
    std::uint32_t const both = __reduce_add_sync(0xFFFFFFFFu, static_cast<std::uint32_t>(beyond[s]) << 16 | static_cast<std::uint32_t>(equal[s]));
    if (lane == 0) {
      atomicAdd(&own.beyond[s], both >> 16);
      atomicAdd(&own.equal[s], both & 0xFFFFu);
    }
  }
  __syncthreads();
  // The candidates: how many there are of each stream, then each to its place; they are read again, from a cache.
#pragma unroll 1
  for (unsigned c = 0; c < Cuts; ++c) {
    std::uint32_t const count = own.kept_count[c] < own.room ? own.kept_count[c] : own.room;
    for (std::uint32_t k = threadIdx.x; k < count; k += blockDim.x) {
      atomicAdd(&own.of_stream[c * values + own.kept[c][k] / static_cast<unsigned>(sampled_chunk)], 1u);
    }
  }
  __syncthreads();
  if (threadIdx.x < streams) {
    unsigned const s = threadIdx.x;
    sampled_stream& stream = a.streams[s];
    std::uint32_t const count = own.of_stream[s];
    own.place[s] = atomicAdd(&stream.candidates, static_cast<unsigned long long>(count));
    if (own.kept_count[s / values] > own.room || own.place[s] + count > a.room || own.odd) { stream.overflow = true; }
    atomicAdd(&stream.above, static_cast<unsigned long long>(own.beyond[s] - own.equal[s]));
    atomicAdd(&stream.equal, static_cast<unsigned long long>(own.equal[s]));
    a.equals[static_cast<index_t>(blockIdx.x) * streams + s] = own.equal[s];
    if constexpr (F::shares) { atomicAdd(&stream.zeros, static_cast<unsigned long long>(own.zeros)); }
  }
  __syncthreads();
#pragma unroll 1
  for (unsigned c = 0; c < Cuts; ++c) {
    std::uint32_t const count = own.kept_count[c] < own.room ? own.kept_count[c] : own.room;
    for (std::uint32_t k = threadIdx.x; k < count; k += blockDim.x) {
      std::uint32_t const one = own.kept[c][k];
      std::uint32_t const value = one / static_cast<unsigned>(sampled_chunk);
      std::uint32_t const s = c * values + value;
      unsigned long long const place = own.place[s] + atomicAdd(&own.given[s], 1u);
      if (place >= a.room) { continue; }
      sampled_stream const& stream = a.streams[s];
      index_t const col = chunk + one % static_cast<unsigned>(sampled_chunk);
      std::uint32_t const key = key_at(a, static_cast<int>(value), col);
      a.candidates[s * a.room + place] =
          static_cast<unsigned long long>(a.largest ? stream.high - key : key - stream.low) << a.index_bits | static_cast<unsigned long long>(col);
      if (key > stream.middle) { atomicAdd(&own.larger[s], 1u); }
    }
  }
  __syncthreads();
  if (threadIdx.x < streams && own.larger[threadIdx.x] != 0) {
    atomicAdd(&a.streams[threadIdx.x].larger, static_cast<unsigned long long>(own.larger[threadIdx.x]));
  }
}

struct find_room {
  std::uint32_t of_warps[32];
  unsigned long long left_in_chunk;
  std::uint32_t chunk_found;
};

/// A block takes a stream: where its cut lies, and, among equals of `middle`, which is the last that is taken. 1024 threads.
template <class F, int Most>
BRAID_KERNEL void __launch_bounds__(1024) find_cut_kernel(__grid_constant__ sampled_arguments<F, Most> const a, std::uint32_t chunks) {
  BRAID_BLOCK_OBJECT(find_room, shared);
  ptx::wait_for_last();
  auto const number = blockIdx.x;
  auto const value = static_cast<int>(number % static_cast<unsigned>(F::values(a.in.count)));
  sampled_stream& stream = a.streams[number];
  auto const report = [&](sampled_stream::state_type state, magnitude_cut const& cut) {
    stream.state = state;
    stream.cut = cut;
    if (a.results != nullptr) { a.results[number] = {state, cut}; }
  };
  auto const total = static_cast<unsigned long long>(a.in.cols);
  unsigned long long const wanted =
      F::shares ? static_cast<unsigned long long>(static_cast<float>(total - stream.zeros) * a.share) : a.wanted[number];
  unsigned long long const before = a.largest ? stream.above : total - stream.above - stream.equal - stream.candidates;
  unsigned long long const first = a.largest ? stream.larger : stream.candidates - stream.larger;
  bool const beyond = wanted > before + stream.equal + stream.candidates;
  if (stream.overflow || wanted <= before || beyond) {
    if (!F::shares && threadIdx.x == 0 && !stream.overflow && stream.reaches_zero && beyond == a.largest) {
      report(sampled_stream::found, {0, a.in.cols});
    }
    return;
  }
  unsigned long long const rank = wanted - before;
  if (rank <= first || rank > first + stream.equal) {
    if (threadIdx.x == 0) {
      report(sampled_stream::among_candidates, {});
      stream.rank = rank <= first ? rank : rank - stream.equal;
      stream.prefix = 0;
      stream.left = a.index_bits + 32 - __clz(static_cast<int>(stream.high - stream.low));
    }
    return;
  }
  std::uint32_t const bits = stream.middle;
  unsigned long long left = rank - first;
  if (left == stream.equal) {
    if (threadIdx.x == 0) { report(sampled_stream::found, {bits, a.in.cols}); }
    return;
  }
  // The chunk, then the element: each thread has neighbours.
  auto const scan = [&](std::uint32_t mine, std::uint32_t& sum_before) {
    std::uint32_t sum = mine;
    for (unsigned step = 1; step < 32; step *= 2) {
      std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, sum, step);
      if (threadIdx.x % 32 >= step) { sum += lower; }
    }
    if (threadIdx.x % 32 == 31) { shared.of_warps[threadIdx.x / 32] = sum; }
    __syncthreads();
    std::uint32_t const of_warp = shared.of_warps[threadIdx.x % 32];
    sum_before = __reduce_add_sync(0xFFFFFFFFu, threadIdx.x % 32 < threadIdx.x / 32 ? of_warp : 0u) + sum - mine;
    __syncthreads();
  };
  auto const streams = static_cast<std::uint32_t>(F::values(a.in.count) * a.cuts);
  std::uint32_t const each = (chunks + 1023) / 1024;
  std::uint32_t const begin = each * threadIdx.x;
  std::uint32_t mine = 0;
  for (std::uint32_t c = begin; c < begin + each && c < chunks; ++c) { mine += a.equals[c * streams + number]; }
  std::uint32_t sum_before = 0;
  scan(mine, sum_before);
  if (left > sum_before && left <= static_cast<unsigned long long>(sum_before) + mine) {
    unsigned long long rest = left - sum_before;
    std::uint32_t c = begin;
    for (; a.equals[c * streams + number] < rest; ++c) { rest -= a.equals[c * streams + number]; }
    shared.chunk_found = c;
    shared.left_in_chunk = rest;
  }
  __syncthreads();
  constexpr int own = static_cast<int>(sampled_chunk / 1024);
  index_t const from = static_cast<index_t>(shared.chunk_found) * sampled_chunk + static_cast<index_t>(threadIdx.x) * own;
  auto const equals = [&](int k) { return from + k < a.in.cols && key_at(a, value, from + k) == bits; };
  std::uint32_t mask = 0;
#pragma unroll
  for (int k = 0; k < own; ++k) { mask |= equals(k) ? 1u << k : 0u; }
  mine = static_cast<std::uint32_t>(__popc(mask));
  scan(mine, sum_before);
  if (shared.left_in_chunk > sum_before && shared.left_in_chunk <= static_cast<unsigned long long>(sum_before) + mine) {
    unsigned long long rest = shared.left_in_chunk - sum_before;
    for (; rest > 1; --rest) { mask &= mask - 1; }
    report(sampled_stream::found, {bits, from + __ffs(static_cast<int>(mask)) - 1 + a.in.first_col});
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
