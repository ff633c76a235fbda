#pragma once

/// Merges the experts of a group in shared memory: prune each delta, agree, add the base, round once.

#include <braid/backend/cuda/row_tile.cuh>
#include <braid/consensus/mean.hpp>
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

/// A thread's elements: `elements` neighbours in each of eight words that lie 16 columns apart, so that they are all that a
/// Philox block (or two) serves. A group of 128 columns is for as many threads as a word's columns fit 16; the next threads take
/// the next segment, so that they meet different banks.
template <class T>
struct tile_items {
  static constexpr int elements = word_codec<T>::elements;
  static constexpr int words = 8;
  static constexpr int columns = words * sum_order::lanes;        // of a group
  static constexpr int neighbours = sum_order::lanes / elements;  // threads that share a group
  static constexpr int groups = sum_order::segment / columns;     // of a segment
  static constexpr int word_step = sum_order::lanes * static_cast<int>(sizeof(T));
  static constexpr int group_step = columns * static_cast<int>(sizeof(T));

  std::uint32_t at;  // bytes from a model's first segment
  index_t col;       // of the first element
  int lane;          // of the first element in a sum

  /// Items of `own` segments.
  __device__ static constexpr int count(int own) noexcept { return own * groups * neighbours; }

  /// To columns of the same segment.
  __device__ void advance(int more) noexcept {
    at += static_cast<std::uint32_t>(more) * static_cast<std::uint32_t>(sizeof(T));
    col += more;
  }

  __device__ tile_items(row_tile<T> const& tile, int item) noexcept
      : tile_items(tile, item / neighbours % tile.own, item / neighbours / tile.own, item % neighbours) {}
  __device__ tile_items(row_tile<T> const& tile, int segment, int group, int neighbour) noexcept {
    lane = neighbour * elements;
    at = static_cast<std::uint32_t>(segment) * tile.plan.segment_bytes + static_cast<std::uint32_t>(group * group_step + neighbour * 4);
    col = tile.column(segment) + group * columns + lane;
  }

  __device__ std::uint32_t* word(row_tile<T> const& tile, std::uint32_t model_at, int k) const noexcept {
    return reinterpret_cast<std::uint32_t*>(tile.shared + model_at + at + k * word_step);
  }
};

/// The sum's N-th part, rounded to nearest, without the long way round that division takes on a device.
/// @tparam Finite whether the sum is known to be; the sign of a zero may differ then
template <int N, bool Finite = false>
__device__ float divide_by(float sum) noexcept {
  if constexpr (N == 2 || N == 4 || N == 8) {
    return sum * (1.0f / N);
  } else if constexpr (N == 3) {
    // The remainder is exact, and so is the correction's sign; where there is none, zeros and infinities stay as they are.
    constexpr float third = 1.0f / 3.0f;
    float const near = sum * third;
    float const left = ptx::fused_multiply_add(-3.0f, near, sum);
    if constexpr (Finite) { return ptx::fused_multiply_add(left, third, near); }
    return (left < 0.0f ? -left : left) > 0.0f ? ptx::fused_multiply_add(left, third, near) : near;
  } else {
    return sum / static_cast<float>(N);
  }
}

/// What the members agree on.
template <int N, bool Finite = false, class Consensus>
__device__ float agree(Consensus const& consensus, float const (&member)[N]) noexcept {
  if constexpr (std::is_same_v<Consensus, consensus::mean>) {
    return divide_by<N, Finite>(consensus::sum{}(static_cast<float const*>(member), N));
  } else {
    return consensus(static_cast<float const*>(member), N);
  }
}

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
  static constexpr std::uint64_t multiplier0 = 0xD2511F53u;
  static constexpr std::uint64_t multiplier1 = 0xCD9E8D57u;
  std::uint32_t low[rounds] = {};
  std::uint32_t high[rounds] = {};

  philox_keys() = default;
  explicit philox_keys(std::uint64_t seed) noexcept {
    for (std::uint32_t r = 0; r < rounds; ++r) {
      low[r] = static_cast<std::uint32_t>(seed) + r * 0x9E3779B9u;
      high[r] = static_cast<std::uint32_t>(seed >> 32) + r * 0xBB67AE85u;
    }
  }

  /// Turns counters into the blocks of `philox4x32` in core/philox.hpp, several at once.
  /// @tparam Done rounds that are over
  /// @tparam Unroll rounds together: all of them are the fewest instructions, where their caches have room
  template <int Done, int Unroll, int Blocks>
  __device__ void encrypt(philox_block (&block)[Blocks]) const noexcept {
#pragma unroll Unroll
    for (int r = Done; r < rounds; ++r) {
      std::uint32_t const key0 = low[r];
      std::uint32_t const key1 = high[r];
#pragma unroll
      for (int b = 0; b < Blocks; ++b) {
        std::uint32_t* const c = block[b].word;
        std::uint64_t const product0 = multiplier0 * c[0];
        std::uint64_t const product1 = multiplier1 * c[2];
        c[0] = static_cast<std::uint32_t>(product1 >> 32) ^ c[1] ^ key0;
        c[1] = static_cast<std::uint32_t>(product1);
        c[2] = static_cast<std::uint32_t>(product0 >> 32) ^ c[3] ^ key1;
        c[3] = static_cast<std::uint32_t>(product0);
      }
    }
  }
};

