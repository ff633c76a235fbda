#pragma once

/// Cuts of rows of several models' deltas by radix selection, for rows whose magnitudes fit a block's shared memory: each delta is
/// read once, and pruning's plans are made where they are needed.

#include <braid/backend/cuda/count_kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Threads of a block: fewer for short rows, of which more blocks fit a multiprocessor.
inline constexpr unsigned row_cut_threads = 512;
inline constexpr unsigned short_row_cut_threads = 256;
inline constexpr index_t short_row_cols = 8192;
/// The longest rows: 48000 magnitudes and what a block keeps beside them.
inline constexpr index_t most_row_cut_cols = 48000;

/// What the kernel is told, by value. Plans have a member `cut`.
template <class Plan, int Most>
struct row_cut_arguments {
  element_inputs<Most> in;  // by row
  index_t keep[Most];       // elements of each row
  Plan plan[Most];          // of each model, but for the cut
  Plan* plans;              // [rows, models]
};

struct row_cut_room {
  std::uint32_t bins[count_bins];
  std::uint32_t of_warps[row_cut_threads / 32];
  std::uint32_t found;
  std::uint32_t left;
  std::uint32_t equal;
};

/// Bytes of shared memory beside `row_cut_room`.
constexpr std::size_t row_cut_memory(index_t cols) noexcept { return static_cast<std::size_t>(cols) * sizeof(std::uint32_t); }

/// A block takes a row of one model. Of those that equal the cut the first survive; the cut's `last` is the last one of them.
template <unsigned Threads, class Plan, int Most>
BRAID_KERNEL void __launch_bounds__(Threads) row_cuts_kernel(__grid_constant__ row_cut_arguments<Plan, Most> const a) {
  BRAID_BLOCK_MEMORY(memory);
  BRAID_BLOCK_OBJECT(row_cut_room, room);
  auto* const key = reinterpret_cast<std::uint32_t*>(memory);
  auto const models = static_cast<unsigned>(a.in.count);
  auto const model = blockIdx.x % models;
  auto const row = static_cast<index_t>(blockIdx.x / models);
  auto const cols = static_cast<std::uint32_t>(a.in.cols);
  index_t const keep = a.keep[model];
  auto const give = [&](magnitude_cut const& cut) {
    Plan plan = a.plan[model];
    plan.cut = cut;
    a.plans[blockIdx.x] = plan;
  };
  if (keep <= 0 || keep >= a.in.cols) {
    if (threadIdx.x == 0) { give(keep <= 0 ? magnitude_cut{0xFFFFFFFFu, -1} : magnitude_cut{0u, a.in.cols}); }
    return;
  }
  device_input const input = a.in.models[model];
  std::byte const* const x_row = input.data + row * input.stride;
  std::byte const* const p_row = a.in.base.data + row * a.in.base.stride;
  std::uint32_t const whole = a.in.whole ? cols / tile_elements * tile_elements : 0;
  for (std::uint32_t c = threadIdx.x * tile_elements; c < whole; c += Threads * tile_elements) {
    raw_tile raw;
    raw_tile base;
    float x[tile_elements];
    float p[tile_elements];
    load_raw<tile_layout::together>(x_row + static_cast<index_t>(c) * bytes_of(input.type), input.type, raw);
    load_raw<tile_layout::together>(p_row + static_cast<index_t>(c) * bytes_of(a.in.base.type), a.in.base.type, base);
    widen_tile(raw, input.type, x);
    widen_tile(base, a.in.base.type, p);
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { key[c + static_cast<unsigned>(j)] = magnitude_key(x[j] - p[j]); }
  }
  for (std::uint32_t c = whole + threadIdx.x; c < cols; c += Threads) {
    key[c] = magnitude_key(widen_element(x_row + static_cast<index_t>(c) * bytes_of(input.type), input.type) -
                           widen_element(p_row + static_cast<index_t>(c) * bytes_of(a.in.base.type), a.in.base.type));
  }
  unsigned const warp = threadIdx.x / 32;
  unsigned const lane = threadIdx.x % 32;
  std::uint32_t prefix = 0;
  auto wanted = static_cast<std::uint32_t>(keep);  // of those that begin with the prefix
  constexpr int shifts[3] = {20, 10, 0};
#pragma unroll
  for (int pass = 0; pass < 3; ++pass) {
    int const shift = shifts[pass];
    int const bits = pass == 0 ? 11 : 10;
    for (unsigned b = threadIdx.x; b < count_bins; b += Threads) { room.bins[b] = 0; }
    __syncthreads();
    for (std::uint32_t c = threadIdx.x; c < cols; c += Threads) {
      std::uint32_t const k = key[c];
      if (pass == 0 || k >> (shift + bits) == prefix) { atomicAdd(&room.bins[k >> shift & ((1u << bits) - 1u)], 1u); }
    }
    __syncthreads();
    // From the highest bin down: each thread has neighbours.
    constexpr unsigned each = count_bins / Threads;
    unsigned const top = count_bins - 1u - threadIdx.x * each;
    std::uint32_t mine = 0;
#pragma unroll
    for (unsigned b = 0; b < each; ++b) { mine += room.bins[top - b]; }
    std::uint32_t sum = mine;
#pragma unroll
    for (unsigned reach = 1; reach < 32; reach *= 2) {
      std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, sum, reach);
      if (lane >= reach) { sum += lower; }
    }
    if (lane == 31) { room.of_warps[warp] = sum; }
    __syncthreads();
    std::uint32_t above = sum - mine;
    for (unsigned w = 0; w < warp; ++w) { above += room.of_warps[w]; }
    if (above < wanted && above + mine >= wanted) {
      unsigned b = 0;
      for (; above + room.bins[top - b] < wanted; ++b) { above += room.bins[top - b]; }
      room.found = top - b;
      room.left = wanted - above;
      room.equal = room.bins[top - b];
    }
    __syncthreads();
    prefix = prefix << bits | room.found;
    wanted = room.left;
  }
  if (wanted == room.equal) {  // all of them
    if (threadIdx.x == 0) { give({prefix, a.in.cols}); }
    return;
  }
  // A warp has a run of columns; the one in which the last survivor lies looks for it.
  std::uint32_t const run = (cols + Threads - 1) / Threads * 32;
  std::uint32_t const begin = warp * run;
  auto const equals = [&](std::uint32_t c) { return __ballot_sync(0xFFFFFFFFu, c < cols && key[c] == prefix); };
  std::uint32_t mine = 0;
  for (std::uint32_t c = begin; c < begin + run; c += 32) { mine += static_cast<std::uint32_t>(__popc(equals(c + lane))); }
  __syncthreads();
  if (lane == 0) { room.of_warps[warp] = mine; }
  __syncthreads();
  std::uint32_t before = 0;
  for (unsigned w = 0; w < warp; ++w) { before += room.of_warps[w]; }
  if (wanted <= before || wanted > before + mine) { return; }
  for (std::uint32_t c = begin;; c += 32) {
    std::uint32_t const some = equals(c + lane);
    auto const here = static_cast<std::uint32_t>(__popc(some));
    if (before + here < wanted) {
      before += here;
      continue;
    }
    auto const number = before + static_cast<std::uint32_t>(__popc(some & ((1u << lane) - 1u))) + 1;
    if ((some >> lane & 1u) != 0 && number == wanted) { give({prefix, static_cast<index_t>(c + lane)}); }
    return;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
