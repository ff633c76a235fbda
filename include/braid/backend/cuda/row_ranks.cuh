#pragma once

/// Ranks of the magnitudes of a row's deltas, for rows that fit a block's shared memory.

#include <braid/backend/cuda/element_inputs.cuh>
#include <braid/backend/cuda/equal_places.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int rank_threads = 512;
inline constexpr int rank_digits = 16;  // of 4 bits

/// Bytes of shared memory that a block takes; `Items` elements a thread.
template <int Items>
constexpr std::size_t rank_memory() noexcept {
  return static_cast<std::size_t>(rank_threads) * (Items * 6 + rank_digits * 2) + 128;
}

/// Where ranks go, twice: ranks[row, column].
struct rank_writer {
  std::uint32_t* ranks;
  index_t cols;
  std::uint32_t count;

  __device__ std::uint32_t rows() const noexcept { return count; }
  __device__ index_t row(std::uint32_t i) const noexcept { return i; }
  __device__ void operator()(index_t row, index_t col, std::uint32_t twice) const noexcept { ranks[row * cols + col] = twice; }
};

/// Not inlined: one code for all of a thread's elements.
__device__ __noinline__ inline std::uint32_t twice_place_of(std::uint32_t const* keys, int n, int i) noexcept {
  return static_cast<std::uint32_t>(twice_mean_place(keys, n, i));
}

/// write(row, column, twice the rank): ascending; equal magnitudes share the mean of their ranks. A radix sort of 4 bits a pass; a
/// thread has a run of `Items` elements, an odd number, so that the threads of a warp meet different banks.
template <int Items, class Writer>
__device__ void rank_row(device_input const& base, device_input const& model, index_t columns, index_t row, std::byte* memory, Writer const& write) {
  static_assert(Items % 2 == 1);
  constexpr int most = rank_threads * Items;
  auto* const keys = reinterpret_cast<std::uint32_t*>(memory);
  auto* const numbers = reinterpret_cast<std::uint16_t*>(keys + most);
  auto* const counts = numbers + most;  // [digit, thread]
  auto* const of_warps = reinterpret_cast<std::uint32_t*>(counts + rank_digits * rank_threads);
  auto const cols = static_cast<int>(columns);
  int const thread = static_cast<int>(threadIdx.x);
  std::byte const* const from = model.data + row * model.stride;
  std::byte const* const from_base = base.data + row * base.stride;
  std::uint32_t any = 0;
  std::uint32_t all = ~0u;
  for (int c = thread; c < cols; c += rank_threads) {
    float const x = widen_element(from + c * bytes_of(model.type), model.type) - widen_element(from_base + c * bytes_of(base.type), base.type);
    std::uint32_t const key = __float_as_uint(x) & 0x7FFFFFFFu;
    keys[c] = key;
    numbers[c] = static_cast<std::uint16_t>(c);
    any |= key;
    all &= key;
  }
  for (int i = cols + thread; i < most; i += rank_threads) { keys[i] = 0xFFFFFFFFu; }  // behind everything, and stays there
  // Digits in which all keys agree need no pass.
  for (int step = 16; step > 0; step /= 2) {
    any |= __shfl_xor_sync(0xFFFFFFFFu, any, step);
    all &= __shfl_xor_sync(0xFFFFFFFFu, all, step);
  }
  if (thread % 32 == 0) {
    of_warps[thread / 32] = any;
    of_warps[16 + thread / 32] = all;
  }
  __syncthreads();
  any = 0;
  all = ~0u;
  for (int w = 0; w < rank_threads / 32; ++w) {
    any |= of_warps[w];
    all &= of_warps[16 + w];
  }
  std::uint32_t const differs = any & ~all;
  int const begin = thread * Items;
  for (int shift = 0; shift < 32; shift += 4) {
    if ((differs >> shift & 15u) == 0) { continue; }
    std::uint32_t key[Items];
    std::uint32_t number[Items];
    std::uint32_t place[Items];
    __syncthreads();
#pragma unroll
    for (int d = 0; d < rank_digits; ++d) { counts[d * rank_threads + thread] = 0; }
#pragma unroll
    for (int k = 0; k < Items; ++k) {
      key[k] = keys[begin + k];
      number[k] = numbers[begin + k];
    }
#pragma unroll
    for (int k = 0; k < Items; ++k) {
      std::uint16_t& count = counts[static_cast<int>(key[k] >> shift & 15u) * rank_threads + thread];
      place[k] = count;
      count = static_cast<std::uint16_t>(place[k] + 1u);
    }
    __syncthreads();
    // Counts become places: by digit, then by thread. Each thread sums 16 neighbours of the list.
    std::uint16_t* const mine = counts + thread * rank_digits;
    std::uint32_t here[rank_digits];
    std::uint32_t sum = 0;
    for (int k = 0; k < rank_digits; ++k) {
      here[k] = mine[k];
      sum += here[k];
    }
    std::uint32_t up_to = sum;
    for (unsigned step = 1; step < 32; step *= 2) {
      std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, up_to, step);
      if (threadIdx.x % 32 >= step) { up_to += lower; }
    }
    if (thread % 32 == 31) { of_warps[thread / 32] = up_to; }
    __syncthreads();
    std::uint32_t at = up_to - sum;
    for (int w = 0; w < thread / 32; ++w) { at += of_warps[w]; }
    for (int k = 0; k < rank_digits; ++k) {
      mine[k] = static_cast<std::uint16_t>(at);
      at += here[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < Items; ++k) {
      std::uint32_t const to = place[k] + counts[static_cast<int>(key[k] >> shift & 15u) * rank_threads + thread];
      keys[to] = key[k];
      numbers[to] = static_cast<std::uint16_t>(number[k]);
    }
  }
  __syncthreads();
  // From places to columns: ranks take the keys' room.
  std::uint32_t twice[Items];
#pragma unroll
  for (int k = 0; k < Items; ++k) {
    int const i = thread + k * rank_threads;
    twice[k] = i < cols ? twice_place_of(keys, cols, i) : 0u;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < Items; ++k) {
    int const i = thread + k * rank_threads;
    if (i < cols) { keys[numbers[i]] = twice[k]; }
  }
  __syncthreads();
  for (int c = thread; c < cols; c += rank_threads) { write(row, c, keys[c]); }
}

/// Blocks share the rows that `write` names.
template <int Items, class Writer>
BRAID_KERNEL void __launch_bounds__(rank_threads) rank_row_kernel(device_input base, device_input model, index_t columns, __grid_constant__ Writer const write) {
  BRAID_BLOCK_MEMORY(memory);
  std::uint32_t const rows = write.rows();
  for (std::uint32_t i = blockIdx.x; i < rows; i += gridDim.x) {
    index_t const row = write.row(i);
    if (row < 0) { continue; }  // for all threads
    rank_row<Items>(base, model, columns, row, memory, write);
    __syncthreads();
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
