#pragma once

/// Counts of magnitudes, for selections without a sort.

#include <braid/backend/cuda/map_kernel.cuh>
#include <braid/backend/cuda/method_functions.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Bits of magnitudes that a pass tells apart, at most.
inline constexpr int count_bits = 11;
inline constexpr unsigned count_bins = 1u << count_bits;
inline constexpr int most_count_streams = 4;

/// What the kernels are told, by value. `F` gives values, several streams of them:
///   streams(n)                       how many with n models
///   f.value(stream, x, n, row, col)
template <class F, int Most>
struct count_arguments {
  element_inputs<Most> in;
  index_t tiles;
  std::uint32_t of_row;
  int shift;
  int bits;
  std::uint32_t prefix[most_count_streams];
  unsigned long long* counts;  // [streams, bins], then [streams] of zeros
  F f;
};

BRAID_HD inline std::uint32_t magnitude_key(float x) noexcept { return bits_as<std::uint32_t>(x) & 0x7FFFFFFFu; }

/// Adds what the block has counted in shared memory to the counts.
__device__ inline void give_counts(std::uint32_t const* bins, unsigned size, unsigned long long* counts) noexcept {
  __syncthreads();
  for (unsigned b = threadIdx.x; b < size; b += blockDim.x) {
    if (bins[b] != 0) { atomicAdd(&counts[b], static_cast<unsigned long long>(bins[b])); }
  }
}

/// counts[stream, bin] += values whose magnitude's bits begin with the stream's prefix, by the `bits` bits above `shift`.
template <int N, class F, int Most>
BRAID_KERNEL void __launch_bounds__(256) count_kernel(__grid_constant__ count_arguments<F, Most> const a) {
  BRAID_BLOCK_MEMORY(memory);
  auto* const bins = reinterpret_cast<std::uint32_t*>(memory);
  constexpr int streams = F::streams(N);
  constexpr unsigned size = streams * (count_bins + 1);
  for (unsigned b = threadIdx.x; b < size; b += blockDim.x) { bins[b] = 0; }
  __syncthreads();
  constexpr tile_layout layout = tile_layout::together;
  std::uint32_t const mask = (1u << a.bits) - 1u;
  std::uint32_t zeros[streams];
#pragma unroll
  for (int s = 0; s < streams; ++s) { zeros[s] = 0; }
  index_t const step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t t = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; t < a.tiles; t += step) {
    index_t const row = a.in.rows > 1 ? static_cast<std::uint32_t>(t) / a.of_row : 0;
    index_t const col = tile_begin<layout>(t - row * a.of_row);
    bool const whole = a.in.whole && col + tile_elements <= a.in.cols;
    element_tile<N> tile;
    load_elements<N, layout>(a.in, row, col, whole, tile);
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) {
      if (!whole && col + j >= a.in.cols) { continue; }
      float one[N];
#pragma unroll
      for (int i = 0; i < N; ++i) { one[i] = tile.x[i][j]; }
#pragma unroll
      for (int s = 0; s < streams; ++s) {
        std::uint32_t const key = magnitude_key(a.f.value(s, static_cast<float const*>(one), N, row + a.in.first_row, col + a.in.first_col + j));
        zeros[s] += key == 0 ? 1u : 0u;
        if (static_cast<std::uint64_t>(key) >> (a.shift + a.bits) == a.prefix[s]) {
          atomicAdd(&bins[static_cast<unsigned>(s) * count_bins + (key >> a.shift & mask)], 1u);
        }
      }
    }
  }
#pragma unroll
  for (int s = 0; s < streams; ++s) {
    if (zeros[s] != 0) { atomicAdd(&bins[streams * count_bins + static_cast<unsigned>(s)], zeros[s]); }
  }
  give_counts(bins, size, a.counts);
}

