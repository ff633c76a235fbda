#pragma once

/// Selection by magnitude in one pass over the inputs: a sample says between which magnitudes a cut lies, and the pass counts
/// what is above, and keeps what is between. Magnitudes that many elements share, as differences of 16-bit numbers do, are
/// counted, not kept.

#include <braid/backend/cuda/count_kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One model's cut in the making, in device memory.
struct sampled_stream {
  // Told.
  unsigned long long wanted;  // elements to take
  // Found by the sample: the cut's likely magnitude, and between which it lies almost surely.
  std::uint32_t low;
  std::uint32_t middle;
  std::uint32_t high;
  bool reaches_zero;              // whether zeros lie between, beside the cut's likely magnitude
  // Counted.
  unsigned long long above;       // elements beyond `high`
  unsigned long long equal;       // to `middle`
  unsigned long long candidates;  // between, without those
  unsigned long long larger;      // candidates beyond `middle`
  bool overflow;                  // more candidates than there is room for
  // Found.
  enum state_type : std::uint32_t { missed, found, among_candidates } state;
  magnitude_cut cut;
  unsigned long long rank;        // of the last taken among the candidates, from 1
};

inline constexpr int sample_threads = 1024;
inline constexpr unsigned sample_bins = 2 * sample_threads;
inline constexpr int sample_tiles = 1;                                                 // a thread
inline constexpr int sampled_chunk_steps = 4;
inline constexpr index_t sampled_chunk = 256 * tile_elements * sampled_chunk_steps;  // elements of a block
inline constexpr unsigned chunk_candidates = 4096;                                    // of a model

template <int Most>
struct sampled_arguments {
  element_inputs<Most> in;        // one row
  sampled_stream* streams;
  std::uint32_t* equals;          // [chunks, models]: elements that equal `middle`
  unsigned long long* candidates; // [models, room]: distance from the first magnitude << index_bits | number of the element
  unsigned long long room;
  int index_bits;
  bool largest;                   // whether the largest are taken, or the smallest
};

/// A block takes a model, and the order statistics of its sample.
template <int Most>
BRAID_KERNEL void __launch_bounds__(sample_threads) sample_kernel(__grid_constant__ sampled_arguments<Most> const a) {
  BRAID_BLOCK_OBJECT(std::uint32_t, room[32 * 3 + 6]);
  BRAID_BLOCK_OBJECT(std::uint32_t, counts[3 * sample_bins]);
  device_input const model = a.in.models[blockIdx.x];
  sampled_stream& stream = a.streams[blockIdx.x];
  constexpr std::uint32_t tiles = sample_threads * sample_tiles;
  constexpr std::uint32_t samples = tiles * tile_elements;
  index_t const stride = a.in.cols / tile_elements / tiles;
  std::uint32_t key[sample_tiles][tile_elements];
#pragma unroll
  for (int k = 0; k < sample_tiles; ++k) {
    std::uint32_t const i = static_cast<std::uint32_t>(k) * sample_threads + threadIdx.x;
    index_t const tile = i * stride + static_cast<index_t>((i * 0x9E3779B1u >> 8) % static_cast<std::uint32_t>(stride));
    raw_tile raw;
    raw_tile base;
    float x[tile_elements];
    float p[tile_elements];
    load_raw<tile_layout::together>(model.data + tile * tile_elements * bytes_of(model.type), model.type, raw);
    load_raw<tile_layout::together>(a.in.base.data + tile * tile_elements * bytes_of(a.in.base.type), a.in.base.type, base);
    widen_tile(raw, model.type, x);
    widen_tile(base, a.in.base.type, p);
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { key[k][j] = magnitude_key(x[j] - p[j]); }
  }
  // Ranks from the top.
  double const share = static_cast<double>(stream.wanted) / static_cast<double>(a.in.cols);
  double const q = a.largest ? share : 1.0 - share;
  double const margin = 5.0 * ::sqrt(samples * q * (1.0 - q)) + 2.0;
  double const ranks[3] = {q * samples + margin, q * samples, q * samples - margin};
  std::uint32_t left[3];   // rank among the keys that begin with the value
  std::uint32_t value[3];  // the largest that at least `rank` keys reach, digit by digit
#pragma unroll
  for (int r = 0; r < 3; ++r) {
    double const rank = ::ceil(ranks[r]);
    left[r] = rank < 1.0 ? 1u : rank > samples ? samples : static_cast<std::uint32_t>(rank);
    value[r] = 0;
  }
  for (int pass = 0; pass < 3; ++pass) {
    int const shift = pass == 0 ? 20 : pass == 1 ? 10 : 0;
    int const bits = pass == 0 ? 11 : 10;
    for (unsigned i = threadIdx.x; i < 3 * sample_bins; i += sample_threads) { counts[i] = 0; }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < sample_tiles; ++k) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) {
        std::uint32_t const bin = key[k][j] >> shift & ((1u << bits) - 1u);
        for (unsigned r = 0; r < (pass == 0 ? 1u : 3u); ++r) {
          if (pass == 0 || key[k][j] >> (shift + bits) == value[r]) { atomicAdd(&counts[r * sample_bins + bin], 1u); }
        }
      }
    }
    __syncthreads();
    // Each thread has two bins, the first one the highest.
    std::uint32_t const top = sample_bins - 1u - 2u * threadIdx.x;
    std::uint32_t sum[3];
