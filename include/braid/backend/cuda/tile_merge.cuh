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

/// A thread's elements: `elements` neighbours in each of four words that lie 16 columns apart, so that they are all that a
/// Philox block (or two) serves; and the next groups of 64 columns in the same segment. The threads of a warp are spread over
/// segments so that they meet different banks.
template <class T>
struct tile_items {
  static constexpr int elements = word_codec<T>::elements;
  static constexpr int words = 4;
  static constexpr int columns = 64;                              // of a group
  static constexpr int neighbours = sum_order::lanes / elements;  // threads that share a group
  static constexpr int count = elements == 2 ? 4 : 8;             // groups of a thread, one behind the other
  static constexpr int word_step = sum_order::lanes * static_cast<int>(sizeof(T));
  static constexpr int group_step = columns * static_cast<int>(sizeof(T));

  std::uint32_t at;  // bytes from a model's first segment
  index_t col;       // of the first element
  int lane;          // of the first element in a sum
  bool any;          // whether this thread has elements

  __device__ explicit tile_items(row_tile<T> const& tile) noexcept {
    int const warp = static_cast<int>(threadIdx.x) / 32;
    int const thread = static_cast<int>(threadIdx.x) % 32;
    int const neighbour = thread % neighbours;
    int segment = 0;
    int group = 0;
    if constexpr (elements == 1) {
      segment = warp * 2 + thread / neighbours;  // two segments a warp
    } else {
      // Two warps share four segments, half of the columns each; at the end one warp may have two segments.
      int const first = warp / 2 * 4;
      int const part = thread / neighbours;
      bool const pair = tile.own - first <= 2;
      segment = first + (pair ? part % 2 : part);
      group = (pair ? part / 2 : warp % 2) * count;
      if (pair && warp % 2 != 0) { segment = tile.own; }
    }
    any = segment < tile.own;
    lane = neighbour * elements;
    at = static_cast<std::uint32_t>(segment) * tile.plan.segment_bytes + static_cast<std::uint32_t>(group * group_step + neighbour * 4);
    col = tile.column(segment) + group * columns + lane;
  }

  __device__ void next() noexcept {
    at += group_step;
    col += columns;
  }
  __device__ std::uint32_t* word(row_tile<T> const& tile, std::uint32_t model_at, int k) const noexcept {
    return reinterpret_cast<std::uint32_t*>(tile.shared + model_at + at + k * word_step);
  }
  __device__ void load(row_tile<T> const& tile, std::uint32_t model_at, float (&x)[words][elements]) const noexcept {
#pragma unroll
    for (int k = 0; k < words; ++k) { word_codec<T>::widen(*word(tile, model_at, k), x[k]); }
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

/// The keys of Philox's ten rounds: as kernel arguments they are operands of instructions, not instructions.
struct philox_keys {
  static constexpr int rounds = 10;
  std::uint32_t low[rounds] = {};
  std::uint32_t high[rounds] = {};

  philox_keys() = default;
  explicit philox_keys(std::uint64_t seed) noexcept {
    for (std::uint32_t r = 0; r < rounds; ++r) {
      low[r] = static_cast<std::uint32_t>(seed) + r * 0x9E3779B9u;
      high[r] = static_cast<std::uint32_t>(seed >> 32) + r * 0xBB67AE85u;
    }
  }

  /// `philox4x32` of core/philox.hpp.
  [[nodiscard]] __device__ philox_block block(std::uint32_t number_low, std::uint32_t number_high, std::uint64_t stream) const noexcept {
    std::uint32_t c0 = number_low;
    std::uint32_t c1 = number_high;
    auto c2 = static_cast<std::uint32_t>(stream);
    auto c3 = static_cast<std::uint32_t>(stream >> 32);
#pragma unroll
    for (int r = 0; r < rounds; ++r) {
      std::uint64_t const product0 = std::uint64_t{0xD2511F53u} * c0;
      std::uint64_t const product1 = std::uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ low[r];
      c1 = static_cast<std::uint32_t>(product1);
      c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ high[r];
      c3 = static_cast<std::uint32_t>(product0);
    }
    return {{c0, c1, c2, c3}};
  }
};

/// Where a row's Philox blocks begin. Only for rows of whole groups of 64 elements whose block numbers share their upper half.
struct row_blocks {
  std::uint32_t low;
  std::uint32_t high;
  bool usable;

  __device__ row_blocks(index_t row, index_t cols) noexcept {
    auto const first = static_cast<std::uint64_t>(row * cols) / 4;
    auto const last = static_cast<std::uint64_t>((row + 1) * cols) / 4 - 1;
    low = static_cast<std::uint32_t>(first);
    high = static_cast<std::uint32_t>(first >> 32);
    usable = cols % 64 == 0 && last >> 32 == high;
  }
};

/// Prunes a thread's deltas of one group of columns in place, its Philox blocks used to the last word.
template <class T, class Plan>
__device__ void prune_by_blocks(Plan const& plan, philox_keys const& keys, tile_items<T> const& items, index_t row, row_blocks const& blocks,
                                float (&x)[4][tile_items<T>::elements]) {
  std::uint32_t const first = blocks.low + (static_cast<std::uint32_t>(items.col) >> 6 << 4) + static_cast<std::uint32_t>(items.lane);
#pragma unroll
  for (int n = 0; n < tile_items<T>::elements; ++n) {
    philox_block const random = keys.block(first + static_cast<std::uint32_t>(n), blocks.high, plan.stream);
#pragma unroll
    for (int k = 0; k < 4; ++k) { x[k][n] = plan.with_word(x[k][n], random.word[k], row, items.col + k * 16 + n); }
  }
}

/// The same element by element.
template <class T, class Plan>
__device__ void prune_singly(Plan const& plan, tile_items<T> const& items, index_t row, index_t cols, float (&x)[4][tile_items<T>::elements]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int n = 0; n < tile_items<T>::elements; ++n) {
      index_t const c = items.col + k * 16 + n;
      if (c < cols) { x[k][n] = prune_one(plan, x[k][n], row, c); }
    }
  }
}

