#pragma once

/// The kernels that prune rows by rank.

#include <braid/backend/cuda/rank_codes.cuh>
#include <braid/backend/cuda/ranked_row.cuh>
#include <braid/backend/cuda/row_ranks.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Rows of bfloat16, from multiples of 16 bytes on. Leaves rows with NaN or infinity, and those that list too many.
template <int N, class Plan, class Out>
BRAID_KERNEL void __launch_bounds__(1024, 1) ranked_kernel(__grid_constant__ ranked_arguments<N, Plan, Out> const a) {
  BRAID_BLOCK_MEMORY(memory);
  ranked_row<N, Plan, Out> const one(a, memory);
  auto const clear = [](row_counters& of) {
#pragma unroll
    for (int m = 0; m < 4; ++m) { of.most[m] = of.span[m] = 0; }
    of.tiles = of.further = of.bins = 0;
  };
  for (std::uint32_t t = threadIdx.x; t < one.tiles; t += blockDim.x) { one.fetch(blockIdx.x, t); }
  ptx::close_copies();
  if (threadIdx.x == 0) { clear(one.room.counters[0]); }
  __syncthreads();
  std::uint32_t turn = 0;
  for (index_t row = blockIdx.x; row < a.rows; row += gridDim.x, turn ^= 1u) {
    row_counters& of = one.room.counters[turn];
    index_t const next = row + gridDim.x;
    ptx::wait_for_all_but<0>();
    one.measure(of);
    __syncthreads();  // the tables of the row before have been read
    one.clear_bins();
    if (threadIdx.x == 0) { clear(one.room.counters[turn ^ 1u]); }
    __syncthreads();
    one.count(of);
    __syncthreads();
    if (of.tiles != 0) {
      one.list(of);
      __syncthreads();
    }
    bool finite = true;
#pragma unroll
    for (int m = 0; m < N; ++m) { finite = finite && of.most[m] < 0x7F80u; }
    bool const fits = of.tiles + of.further <= one.room.list_words;
    if (!finite || !fits) {  // for all threads
      if (threadIdx.x == 0) {
        if (!finite && a.first_bad != nullptr) { atomicMin(a.first_bad, static_cast<unsigned long long>(a.first + row)); }
        constexpr std::uint32_t of_row = Out::merges ? 1u : N;
        std::uint32_t const at = 1u + atomicAdd(a.left, of_row);
        for (std::uint32_t m = 0; m < of_row; ++m) { a.left[at + m] = static_cast<std::uint32_t>(row) * of_row + m; }
      }
      for (std::uint32_t t = threadIdx.x; t < one.tiles && next < a.rows; t += blockDim.x) { one.fetch(next, t); }
      ptx::close_copies();
      continue;
    }
    one.add_up(of);
    __syncthreads();
    if (of.tiles != 0) {
      one.rank_listed(of);
      __syncthreads();
    }
    one.enter(of);
    __syncthreads();
    if constexpr (Out::merges) {
      one.merge(row, next);
    } else {
      one.decide(row, next);
    }
  }
}

/// The rows that the kernel above leaves of a merge, an element a thread.
/// @param ranks  [blocks, models, cols]: room
template <int N, int Items, class Plan, class F>
BRAID_KERNEL void __launch_bounds__(rank_threads)
left_rows_kernel(__grid_constant__ ranked_arguments<N, Plan, ranked_join<F>> const a, std::uint32_t* ranks) {
  BRAID_BLOCK_MEMORY(memory);
  std::uint32_t const rows = *a.left;
  std::uint32_t* const own = ranks + static_cast<index_t>(blockIdx.x) * N * a.cols;
  for (std::uint32_t i = blockIdx.x; i < rows; i += gridDim.x) {
    index_t const row = a.left[1 + i];
    for (int m = 0; m < N; ++m) {
      auto const write = [own, m, &a](index_t, index_t col, std::uint32_t twice) { own[m * a.cols + col] = twice; };
      rank_row<Items>(a.base, a.models[m], a.cols, row, memory, write);
      __syncthreads();
    }
    index_t const channel = a.first + row;
    for (index_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
      auto const value = [row, c](device_input const& from) { return widen_element(from.data + row * from.stride + c * 2, dtype::bf16); };
      float const base = value(a.base);
      float x[N];
#pragma unroll
      for (int m = 0; m < N; ++m) {
        std::uint32_t const twice = own[m * a.cols + c];
        std::uint32_t const number = philox_element(a.plans[m].seed, a.plans[m].stream, static_cast<std::uint64_t>(channel * a.cols + c));
        x[m] = number < a.plans[m].threshold(twice) ? a.plans[m].survivor(value(a.models[m]) - base, twice) : 0.0f;
        if (a.out.f.scales) { x[m] = x[m] * a.out.f.factor[m]; }
      }
      narrow_element(a.out.f(base, static_cast<float const*>(x), N, channel, c), a.out.to + (row * a.cols + c) * 2, dtype::bf16);
    }
    __syncthreads();
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
