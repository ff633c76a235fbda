#pragma once

/// Selection by magnitude, of values that are functions of the inputs, in one pass over these: a sample says between which
/// magnitudes a cut lies, and the pass counts what is above, and keeps what is between. Magnitudes that many elements share, as
/// differences of 16-bit numbers do, are counted, not kept.

#include <braid/backend/cuda/count_kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One cut of one value in the making, in device memory.
struct sampled_stream {
  // Found by the sample: the cut's likely magnitude, and between which it lies almost surely.
  std::uint32_t low;
  std::uint32_t middle;
  std::uint32_t high;
  bool reaches_zero;              // whether zeros lie between, beside the cut's likely magnitude
  // Counted.
  unsigned long long zeros;       // where values ask for that
  unsigned long long above;       // elements beyond `high`
  unsigned long long equal;       // to `middle`
  unsigned long long candidates;  // between, without those
  unsigned long long larger;      // candidates beyond `middle`
  bool overflow;                  // more candidates than there is room for, or NaN or infinity
  // Found.
  enum state_type : std::uint32_t { missed, found, among_candidates } state;
  magnitude_cut cut;
  // Among candidates (candidate_search.cuh).
  unsigned long long rank;        // of the last taken among those that begin with `prefix`, from 1
  unsigned long long prefix;
  int left;                       // bits behind the prefix
};

inline constexpr int sample_threads = 1024;
inline constexpr unsigned sample_bins = 2 * sample_threads;
inline constexpr int sample_tiles = 4;                                                // a thread
inline constexpr int sampled_chunk_steps = 8;
inline constexpr index_t sampled_chunk = 256 * tile_elements * sampled_chunk_steps;  // elements of a block
inline constexpr unsigned chunk_candidates = 4096;                                    // of a model
inline constexpr int most_sampled_streams = 2 * most_few_models;

/// What the kernels are told, by value. `F` gives values (count_kernel.cuh), as many as
///   f.values(n)      with n models
///   f.of_one_model   whether value i is of model i alone
///   f.shares         whether a share of the values that aren't zero is taken, instead of a number
template <class F, int Most>
struct sampled_arguments {
  element_inputs<Most> in;         // one row
  std::uint32_t of_row;            // tiles of a row of the tensor
  F f;
  int cuts;                        // of each value
  unsigned long long wanted[most_sampled_streams];  // [cuts, values]: elements to take; of none and of all nothing is found
  float share;
  sampled_stream* streams;         // [cuts, values]
  std::uint32_t* equals;           // [chunks, streams]: elements that equal `middle`
  unsigned long long* candidates;  // [streams, room]: distance from the first magnitude << index_bits | number of the element
  unsigned long long room;
  int index_bits;
  bool largest;                    // whether the largest are taken, or the smallest
};

/// Number of a tile's row in the tensor, for values that ask for it.
template <class F, int Most>
__device__ index_t row_of_tile(sampled_arguments<F, Most> const& a, index_t tile) noexcept {
  return F::by_row ? static_cast<index_t>(static_cast<std::uint32_t>(tile) / a.of_row) : index_t{0};
}

/// The bits of the magnitude of one value of one element.
template <class F, int Most>
__device__ std::uint32_t key_at(sampled_arguments<F, Most> const& a, int value, index_t element) noexcept {
  auto const at = [element](device_input const& input) { return widen_element(input.data + element * bytes_of(input.type), input.type); };
  float const p = at(a.in.base);
  float x[Most];
  if constexpr (F::of_one_model) {
    return magnitude_key(at(a.in.models[value]) - p);
  } else {
#pragma unroll
    for (int i = 0; i < Most; ++i) { x[i] = i < a.in.count ? at(a.in.models[i]) - p : 0.0f; }
    return magnitude_key(a.f.value(value, static_cast<float const*>(x), a.in.count, row_of_tile(a, element / tile_elements), index_t{0}));
  }
}

struct sample_room {
  std::uint32_t of_warps[32 * 3];
  std::uint32_t found[6];
  std::uint32_t counts[3 * sample_bins];
};