#pragma unroll
    for (unsigned r = 0; r < 3; ++r) {
      std::uint32_t const* const of = counts + (pass == 0 ? 0u : r * sample_bins);
      sum[r] = of[top] + of[top - 1];
#pragma unroll
      for (unsigned step = 1; step < 32; step *= 2) {
        std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, sum[r], step);
        if (threadIdx.x % 32 >= step) { sum[r] += lower; }
      }
      if (threadIdx.x % 32 == 31) { room[r * 32 + threadIdx.x / 32] = sum[r]; }
    }
    __syncthreads();
#pragma unroll
    for (unsigned r = 0; r < 3; ++r) {
      std::uint32_t const* const of = counts + (pass == 0 ? 0u : r * sample_bins);
      std::uint32_t const both = of[top] + of[top - 1];
      std::uint32_t above = sum[r] - both;
      for (unsigned w = 0; w < threadIdx.x / 32; ++w) { above += room[r * 32 + w]; }
      if (above < left[r] && left[r] <= above + both) {
        bool const first = left[r] <= above + of[top];
        room[96 + r] = first ? top : top - 1;
        room[99 + r] = first ? above : above + of[top];
      }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 3; ++r) {
      value[r] = value[r] << bits | room[96 + r];
      left[r] -= room[99 + r];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    std::uint32_t const low = ranks[0] > samples ? 0u : value[0];
    std::uint32_t const high = ranks[2] < 1.0 ? 0x7FFFFFFFu : value[2];
    // Which of equal zeros are taken makes no difference to anyone, so they aren't kept as candidates.
    stream.reaches_zero = low == 0 && value[1] != 0;
    stream.low = low == 0 && high != 0 ? 1u : low;
    stream.middle = value[1];
    stream.high = high;
  }
}

