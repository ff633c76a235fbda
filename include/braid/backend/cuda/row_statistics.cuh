#pragma once

/// What policies that rank inside a row have to know, for rows of any length: one block of threads a row and expert.

#include <braid/backend/cuda/any_rows.cuh>
#include <braid/backend/cuda/equal_places.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One expert's delta of a channel, as bits of magnitudes.
struct magnitude_row {
  any_rows const* base_rows;
  any_rows const* expert_rows;
  std::byte const* base;
  std::byte const* expert;

  __device__ magnitude_row(any_rows const* models, int expert_number, index_t channel) noexcept
      : base_rows(models), expert_rows(models + 1 + expert_number), base(models->row(channel)), expert(expert_rows->row(channel)) {}
  __device__ std::uint32_t operator()(index_t c) const noexcept {
    return __float_as_uint(expert_rows->at(expert, c) - base_rows->at(base, c)) & 0x7FFFFFFFu;
  }
};

/// The bits of the magnitude of an expert's delta; rows are [channels, experts].
struct delta_magnitude {
  any_rows const* models;
  int experts;
  index_t first;

  BRAID_HD std::uint32_t operator()(index_t row, index_t col) const noexcept {
    index_t const channel = first + row / experts;
    any_rows const& expert = models[1 + row % experts];
    float const delta = expert.at(expert.row(channel), col) - models->at(models->row(channel), col);
    return bits_as<std::uint32_t>(delta) & 0x7FFFFFFFu;
  }
};

/// The threads' sum of `x`, and the sum of those of lower threads. 256 threads.
struct block_scan {
  std::uint32_t before;
  std::uint32_t total;
  __device__ block_scan(std::uint32_t x, std::uint32_t* room) noexcept {
    unsigned const lane = threadIdx.x % 32;
    std::uint32_t sum = x;
#pragma unroll
    for (unsigned step = 1; step < 32; step *= 2) {
      std::uint32_t const left = __shfl_up_sync(0xFFFFFFFFu, sum, step);
      if (lane >= step) { sum += left; }
    }
    if (lane == 31) { room[threadIdx.x / 32] = sum; }
    __syncthreads();
    std::uint32_t ahead = 0;
    total = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) {
      std::uint32_t const of_warp = room[w];
      ahead += w < threadIdx.x / 32 ? of_warp : 0;
      total += of_warp;
    }
    before = ahead + sum - x;
    __syncthreads();
  }
};

/// The cut of each row [channels, experts] that keeps `keep` elements, 0 < keep < cols, by radix selection on the bits.
template <class Rows>
BRAID_KERNEL void find_row_cuts(Rows const* models, int experts, index_t cols, index_t first, index_t keep, magnitude_cut* cuts) {
  __shared__ std::uint32_t bins[2048];
  __shared__ std::uint32_t room[8];
  __shared__ std::uint32_t found[2];
  auto const expert = static_cast<int>(blockIdx.x % static_cast<unsigned>(experts));
  magnitude_row const row(models, expert, first + blockIdx.x / static_cast<unsigned>(experts));
  std::uint32_t prefix = 0;
  auto wanted = static_cast<std::uint32_t>(keep);  // of those that begin with the prefix
  constexpr int shifts[3] = {20, 10, 0};
#pragma unroll
  for (int pass = 0; pass < 3; ++pass) {
    int const shift = shifts[pass];
    int const bits = pass == 0 ? 11 : 10;
    for (unsigned b = threadIdx.x; b < 2048; b += blockDim.x) { bins[b] = 0; }
    __syncthreads();
    for (index_t c = threadIdx.x; c < cols; c += blockDim.x) {
      std::uint32_t const key = row(c);
      if (pass == 0 || key >> (shift + bits) == prefix) { atomicAdd(&bins[key >> shift & ((1u << bits) - 1u)], 1u); }
    }
    __syncthreads();
    // From the highest bin down: each thread has 8 in a row.
    std::uint32_t mine = 0;
    unsigned const top = 2047u - threadIdx.x * 8u;
    for (unsigned b = 0; b < 8; ++b) { mine += bins[top - b]; }
    block_scan const scan(mine, room);
    std::uint32_t above = scan.before;
    for (unsigned b = 0; b < 8; ++b) {
      std::uint32_t const here = bins[top - b];
      if (above < wanted && above + here >= wanted) {
        found[0] = top - b;
        found[1] = wanted - above;
      }
      above += here;
    }
    __syncthreads();
    prefix = prefix << bits | found[0];
    wanted = found[1];
    __syncthreads();
  }
  // Of those that equal the cut the first `wanted` survive.
  index_t last = -1;
  for (index_t begin = 0; wanted > 0 && begin < cols; begin += blockDim.x) {
    index_t const c = begin + threadIdx.x;
    std::uint32_t const equal = c < cols && row(c) == prefix ? 1u : 0u;
    block_scan const scan(equal, room);
    if (scan.total >= wanted) {
      if (equal == 1 && scan.before + 1 == wanted) { found[0] = static_cast<std::uint32_t>(c); }
      __syncthreads();
      last = found[0];
      break;
    }
    wanted -= scan.total;
  }
  if (threadIdx.x == 0) { cuts[blockIdx.x] = {prefix, last}; }
}