/// A block takes a stream, and the order statistics of its sample.
template <class F, int Most>
BRAID_KERNEL void __launch_bounds__(sample_threads) sample_kernel(__grid_constant__ sampled_arguments<F, Most> const a) {
  BRAID_BLOCK_OBJECT(sample_room, own);
  auto const number = static_cast<int>(blockIdx.x % static_cast<unsigned>(F::values(a.in.count)));
  unsigned long long const wanted = a.wanted[blockIdx.x];
  constexpr std::uint32_t tiles = sample_threads * sample_tiles;
  constexpr std::uint32_t samples = tiles * tile_elements;
  index_t const stride = a.in.cols / tile_elements / tiles;
  std::uint32_t key[sample_tiles][tile_elements];
#pragma unroll
  for (int k = 0; k < sample_tiles; ++k) {
    std::uint32_t const place = static_cast<std::uint32_t>(k) * sample_threads + threadIdx.x;
    index_t const tile = place * stride + static_cast<index_t>((place * 0x9E3779B1u >> 8) % static_cast<std::uint32_t>(stride));
    auto const load = [tile](device_input const& input, float (&x)[tile_elements]) {
      raw_tile raw;
      load_raw<tile_layout::together>(input.data + tile * tile_elements * bytes_of(input.type), input.type, raw);
      widen_tile(raw, input.type, x);
    };
    float p[tile_elements];
    load(a.in.base, p);
    if constexpr (F::of_one_model) {
      float x[tile_elements];
      load(a.in.models[number], x);
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { key[k][j] = magnitude_key(x[j] - p[j]); }
    } else {
      float x[Most][tile_elements];
#pragma unroll
      for (int i = 0; i < Most; ++i) {
        if (i < a.in.count) { load(a.in.models[i], x[i]); }
      }
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) {
        float one[Most];
#pragma unroll
        for (int i = 0; i < Most; ++i) { one[i] = i < a.in.count ? x[i][j] - p[j] : 0.0f; }
        key[k][j] = magnitude_key(a.f.value(number, static_cast<float const*>(one), a.in.count, row_of_tile(a, tile), index_t{0}));
      }
    }
  }
  // Ranks from the top.
  double share = static_cast<double>(wanted) / static_cast<double>(a.in.cols);
  if constexpr (F::shares) {
    if (threadIdx.x == 0) { own.found[0] = 0; }
    __syncthreads();
    std::uint32_t zeros = 0;
#pragma unroll
    for (int k = 0; k < sample_tiles; ++k) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { zeros += key[k][j] == 0 ? 1u : 0u; }
    }
    zeros = __reduce_add_sync(0xFFFFFFFFu, zeros);
    if (threadIdx.x % 32 == 0) { atomicAdd(&own.found[0], zeros); }
    __syncthreads();
    share = static_cast<double>(a.share) * (1.0 - static_cast<double>(own.found[0]) / samples);
  }
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
    for (unsigned i = threadIdx.x; i < 3 * sample_bins; i += sample_threads) { own.counts[i] = 0; }
    // Ranks whose values agree so far share their counts.
    unsigned counts_of[3] = {0, 1, 2};
    counts_of[1] = value[1] == value[0] ? 0 : 1;
    counts_of[2] = value[2] == value[1] ? counts_of[1] : 2;
    auto const count_in = [&](unsigned r, std::uint32_t bin) {
      return pass == 0 ? own.counts[bin] + own.counts[sample_bins + bin] + own.counts[2 * sample_bins + bin] : own.counts[counts_of[r] * sample_bins + bin];
    };
    __syncthreads();
#pragma unroll
    for (int k = 0; k < sample_tiles; ++k) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) {
        std::uint32_t const bin = key[k][j] >> shift & ((1u << bits) - 1u);
        if (pass == 0) {
          atomicAdd(&own.counts[threadIdx.x % 3 * sample_bins + bin], 1u);  // neighbours have the same magnitude often
          continue;
        }
#pragma unroll
        for (unsigned r = 0; r < 3; ++r) {
          if (counts_of[r] == r && key[k][j] >> (shift + bits) == value[r]) { atomicAdd(&own.counts[r * sample_bins + bin], 1u); }
        }
      }
    }
    __syncthreads();
    // Each thread has two bins, the first one the highest.
    std::uint32_t const top = sample_bins - 1u - 2u * threadIdx.x;
    std::uint32_t sum[3];
#pragma unroll
    for (unsigned r = 0; r < 3; ++r) {
      sum[r] = count_in(r, top) + count_in(r, top - 1);
#pragma unroll
      for (unsigned step = 1; step < 32; step *= 2) {
        std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, sum[r], step);
        if (threadIdx.x % 32 >= step) { sum[r] += lower; }
      }
      if (threadIdx.x % 32 == 31) { own.of_warps[r * 32 + threadIdx.x / 32] = sum[r]; }
    }
    __syncthreads();