/// A block takes a chunk of the elements of all models.
/// Usual: all are bfloat16.
template <int N, bool Usual, int Most>
BRAID_KERNEL void __launch_bounds__(256) count_around_kernel(__grid_constant__ sampled_arguments<Most> const a) {
  BRAID_BLOCK_MEMORY(memory);
  auto* const kept = reinterpret_cast<std::uint16_t*>(memory);  // [models, chunk_candidates]: numbers in the chunk
  auto* const place = reinterpret_cast<unsigned long long*>(kept + N * chunk_candidates);
  auto* const kept_count = reinterpret_cast<std::uint32_t*>(place + N);
  std::uint32_t* const equal_count = kept_count + N;
  std::uint32_t* const above_count = kept_count + 2 * N;
  std::uint32_t* const larger_count = kept_count + 3 * N;
  if (threadIdx.x < 4 * N) { kept_count[threadIdx.x] = 0; }
  __syncthreads();
  std::uint32_t low[N];
  std::uint32_t high[N];
  std::uint32_t middle[N];
  std::uint32_t above[N];
  std::uint32_t equal[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    low[i] = a.streams[i].low;
    high[i] = a.streams[i].high;
    middle[i] = a.streams[i].middle;
    above[i] = 0;
    equal[i] = 0;
  }
  index_t const chunk = static_cast<index_t>(blockIdx.x) * sampled_chunk;
#pragma unroll 1
  for (int step = 0; step < sampled_chunk_steps; ++step) {
    int const at = (step * 256 + static_cast<int>(threadIdx.x)) * tile_elements;
    if (chunk + at >= a.in.cols) { break; }
    element_tile<N> tile;
    if constexpr (Usual) {
      load_deltas<N, tile_layout::together>(a.in, 0, chunk + at, tile);
    } else {
      load_elements<N, tile_layout::together>(a.in, 0, chunk + at, true, tile);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      std::uint32_t inside = 0;  // a bit an element
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) {
        std::uint32_t const key = magnitude_key(tile.x[i][j]);
        above[i] += key > high[i] ? 1u : 0u;
        equal[i] += key == middle[i] ? 1u : 0u;
        inside |= key - low[i] <= high[i] - low[i] && key != middle[i] ? 1u << j : 0u;
      }
      if (inside == 0) { continue; }
      std::uint32_t slot = atomicAdd(&kept_count[i], static_cast<std::uint32_t>(__popc(inside)));
      for (; inside != 0; inside &= inside - 1, ++slot) {
        if (slot < chunk_candidates) { kept[static_cast<unsigned>(i) * chunk_candidates + slot] = static_cast<std::uint16_t>(at + __ffs(static_cast<int>(inside)) - 1); }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    std::uint32_t const of_warp_above = __reduce_add_sync(0xFFFFFFFFu, above[i]);
    std::uint32_t const of_warp_equal = __reduce_add_sync(0xFFFFFFFFu, equal[i]);
    if (threadIdx.x % 32 == 0) {
      atomicAdd(&above_count[i], of_warp_above);
      atomicAdd(&equal_count[i], of_warp_equal);
    }
  }
  __syncthreads();
  if (threadIdx.x < N) {
    sampled_stream& stream = a.streams[threadIdx.x];
    std::uint32_t const count = kept_count[threadIdx.x];
    place[threadIdx.x] = atomicAdd(&stream.candidates, static_cast<unsigned long long>(count));
    if (count > chunk_candidates || place[threadIdx.x] + count > a.room) { stream.overflow = true; }
    atomicAdd(&stream.above, static_cast<unsigned long long>(above_count[threadIdx.x]));
    atomicAdd(&stream.equal, static_cast<unsigned long long>(equal_count[threadIdx.x]));
    a.equals[static_cast<index_t>(blockIdx.x) * N + threadIdx.x] = equal_count[threadIdx.x];
  }
  __syncthreads();
  // The candidates are read again, from a cache.
  for (int i = 0; i < N; ++i) {
    std::uint32_t const count = kept_count[i] < chunk_candidates ? kept_count[i] : chunk_candidates;
    device_input const input = a.in.models[i];
    sampled_stream const& stream = a.streams[i];
    std::uint32_t larger = 0;
    for (std::uint32_t k = threadIdx.x; k < count && place[i] + k < a.room; k += blockDim.x) {
      index_t const col = chunk + kept[static_cast<unsigned>(i) * chunk_candidates + k];
      float const p = widen_element(a.in.base.data + col * bytes_of(a.in.base.type), a.in.base.type);
      std::uint32_t const key = magnitude_key(widen_element(input.data + col * bytes_of(input.type), input.type) - p);
      a.candidates[static_cast<unsigned>(i) * a.room + place[i] + k] =
          static_cast<unsigned long long>(a.largest ? stream.high - key : key - stream.low) << a.index_bits | static_cast<unsigned long long>(col);
      larger += key > stream.middle ? 1u : 0u;
    }
    larger = __reduce_add_sync(0xFFFFFFFFu, larger);
    if (threadIdx.x % 32 == 0 && larger != 0) { atomicAdd(&larger_count[i], larger); }
  }
  __syncthreads();
  if (threadIdx.x < N && larger_count[threadIdx.x] != 0) {
    atomicAdd(&a.streams[threadIdx.x].larger, static_cast<unsigned long long>(larger_count[threadIdx.x]));
  }
}

/// A block takes a model: where its cut lies, and, among equals of `middle`, which is the last that is taken. 1024 threads.
template <int Most>
BRAID_KERNEL void __launch_bounds__(1024) find_cut_kernel(__grid_constant__ sampled_arguments<Most> const a, std::uint32_t chunks) {
  BRAID_BLOCK_OBJECT(std::uint32_t, room[32]);
  BRAID_BLOCK_OBJECT(unsigned long long, left_in_chunk);
  BRAID_BLOCK_OBJECT(std::uint32_t, chunk_found);
  auto const model = blockIdx.x;
  sampled_stream& stream = a.streams[model];
  auto const total = static_cast<unsigned long long>(a.in.cols);
  unsigned long long const before = a.largest ? stream.above : total - stream.above - stream.equal - stream.candidates;
  unsigned long long const first = a.largest ? stream.larger : stream.candidates - stream.larger;
  bool const beyond = stream.wanted > before + stream.equal + stream.candidates;
  if (stream.overflow || stream.wanted <= before || beyond) {
    if (threadIdx.x == 0 && !stream.overflow && stream.reaches_zero && beyond == a.largest) {
      stream.cut = {0, a.in.cols};
      stream.state = sampled_stream::found;
    }
    return;
  }
  unsigned long long const rank = stream.wanted - before;
  if (rank <= first || rank > first + stream.equal) {
    if (threadIdx.x == 0) {
      stream.state = sampled_stream::among_candidates;
      stream.rank = rank <= first ? rank : rank - stream.equal;
    }
    return;
  }
  std::uint32_t const bits = stream.middle;
  unsigned long long left = rank - first;
  if (left == stream.equal) {
    if (threadIdx.x == 0) {
      stream.cut = {bits, a.in.cols};
      stream.state = sampled_stream::found;
    }
    return;
  }
  // The chunk, then the element: each thread has neighbours.
  auto const scan = [&](std::uint32_t mine, std::uint32_t& sum_before) {
    std::uint32_t sum = mine;
    for (unsigned step = 1; step < 32; step *= 2) {
      std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, sum, step);
      if (threadIdx.x % 32 >= step) { sum += lower; }
    }
    if (threadIdx.x % 32 == 31) { room[threadIdx.x / 32] = sum; }
    __syncthreads();
    std::uint32_t ahead = 0;
    for (unsigned w = 0; w < threadIdx.x / 32; ++w) { ahead += room[w]; }
    sum_before = ahead + sum - mine;
    __syncthreads();
  };
  auto const models = static_cast<std::uint32_t>(a.in.count);
  std::uint32_t const each = (chunks + 1023) / 1024;
  std::uint32_t const begin = each * threadIdx.x;
  std::uint32_t mine = 0;
  for (std::uint32_t c = begin; c < begin + each && c < chunks; ++c) { mine += a.equals[c * models + model]; }
  std::uint32_t sum_before = 0;
  scan(mine, sum_before);
  if (left > sum_before && left <= static_cast<unsigned long long>(sum_before) + mine) {
    unsigned long long rest = left - sum_before;
    std::uint32_t c = begin;
    for (; a.equals[c * models + model] < rest; ++c) { rest -= a.equals[c * models + model]; }
    chunk_found = c;
    left_in_chunk = rest;
  }
  __syncthreads();
  constexpr int own = static_cast<int>(sampled_chunk / 1024);
  index_t const from = static_cast<index_t>(chunk_found) * sampled_chunk + static_cast<index_t>(threadIdx.x) * own;
  device_input const input = a.in.models[model];
  auto const equals = [&](int k) {
    index_t const col = from + k;
    if (col >= a.in.cols) { return false; }
    float const p = widen_element(a.in.base.data + col * bytes_of(a.in.base.type), a.in.base.type);
    return magnitude_key(widen_element(input.data + col * bytes_of(input.type), input.type) - p) == bits;
  };
  mine = 0;
  for (int k = 0; k < own; ++k) { mine += equals(k) ? 1u : 0u; }
  scan(mine, sum_before);
  if (left_in_chunk > sum_before && left_in_chunk <= static_cast<unsigned long long>(sum_before) + mine) {
    unsigned long long rest = left_in_chunk - sum_before;
    int k = 0;
    for (;; ++k) {
      if (equals(k) && --rest == 0) { break; }
    }
    stream.cut = {bits, from + k + a.in.first_col};
    stream.state = sampled_stream::found;
  }
}