/// A group of N members, whose merged row takes the place of the first one's.
template <int N, bool Blocks, class T, class Arguments>
__device__ void merge_members(row_tile<T> const& tile, std::uint32_t members, Arguments const& a, index_t row, row_blocks const& blocks) {
  using plan_type = typename Arguments::plan_type;
  constexpr int elements = tile_items<T>::elements;
  int member[N];
  std::uint32_t model_at[N];
#pragma unroll
  for (int m = 0; m < N; ++m) {
    member[m] = __ffs(static_cast<int>(members)) - 1;
    members &= members - 1;
    model_at[m] = static_cast<std::uint32_t>(1 + member[m]) * tile.plan.model_bytes;
  }
  tile_items<T> items(tile);
  if (!items.any) { return; }
#pragma unroll 1
  for (int i = 0; i < tile_items<T>::count && items.col < tile.cols; ++i, items.next()) {
    float base[4][elements];
    items.load(tile, 0, base);
    float delta[N][4][elements];
#pragma unroll
    for (int m = 0; m < N; ++m) {
      items.load(tile, model_at[m], delta[m]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int n = 0; n < elements; ++n) { delta[m][k][n] = delta[m][k][n] - base[k][n]; }
      }
      if constexpr (Blocks) {
        prune_by_blocks<T>(a.plans[member[m]], a.keys, items, row, blocks, delta[m]);
      } else if constexpr (!plan_keeps_all<plan_type>) {
        prune_singly<T>(a.plans[member[m]], items, row, tile.cols, delta[m]);
      }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float out[elements];
#pragma unroll
      for (int n = 0; n < elements; ++n) {
        float one[N];
#pragma unroll
        for (int m = 0; m < N; ++m) { one[m] = delta[m][k][n]; }
        out[n] = base[k][n] + a.consensus(static_cast<float const*>(one), N) * a.lambda;
      }
      *items.word(tile, model_at[0], k) = word_codec<T>::narrow(out);
    }
  }
}

template <int N, class T, class Arguments>
__device__ void merge_members(row_tile<T> const& tile, std::uint32_t members, Arguments const& a, index_t row) {
  row_blocks const blocks(row, tile.cols);
  if constexpr (plan_from_words<typename Arguments::plan_type>) {
    if (a.same_keys && blocks.usable) { return merge_members<N, true, T>(tile, members, a, row, blocks); }
  }
  merge_members<N, false, T>(tile, members, a, row, blocks);
}

/// @tparam Most members that a group may have: what isn't needed takes no registers
template <int Most, class T, class Arguments>
__device__ void merge_tile_group(row_tile<T> const& tile, std::uint32_t members, Arguments const& a, index_t row) {
  int const count = __popc(members);
  if (count == 2) {
    merge_members<2, T>(tile, members, a, row);
  } else if (count == 3) {
    merge_members<3, T>(tile, members, a, row);
  } else if (count == 4) {
    merge_members<4, T>(tile, members, a, row);
  }
  if constexpr (Most > 4) {
    switch (count) {
      case 5: merge_members<5, T>(tile, members, a, row); break;
      case 6: merge_members<6, T>(tile, members, a, row); break;
      case 7: merge_members<7, T>(tile, members, a, row); break;
      case 8: merge_members<8, T>(tile, members, a, row); break;
      case 9: merge_members<9, T>(tile, members, a, row); break;
      case 10: merge_members<10, T>(tile, members, a, row); break;
      default: break;
    }
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