#pragma unroll
    for (unsigned r = 0; r < 3; ++r) {
      std::uint32_t const upper = count_in(r, top);
      std::uint32_t const both = upper + count_in(r, top - 1);
      std::uint32_t above = sum[r] - both;
      for (unsigned w = 0; w < threadIdx.x / 32; ++w) { above += own.of_warps[r * 32 + w]; }
      if (above < left[r] && left[r] <= above + both) {
        bool const first = left[r] <= above + upper;
        own.found[r] = first ? top : top - 1;
        own.found[3 + r] = first ? above : above + upper;
      }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 3; ++r) {
      value[r] = value[r] << bits | own.found[r];
      left[r] -= own.found[3 + r];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    constexpr std::uint32_t infinite = 0x7F800000u;
    std::uint32_t const low = ranks[0] > samples ? 0u : value[0];
    std::uint32_t const high = ranks[2] < 1.0 ? infinite : value[2];
    sampled_stream stream{};
    // Which of equal zeros are taken makes no difference to anyone, so they aren't kept as candidates.
    stream.reaches_zero = low == 0 && value[1] != 0;
    stream.low = low == 0 && high != 0 ? 1u : low;
    stream.middle = value[1];
    stream.high = high;
    if (!F::shares && (wanted == 0 || wanted >= static_cast<unsigned long long>(a.in.cols))) { stream.low = stream.middle = stream.high = infinite; }
    a.streams[blockIdx.x] = stream;
  }
}

/// What a block of the kernel below counts, and which elements it finds between.
template <int Values, int Cuts>
struct chunk_counts {
  static constexpr unsigned streams = Values * Cuts;
  static constexpr unsigned room = Values * chunk_candidates / Cuts;  // of each cut
  std::uint16_t kept[Cuts][room];                                     // value x sampled_chunk + number in the chunk
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

/// A block takes a chunk of the elements of all models.
/// Usual: all are bfloat16.
template <int N, int Cuts, bool Usual, class F, int Most>
BRAID_KERNEL void __launch_bounds__(256) count_around_kernel(__grid_constant__ sampled_arguments<F, Most> const a) {
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
  __syncthreads();
  float low[streams];
  float high[streams];
  float middle[streams];
  float beyond[streams];
  float equal[streams];
#pragma unroll
  for (unsigned s = 0; s < streams; ++s) {
    low[s] = __uint_as_float(a.streams[s].low);
    high[s] = __uint_as_float(a.streams[s].high);
    middle[s] = __uint_as_float(a.streams[s].middle);
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
            ptx::place_in_bracket(value, low[s], middle[s], high[s], equal[s], beyond[s], inside[c], 1u << (v * tile_elements + j));
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
  auto const number = blockIdx.x;
  auto const value = static_cast<int>(number % static_cast<unsigned>(F::values(a.in.count)));
  sampled_stream& stream = a.streams[number];
  auto const total = static_cast<unsigned long long>(a.in.cols);
  unsigned long long const wanted =
      F::shares ? static_cast<unsigned long long>(static_cast<float>(total - stream.zeros) * a.share) : a.wanted[number];
  unsigned long long const before = a.largest ? stream.above : total - stream.above - stream.equal - stream.candidates;
  unsigned long long const first = a.largest ? stream.larger : stream.candidates - stream.larger;
  bool const beyond = wanted > before + stream.equal + stream.candidates;
  if (stream.overflow || wanted <= before || beyond) {
    if (!F::shares && threadIdx.x == 0 && !stream.overflow && stream.reaches_zero && beyond == a.largest) {
      stream.cut = {0, a.in.cols};
      stream.state = sampled_stream::found;
    }
    return;
  }
  unsigned long long const rank = wanted - before;
  if (rank <= first || rank > first + stream.equal) {
    if (threadIdx.x == 0) {
      stream.state = sampled_stream::among_candidates;
      stream.rank = rank <= first ? rank : rank - stream.equal;
      stream.prefix = 0;
      stream.left = a.index_bits + 32 - __clz(static_cast<int>(stream.high - stream.low));
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
    if (threadIdx.x % 32 == 31) { shared.of_warps[threadIdx.x / 32] = sum; }
    __syncthreads();
    std::uint32_t ahead = 0;
    for (unsigned w = 0; w < threadIdx.x / 32; ++w) { ahead += shared.of_warps[w]; }
    sum_before = ahead + sum - mine;
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
    stream.cut = {bits, from + __ffs(static_cast<int>(mask)) - 1 + a.in.first_col};
    stream.state = sampled_stream::found;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
