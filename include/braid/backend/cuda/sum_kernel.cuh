#pragma once

/// Sums over rows in the one order of sums (core/sum_order.hpp). Eight threads take a segment, each of them two of its lanes,
/// so that the order costs nothing; then a thread adds a row's segments.

#include <braid/backend/cuda/map_kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int segment_threads = 8;

/// What the kernels are told, by value. `F` offers
///   sums(n)                           how many sums there are with n models
///   f.add<N>(place, tile, sum)        adds a tile's terms to sum[sums(N)][2]: element j to lane j % 2
///   f.add_one(x, n, row, col, sum)    adds an element's terms to sum[sums(n)]; x may be overwritten
template <class F, int Most>
struct sum_arguments {
  element_inputs<Most> in;
  std::uint32_t segments;  // of a row
  index_t items;           // segments of all rows
  float* partial;          // [rows, segments, sums]
  F f;
};

template <int N, class F, int Most>
BRAID_KERNEL void __launch_bounds__(128) segment_sums_kernel(__grid_constant__ sum_arguments<F, Most> const a) {
  constexpr tile_layout layout = tile_layout::spread;
  constexpr int sums = F::sums(N);
  int const thread = static_cast<int>(threadIdx.x) % segment_threads;
  index_t const item = (static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x) / segment_threads;
  bool const any = item < a.items;  // all threads of a warp meet at the shuffles
  index_t const row = any ? static_cast<index_t>(static_cast<std::uint32_t>(item) / a.segments) : 0;
  index_t const begin = (item - row * a.segments) * sum_order::segment;
  float sum[sums][2];
#pragma unroll
  for (int s = 0; s < sums; ++s) {
    sum[s][0] = 0.0f;
    sum[s][1] = 0.0f;
  }
#pragma unroll 1
  for (int group = 0; any && group < sum_order::segment / 64; ++group) {
    index_t const col = begin + group * 64 + thread * 2;
    if (col >= a.in.cols) { break; }
    bool const whole = a.in.whole && col + tile_column<layout>(tile_elements - 1) < a.in.cols;
    element_tile<N> tile;
    load_elements<N, layout>(a.in, row, col, whole, tile);
    if (a.in.check) { check_elements(a.in, row, col, tile); }
    a.f.template add<N>(place_of(a.in, row, col, whole), tile, sum);
  }
#pragma unroll
  for (int s = 0; s < sums; ++s) {
#pragma unroll
    for (int step = segment_threads / 2; step > 0; step /= 2) {
      sum[s][0] = sum[s][0] + __shfl_xor_sync(0xFFFFFFFFu, sum[s][0], step);
      sum[s][1] = sum[s][1] + __shfl_xor_sync(0xFFFFFFFFu, sum[s][1], step);
    }
    if (any && s % segment_threads == thread) { a.partial[item * sums + s] = sum[s][0] + sum[s][1]; }
  }
}

/// The same for any number of models: a thread takes a lane, in shared memory a float a thread for each model and each sum.
template <class F, int Most>
BRAID_KERNEL void segment_sums_many_kernel(__grid_constant__ sum_arguments<F, Most> const a) {
  BRAID_BLOCK_MEMORY(memory);
  int const n = a.in.count;
  int const sums = F::sums(n);
  float* const x = reinterpret_cast<float*>(memory) + static_cast<unsigned>(n + sums) * threadIdx.x;
  float* const sum = x + n;
  auto const lane = static_cast<index_t>(threadIdx.x) % sum_order::lanes;
  index_t const item = (static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x) / sum_order::lanes;
  bool const any = item < a.items;
  index_t const row = any ? static_cast<index_t>(static_cast<std::uint32_t>(item) / a.segments) : 0;
  index_t const begin = (item - row * a.segments) * sum_order::segment;
  index_t const end = begin + sum_order::segment < a.in.cols ? begin + sum_order::segment : a.in.cols;
  for (int s = 0; s < sums; ++s) { sum[s] = 0.0f; }
  for (index_t col = begin + lane; any && col < end; col += sum_order::lanes) {
    auto const at = [row, col](device_input const& input) { return input.data + row * input.stride + col * bytes_of(input.type); };
    float const base = a.in.has_base ? widen_element(at(a.in.base), a.in.base.type) : 0.0f;
    float zero = base * 0.0f;
    for (int i = 0; i < n; ++i) {
      float value = widen_element(at(a.in.models[i]), a.in.models[i].type);
      if (a.in.deltas) { value = value - base; }
      zero = ptx::fused(value, 0.0f, zero);
      x[i] = value;
    }
    if (a.in.check && zero != zero) { atomicMin(a.in.first_bad, static_cast<unsigned long long>(a.in.first + row)); }
    a.f.add_one(x, n, row + a.in.first_row, col + a.in.first_col, sum);
  }
  for (int s = 0; s < sums; ++s) {
    float total = sum[s];
    for (int step = sum_order::lanes / 2; step > 0; step /= 2) { total = total + __shfl_xor_sync(0xFFFFFFFFu, total, step); }
    if (any && lane == 0) { a.partial[item * sums + s] = total; }
  }
}

/// rows[row, sum] = the row's segments, from the left.
[[maybe_unused]] BRAID_KERNEL void add_segments_kernel(float const* partial, index_t count, std::uint32_t segments, std::uint32_t sums, float* rows) {
  index_t const i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) { return; }
  index_t const row = i / sums;
  float const* from = partial + row * segments * sums + i % sums;
  float total = 0.0f;
  for (std::uint32_t s = 0; s < segments; ++s, from += sums) { total = total + *from; }
  rows[i] = total;
}

/// Terms of the Gram matrix: its lower triangle.
struct gram_sum {
  BRAID_HD static constexpr int sums(int n) noexcept { return n * (n + 1) / 2; }

  template <int N>
  __device__ void add(tile_place const&, element_tile<N> const& tile, float (&sum)[N * (N + 1) / 2][2]) const noexcept {
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) {
#pragma unroll
      for (int a = 0; a < N; ++a) {
#pragma unroll
        for (int b = 0; b <= a; ++b) { sum[tile_pair(a, b)][j % 2] = sum[tile_pair(a, b)][j % 2] + tile.x[a][j] * tile.x[b][j]; }
      }
    }
  }
  __device__ void add_one(float const* x, int n, index_t, index_t, float* sum) const noexcept {
    for (int a = 0; a < n; ++a) {
      for (int b = 0; b <= a; ++b) { sum[tile_pair(a, b)] = sum[tile_pair(a, b)] + x[a] * x[b]; }
    }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
