#pragma once

/// Merges the experts of a group in shared memory: prune each delta, agree, add the base, round once.

#include <braid/backend/cuda/row_tile.cuh>
#include <braid/core/concepts.hpp>
#include <braid/core/philox.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A plan whose random numbers are Philox words, which may be handed to it: (value, word, row, column).
template <class Plan>
concept plan_from_words = requires(Plan const plan, float x, std::uint32_t word, index_t row, index_t col) {
  { plan.with_word(x, word, row, col) } noexcept -> std::same_as<float>;
  plan.seed;
  plan.stream;
};

/// A thread's elements: `elements` neighbours in each of four words that lie 16 columns apart, so that they are all that
/// a Philox block (or two) serves.
template <class T>
struct tile_item {
  static constexpr int elements = word_codec<T>::elements;
  static constexpr int words = 4;
  static constexpr int columns = 64;                                          // of a group
  static constexpr int neighbours = sum_order::lanes / elements;              // items of a group
  static constexpr int of_segment = sum_order::segment / columns * neighbours;  // items
  static constexpr int word_step = sum_order::lanes * static_cast<int>(sizeof(T));

  int segment;
  int at;       // bytes in the segment
  index_t col;  // of the first element

  __device__ tile_item(row_tile<T> const& tile, int number) noexcept {
    // Neighbours in a group, then the same group of other segments: then the threads of a warp meet different banks.
    int const n = number % neighbours;
    int const rest = number / neighbours;
    segment = rest % tile.own;
    int const group = rest / tile.own;
    at = group * columns * static_cast<int>(sizeof(T)) + n * 4;
    col = tile.column(segment) + group * columns + n * elements;
  }

  __device__ std::uint32_t* word(row_tile<T> const& tile, int model, int k) const noexcept {
    return reinterpret_cast<std::uint32_t*>(tile.segment(model, segment) + at + k * word_step);
  }
  __device__ void load(row_tile<T> const& tile, int model, float (&x)[words][elements]) const noexcept {
#pragma unroll
    for (int k = 0; k < words; ++k) { word_codec<T>::widen(*word(tile, model, k), x[k]); }
  }
};

/// Whether a plan leaves everything as it is.
template <class Plan>
inline constexpr bool plan_keeps_all = requires { requires Plan::keeps_all; };

/// Not inlined where it is long: one copy of its code is enough.
template <class Plan>
__device__ __noinline__ float prune_one_apart(Plan const& plan, float x, index_t row, index_t col) {
  return plan(x, row, col);
}
template <class Plan>
__device__ float prune_one(Plan const& plan, float x, index_t row, index_t col) {
  if constexpr (plan_from_words<Plan>) {
    return prune_one_apart(plan, x, row, col);
  } else {
    return plan(x, row, col);
  }
}

/// Prunes an item's deltas in place.
template <class T, class Plan>
__device__ void prune_item(Plan const& plan, tile_item<T> const& item, index_t row, index_t cols, float (&x)[4][tile_item<T>::elements]) {
  constexpr int elements = tile_item<T>::elements;
  if constexpr (plan_from_words<Plan>) {
    if (cols % tile_item<T>::columns == 0) {
      auto const element = static_cast<std::uint64_t>(row * cols + item.col);
#pragma unroll
      for (int n = 0; n < elements; ++n) {
        std::uint64_t const e = element + static_cast<std::uint64_t>(n);
        philox_block const random = philox4x32(plan.seed, e >> 6 << 4 | (e & 15u), plan.stream);
#pragma unroll
        for (int k = 0; k < 4; ++k) { x[k][n] = plan.with_word(x[k][n], random.word[k], row, item.col + k * 16 + n); }
      }
      return;
    }
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int n = 0; n < elements; ++n) {
      index_t const c = item.col + k * 16 + n;
      if (c < cols) { x[k][n] = prune_one(plan, x[k][n], row, c); }
    }
  }
}

/// A group of N members, whose merged row takes the place of the first one's.
template <int N, class T, class Plan, class Consensus>
__device__ void merge_members(row_tile<T> const& tile, std::uint32_t members, Plan const* plans, Consensus const& consensus,
                              float lambda, index_t row) {
  using item_type = tile_item<T>;
  constexpr int elements = item_type::elements;
  int member[N];
#pragma unroll
  for (int m = 0; m < N; ++m) {
    member[m] = __ffs(static_cast<int>(members)) - 1;
    members &= members - 1;
  }
  for (int i = static_cast<int>(threadIdx.x); i < tile.own * item_type::of_segment; i += static_cast<int>(blockDim.x)) {
    item_type const item(tile, i);
    float base[4][elements];
    item.load(tile, 0, base);
    float delta[N][4][elements];
#pragma unroll
    for (int m = 0; m < N; ++m) {
      item.load(tile, 1 + member[m], delta[m]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int n = 0; n < elements; ++n) { delta[m][k][n] = delta[m][k][n] - base[k][n]; }
      }
      if constexpr (!plan_keeps_all<Plan>) { prune_item<T>(plans[member[m]], item, row, tile.cols, delta[m]); }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float out[elements];
#pragma unroll
      for (int n = 0; n < elements; ++n) {
        float one[N];
#pragma unroll
        for (int m = 0; m < N; ++m) { one[m] = delta[m][k][n]; }
        out[n] = base[k][n] + consensus(static_cast<float const*>(one), N) * lambda;
      }
      *item.word(tile, 1 + member[0], k) = word_codec<T>::narrow(out);
    }
  }
}

/// @tparam Most members that a group may have: what isn't needed takes no registers
template <int Most, class T, class Plan, class Consensus>
__device__ void merge_tile_group(row_tile<T> const& tile, std::uint32_t members, Plan const* plans, Consensus const& consensus,
                                 float lambda, index_t row) {
  int const count = __popc(members);
  if (count == 2) {
    merge_members<2, T>(tile, members, plans, consensus, lambda, row);
  } else if (count == 3) {
    merge_members<3, T>(tile, members, plans, consensus, lambda, row);
  } else if (count == 4) {
    merge_members<4, T>(tile, members, plans, consensus, lambda, row);
  }
  if constexpr (Most > 4) {
    switch (count) {
      case 5: merge_members<5, T>(tile, members, plans, consensus, lambda, row); break;
      case 6: merge_members<6, T>(tile, members, plans, consensus, lambda, row); break;
      case 7: merge_members<7, T>(tile, members, plans, consensus, lambda, row); break;
      case 8: merge_members<8, T>(tile, members, plans, consensus, lambda, row); break;
      case 9: merge_members<9, T>(tile, members, plans, consensus, lambda, row); break;
      case 10: merge_members<10, T>(tile, members, plans, consensus, lambda, row); break;
      default: break;
    }
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
