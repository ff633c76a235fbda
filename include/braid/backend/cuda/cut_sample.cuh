#pragma once

/// The sample that selection begins with (sampled_kernel.cuh): between which magnitudes cuts lie almost surely.

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

/// The same for the host, in its own memory.
struct sampled_result {
  sampled_stream::state_type state;
  magnitude_cut cut;
};

inline constexpr int sample_threads = 1024;
inline constexpr unsigned sample_bins = 2 * sample_threads;
inline constexpr int sample_blocks = 8;  // a cut
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
  sampled_result* results;         // [cuts, values]: all `missed` before; or null
  std::uint32_t* equals;           // [chunks, streams]: elements that equal `middle`
  unsigned long long* candidates;  // [streams, room]: distance from the first magnitude << index_bits | number of the element
  unsigned long long room;
  int index_bits;
  bool largest;                    // whether the largest are taken, or the smallest
};

/// Tiles of a thread. A larger sample takes longer, and leaves fewer elements between; where these are of one model and one cut,
/// they are few.
template <class F>
constexpr int sample_tiles(int cuts) noexcept {
  return F::of_one_model && cuts == 1 ? 1 : 2;
}
inline constexpr int most_sample_tiles = 2;

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

/// Of a block. Bins are of all magnitudes' first 11 bits, then, of those that begin as a rank's value does, of 10 bits each.
struct sample_room {
  std::uint32_t of_warps[32 * 3];
  std::uint32_t found[6];
  std::uint32_t zeros;
  std::uint32_t counts[3 * sample_bins];      // of this block; first three counters a bin, then the bins of three ranks
  std::uint32_t total[3 * sample_bins / 2];  // of the cluster
};

/// A cluster of blocks takes a stream, and finds order statistics of its sample.
template <int Blocks, int Tiles, class F, int Most>
BRAID_KERNEL void __launch_bounds__(sample_threads) sample_kernel(__grid_constant__ sampled_arguments<F, Most> const a) {
  BRAID_BLOCK_OBJECT(sample_room, own);
  ptx::let_next_start();
  std::uint32_t const rank_of_block = ptx::cluster_rank();
  unsigned const stream_number = blockIdx.x / Blocks;
  auto const number = static_cast<int>(stream_number % static_cast<unsigned>(F::values(a.in.count)));
  unsigned long long const wanted = a.wanted[stream_number];
  constexpr std::uint32_t tiles = Blocks * sample_threads * Tiles;
  constexpr std::uint32_t samples = tiles * tile_elements;
  index_t const stride = a.in.cols / tile_elements / tiles;
  std::uint32_t key[Tiles][tile_elements];
#pragma unroll
  for (int k = 0; k < Tiles; ++k) {
    std::uint32_t const place = (static_cast<std::uint32_t>(k) * Blocks + rank_of_block) * sample_threads + threadIdx.x;
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
    if (threadIdx.x == 0) { own.zeros = 0; }
    __syncthreads();
    std::uint32_t zeros = 0;
#pragma unroll
    for (int k = 0; k < Tiles; ++k) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { zeros += key[k][j] == 0 ? 1u : 0u; }
    }
    zeros = __reduce_add_sync(0xFFFFFFFFu, zeros);
    if (threadIdx.x % 32 == 0) { atomicAdd(&own.zeros, zeros); }
    ptx::cluster_arrive();
    ptx::cluster_wait();
    std::uint32_t all_zeros = 0;
    for (std::uint32_t b = 0; b < Blocks; ++b) { all_zeros += ptx::load_from_cluster(&own.zeros, b); }
    share = static_cast<double>(a.share) * (1.0 - static_cast<double>(all_zeros) / samples);
  }
  double const q = a.largest ? share : 1.0 - share;
  double const margin = 4.0 * ::sqrt(samples * q * (1.0 - q)) + 2.0;  // what is missed is found by slower passes
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
    constexpr std::uint32_t later_bins = sample_bins / 2;
    auto const count_in = [&](unsigned r, std::uint32_t bin) {
      return pass == 0 ? own.total[bin] : bin < later_bins ? own.total[counts_of[r] * later_bins + bin] : 0u;
    };
    __syncthreads();
#pragma unroll
    for (int k = 0; k < Tiles; ++k) {
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
    ptx::cluster_arrive();
    ptx::cluster_wait();
    // Each block adds up its share of the bins, for all.
    std::uint32_t const bins = (pass == 0 ? sample_bins : 3 * later_bins) / Blocks;
    for (std::uint32_t k = threadIdx.x; k < bins; k += sample_threads) {
      std::uint32_t const bin = rank_of_block * bins + k;
      std::uint32_t total = 0;
#pragma unroll
      for (std::uint32_t b = 0; b < Blocks; ++b) {
        if (pass == 0) {
#pragma unroll
          for (std::uint32_t copy = 0; copy < 3; ++copy) { total += ptx::load_from_cluster(&own.counts[copy * sample_bins + bin], b); }
        } else {
          total += ptx::load_from_cluster(&own.counts[bin / later_bins * sample_bins + bin % later_bins], b);
        }
      }
#pragma unroll
      for (std::uint32_t b = 0; b < Blocks; ++b) { ptx::store_in_cluster(&own.total[bin], b, total); }
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();
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
      std::uint32_t const of_warp = own.of_warps[r * 32 + threadIdx.x % 32];
      std::uint32_t const above = __reduce_add_sync(0xFFFFFFFFu, threadIdx.x % 32 < threadIdx.x / 32 ? of_warp : 0u) + sum[r] - both;
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
  if (threadIdx.x == 0 && rank_of_block == 0) {
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
    a.streams[stream_number] = stream;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