/// Twice the ascending ranks of a row's magnitudes; equal ones share the mean of theirs. `room` has 4 x cols for each block: keys
/// and columns, twice. A radix sort of 4 bits a pass; a thread has a run of elements.
template <class Rows>
BRAID_KERNEL void find_row_ranks(Rows const* models, int experts, index_t cols, index_t first, std::uint32_t* room_of_all,
                                 std::uint32_t* ranks) {
  __shared__ std::uint32_t count[16][256];
  __shared__ std::uint32_t room[8];
  auto const expert = static_cast<int>(blockIdx.x % static_cast<unsigned>(experts));
  magnitude_row const row(models, expert, first + blockIdx.x / static_cast<unsigned>(experts));
  std::uint32_t* key = room_of_all + static_cast<index_t>(blockIdx.x) * 4 * cols;
  std::uint32_t* column = key + cols;
  std::uint32_t* next_key = column + cols;
  std::uint32_t* next_column = next_key + cols;
  for (index_t i = threadIdx.x; i < cols; i += blockDim.x) {
    key[i] = row(i);
    column[i] = static_cast<std::uint32_t>(i);
  }
  index_t const run = (cols + blockDim.x - 1) / blockDim.x;
  index_t const begin = run * threadIdx.x;
  index_t const end = begin + run < cols ? begin + run : cols;
  for (int shift = 0; shift < 32; shift += 4) {
    __syncthreads();
    for (unsigned d = 0; d < 16; ++d) { count[d][threadIdx.x] = 0; }
    for (index_t i = begin; i < end; ++i) { ++count[key[i] >> shift & 15u][threadIdx.x]; }
    __syncthreads();
    // Counts become places: by digit, then by thread. Each thread sums 16 neighbours of the list of 16 x 256.
    std::uint32_t* const mine = &count[0][0] + threadIdx.x * 16u;
    std::uint32_t sum = 0;
    for (unsigned k = 0; k < 16; ++k) { sum += mine[k]; }
    block_scan const scan(sum, room);
    std::uint32_t place = scan.before;
    for (unsigned k = 0; k < 16; ++k) {
      std::uint32_t const here = mine[k];
      mine[k] = place;
      place += here;
    }
    __syncthreads();
    for (index_t i = begin; i < end; ++i) {
      std::uint32_t const to = count[key[i] >> shift & 15u][threadIdx.x]++;
      next_key[to] = key[i];
      next_column[to] = column[i];
    }
    std::uint32_t* const k = key;
    key = next_key;
    next_key = k;
    std::uint32_t* const c = column;
    column = next_column;
    next_column = c;
  }
  __syncthreads();
  std::uint32_t* const rank = ranks + static_cast<index_t>(blockIdx.x) * cols;
  for (index_t i = threadIdx.x; i < cols; i += blockDim.x) { rank[column[i]] = static_cast<std::uint32_t>(twice_mean_place(key, cols, i)); }
}

}  // namespace detail
BRAID_NAMESPACE_END