/// The same for any number of models, an element a thread.
template <class F, int Most>
BRAID_KERNEL void count_many_kernel(__grid_constant__ count_arguments<F, Most> const a) {
  BRAID_BLOCK_MEMORY(memory);
  auto* const bins = reinterpret_cast<std::uint32_t*>(memory);
  int const n = a.in.count;
  auto const streams = static_cast<unsigned>(F::streams(n));
  unsigned const size = streams * (count_bins + 1);
  float* const x = reinterpret_cast<float*>(bins + size) + static_cast<unsigned>(n) * threadIdx.x;
  for (unsigned b = threadIdx.x; b < size; b += blockDim.x) { bins[b] = 0; }
  __syncthreads();
  index_t const step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t t = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; t < a.tiles; t += step) {
    index_t const row = a.in.rows > 1 ? t / a.in.cols : 0;
    index_t const col = t - row * a.in.cols;
    auto const at = [row, col](device_input const& input) { return input.data + row * input.stride + col * bytes_of(input.type); };
    float const base = a.in.has_base ? widen_element(at(a.in.base), a.in.base.type) : 0.0f;
    for (int i = 0; i < n; ++i) {
      float const value = widen_element(at(a.in.models[i]), a.in.models[i].type);
      x[i] = a.in.deltas ? value - base : value;
    }
    for (unsigned s = 0; s < streams; ++s) {
      std::uint32_t const key = magnitude_key(a.f.value(static_cast<int>(s), static_cast<float const*>(x), n, row + a.in.first_row, col + a.in.first_col));
      if (key == 0) { atomicAdd(&bins[streams * count_bins + s], 1u); }
      if (static_cast<std::uint64_t>(key) >> (a.shift + a.bits) == a.prefix[s]) {
        atomicAdd(&bins[s * count_bins + (key >> a.shift & ((1u << a.bits) - 1u))], 1u);
      }
    }
  }
  give_counts(bins, size, a.counts);
}

/// equals[row, stream] = values whose magnitude is the stream's `prefix`. A block takes a row.
template <class F, int Most>
BRAID_KERNEL void count_equals_kernel(__grid_constant__ count_arguments<F, Most> const a, std::uint32_t* equals) {
  BRAID_BLOCK_MEMORY(memory);
  auto* const counts = reinterpret_cast<std::uint32_t*>(memory);
  int const n = a.in.count;
  auto const streams = static_cast<unsigned>(F::streams(n));
  float* const x = reinterpret_cast<float*>(counts + most_count_streams) + static_cast<unsigned>(n) * threadIdx.x;
  if (threadIdx.x < streams) { counts[threadIdx.x] = 0; }
  __syncthreads();
  index_t const row = blockIdx.x;
  for (index_t col = threadIdx.x; col < a.in.cols; col += blockDim.x) {
    auto const at = [row, col](device_input const& input) { return input.data + row * input.stride + col * bytes_of(input.type); };
    float const base = a.in.has_base ? widen_element(at(a.in.base), a.in.base.type) : 0.0f;
    for (int i = 0; i < n; ++i) {
      float const value = widen_element(at(a.in.models[i]), a.in.models[i].type);
      x[i] = a.in.deltas ? value - base : value;
    }
    for (unsigned s = 0; s < streams; ++s) {
      std::uint32_t const key = magnitude_key(a.f.value(static_cast<int>(s), static_cast<float const*>(x), n, row + a.in.first_row, col));
      if (key == a.prefix[s]) { atomicAdd(&counts[s], 1u); }
    }
  }
  __syncthreads();
  if (threadIdx.x < streams) { equals[row * streams + threadIdx.x] = counts[threadIdx.x]; }
}

/// What functions of one value an element have in common, for selections by a sample.
struct one_value {
  static constexpr bool of_one_model = false;
  static constexpr bool shares = false;
  BRAID_HD static constexpr int values(int) noexcept { return 1; }
};

/// Stream i is the delta of model i.
struct delta_values {
  static constexpr bool of_one_model = true;
  static constexpr bool shares = false;
  BRAID_HD static constexpr int values(int n) noexcept { return n; }
  static constexpr int most = most_few_models;
  static constexpr bool by_row = false;
  BRAID_HD static constexpr int streams(int n) noexcept { return n; }
  BRAID_HD float value(int s, float const* x, int, index_t, index_t) const noexcept { return x[s]; }
};

/// The variance over models.
struct variance_values : one_value {
  static constexpr bool shares = true;
  static constexpr int most = most_few_models;
  static constexpr bool by_row = false;
  BRAID_HD static constexpr int streams(int) noexcept { return 1; }
  BRAID_HD float value(int, float const* x, int n, index_t, index_t) const noexcept { return variance_of(x, n); }
};

/// The importance of an element, three times, for three order statistics.
struct importance_values : one_value {
  static constexpr int most = 1;
  static constexpr bool by_row = true;
  float const* divergence;  // [channels]
  BRAID_HD static constexpr int streams(int) noexcept { return 3; }
  BRAID_HD float value(int, float const* x, int, index_t row, index_t) const noexcept { return importance_of(x[0], divergence[row]); }
};

}  // namespace detail
BRAID_NAMESPACE_END