/// Which candidates a pass counts.
struct candidate_pass {
  unsigned long long const* candidates[most_count_streams];
  unsigned long long count[most_count_streams];
  unsigned long long prefix[most_count_streams];
  int shift;
  int bits;
  std::uint32_t* counts;  // [streams, bins]
};

/// counts[stream, bin] += candidates that begin with the stream's prefix, by the `bits` bits above `shift`.
BRAID_KERNEL void count_candidates_kernel(__grid_constant__ candidate_pass const a, std::uint32_t stream, std::uint32_t blocks) {
  BRAID_BLOCK_OBJECT(std::uint32_t, bins[count_bins]);
  for (unsigned b = threadIdx.x; b < count_bins; b += blockDim.x) { bins[b] = 0; }
  __syncthreads();
  unsigned long long const step = static_cast<unsigned long long>(blocks) * blockDim.x;
  for (unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.count[stream]; i += step) {
    unsigned long long const one = a.candidates[stream][i];
    if (one >> a.shift >> a.bits == a.prefix[stream]) { atomicAdd(&bins[one >> a.shift & ((1u << a.bits) - 1u)], 1u); }
  }
  __syncthreads();
  for (unsigned b = threadIdx.x; b < count_bins; b += blockDim.x) {
    if (bins[b] != 0) { atomicAdd(&a.counts[stream * count_bins + b], bins[b]); }
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