/// Where a row's Philox blocks begin. Only for rows of whole groups of 128 elements whose block numbers share their upper half.
struct row_blocks {
  std::uint32_t low;
  std::uint32_t high;
  bool usable;

  __device__ row_blocks(index_t row, index_t cols) noexcept {
    auto const first = static_cast<std::uint64_t>(row * cols) / 8;
    auto const last = static_cast<std::uint64_t>((row + 1) * cols) / 8 - 1;
    low = static_cast<std::uint32_t>(first);
    high = static_cast<std::uint32_t>(first >> 32);
    usable = cols % 128 == 0 && last >> 32 == high;
  }
};

/// The members of a group: their numbers among the experts, and where their rows are.
template <int N>
struct group_members {
  int number[N];
  std::uint32_t at[N];

  template <class T>
  __device__ group_members(row_tile<T> const& tile, std::uint32_t members) noexcept {
#pragma unroll
    for (int m = 0; m < N; ++m) {
      number[m] = __ffs(static_cast<int>(members)) - 1;
      members &= members - 1;
      at[m] = static_cast<std::uint32_t>(1 + number[m]) * tile.plan.model_bytes;
    }
  }
};

/// Merges a thread's elements and calls `put(k, word)` with each of the eight words. Its loops are short, since many warps run them
/// beside other code, and all of it must fit the instruction caches.
template <bool Blocks, class T, int N, class Arguments, class Put>
__device__ void merge_item(row_tile<T> const& tile, tile_items<T> const& item, group_members<N> const& members, Arguments const& a, index_t row,
                           row_blocks const& blocks, Put const& put) {
  using plan_type = typename Arguments::plan_type;
  constexpr int elements = tile_items<T>::elements;
  constexpr int together = tile_items<T>::words / 2;
  philox_block random[Blocks ? N * elements : 1];  // a member's `elements` blocks behind the other's
  if constexpr (Blocks) {
    std::uint32_t const first = blocks.low + (static_cast<std::uint32_t>(item.col) >> 7 << 4) + static_cast<std::uint32_t>(item.lane);
#pragma unroll
    for (int m = 0; m < N; ++m) {
      std::uint64_t const stream = a.plans[members.number[m]].stream;
#pragma unroll
      for (int n = 0; n < elements; ++n) {
        random[m * elements + n] = {{first + static_cast<std::uint32_t>(n), blocks.high, static_cast<std::uint32_t>(stream),
                                     static_cast<std::uint32_t>(stream >> 32)}};
      }
    }
    a.keys.template encrypt<0, 2>(random);
  }
#pragma unroll 1
  for (int half = 0; half < tile_items<T>::words; half += together) {
#pragma unroll
    for (int i = 0; i < together; ++i) {
      int const k = half + i;
      float base[elements];
      word_codec<T>::widen(*item.word(tile, 0, k), base);
      float delta[N][elements];
#pragma unroll
      for (int m = 0; m < N; ++m) {
        word_codec<T>::widen(*item.word(tile, members.at[m], k), delta[m]);
#pragma unroll
        for (int n = 0; n < elements; ++n) {
          float const d = delta[m][n] - base[n];
          index_t const col = item.col + k * sum_order::lanes + n;
          if constexpr (Blocks) {
            std::uint32_t const word = random[m * elements + n].word[i / 2] << (i % 2 == 0 ? 16 : 0);
            delta[m][n] = a.plans[members.number[m]].with_word(d, word, row, col);
          } else if constexpr (plan_keeps_all<plan_type>) {
            delta[m][n] = d;
          } else {
            delta[m][n] = col < tile.cols ? prune_one(a.plans[members.number[m]], d, row, col) : 0.0f;
          }
        }
      }
      float out[elements];
#pragma unroll
      for (int n = 0; n < elements; ++n) {
        float one[N];
#pragma unroll
        for (int m = 0; m < N; ++m) { one[m] = delta[m][n]; }
        out[n] = base[n] + agree<N>(a.consensus, one) * a.lambda;
      }
      put(k, word_codec<T>::narrow(out));
    }
    if constexpr (Blocks) {
#pragma unroll
      for (int b = 0; b < N * elements; ++b) {
        random[b].word[0] = random[b].word[2];
        random[b].word[1] = random[b].word[3];
      }
    }
  }
}

/// Calls `f(bool_constant)`: whether the plans take whole Philox blocks of this row.
template <class Arguments, class F>
__device__ void with_blocks(Arguments const& a, row_blocks const& blocks, F const& f) {
  if constexpr (plan_from_words<typename Arguments::plan_type>) {
    if (a.same_keys && blocks.usable) { return f(std::true_type{}); }
  }
  f(std::false_type{});
}

/// A group of N members, whose merged row takes the place of the first one's. All threads of a block.
template <int N, class T, class Arguments>
__device__ void merge_members(row_tile<T> const& tile, std::uint32_t members, Arguments const& a, index_t row) {
  row_blocks const blocks(row, tile.cols);
  group_members<N> const group(tile, members);
  with_blocks(a, blocks, [&](auto whole) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < tile_items<T>::count(tile.own); i += static_cast<int>(blockDim.x)) {
      tile_items<T> const item(tile, i);
      merge_item<decltype(whole)::value>(tile, item, group, a, row, blocks,
                                         [&](int k, std::uint32_t word) { *item.word(tile, group.at[0], k) = word; });
    }
  });
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
