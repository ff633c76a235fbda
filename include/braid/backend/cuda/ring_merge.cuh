#pragma once

/// Merges the units of channels that stream through a ring, straight from shared memory to the merged rows.

#include <braid/backend/cuda/fused_kernel.cuh>
#include <braid/backend/cuda/ring_state.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A group's members: their rows behind the base's in a unit, and their numbers among the experts.
template <int N>
struct ring_members {
  std::uint32_t at[N];
  int number[N];

  __device__ ring_members(std::uint32_t members, std::uint32_t model_bytes) noexcept {
#pragma unroll
    for (int m = 0; m < N; ++m) {
      number[m] = __ffs(static_cast<int>(members)) - 1;
      members &= members - 1;
      at[m] = static_cast<std::uint32_t>(1 + number[m]) * model_bytes;
    }
  }
};

/// Eight words of a thread, as `tile_items` says, merged and written.
/// @param base  the first word of the base's row in shared memory
/// @param to    the first word of the merged row
/// @param left  columns from the first one to the row's end
/// @param block the Philox block of the first element, where pruning takes one
template <class T, int N, class Arguments>
__device__ void merge_words(Arguments const& a, ring_members<N> const& members, std::byte const* base, std::byte* to, int left, index_t row,
                            index_t col, std::uint32_t block) {
  using plan_type = typename Arguments::plan_type;
  using codec = word_codec<T>;
  constexpr bool random = plan_of_threshold<plan_type>;
  constexpr int elements = tile_items<T>::elements;
  constexpr int word_step = tile_items<T>::word_step;
  philox_block bits[random ? N * elements : 1];
  if constexpr (random) { a.random.words(members.number, block, a.keys, bits); }
  auto const word = [](std::byte const* p) { return *reinterpret_cast<std::uint32_t const*>(p); };
#pragma unroll
  for (int k = 0; k < tile_items<T>::words; k += 2) {  // two words have the halves of a random one
    float p[2][elements];
#pragma unroll
    for (int i = 0; i < 2; ++i) { codec::widen(word(base + (k + i) * word_step), p[i]); }
    float one[2][elements][N];
#pragma unroll
    for (int m = 0; m < N; ++m) {
      float x[2][elements];
#pragma unroll
      for (int i = 0; i < 2; ++i) { codec::widen(word(base + members.at[m] + (k + i) * word_step), x[i]); }
#pragma unroll
      for (int n = 0; n < elements; ++n) {
        bool keep[2] = {true, true};
        if constexpr (random && std::is_same_v<T, float16>) {
          ptx::halves_up_to_in_words(bits[m * elements + n].word[k / 2], a.random.limit, keep[0], keep[1]);
        } else if constexpr (random) {
          ptx::halves_up_to(bits[m * elements + n].word[k / 2], a.random.limit, keep[0], keep[1]);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float const d = x[i][n] - p[i][n];
          if constexpr (random) {
            float const scaled = d * a.random.scale;
            if constexpr (is_sum<decltype(a.consensus)>) {
              // A sum of nothing but -0 keeps its sign, which is the base's zero's concern alone: that is +0 then.
              float& total = one[i][n][0];
              total = m == 0 ? (keep[i] ? scaled : 0.0f) : (keep[i] ? total + scaled : total);
            } else {
              one[i][n][m] = keep[i] ? scaled : 0.0f;
            }
          } else if constexpr (plan_keeps_all<plan_type>) {
            one[i][n][m] = d;
          } else {
            index_t const at = col + (k + i) * sum_order::lanes + n;
            one[i][n][m] = at < a.cols ? prune_one(a.plans[members.number[m]], d, row, at) : 0.0f;
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float out[elements];
#pragma unroll
      for (int n = 0; n < elements; ++n) {
        float agreed;
        if constexpr (random && is_sum<decltype(a.consensus)>) {
          agreed = share_of_sum<N>(a.consensus, one[i][n][0]);
        } else {
          agreed = agree<N, true>(a.consensus, one[i][n]);
        }
        out[n] = p[i][n] + agreed * a.lambda;
      }
      // Random pruning is here for whole groups of columns only.
      if (random || (k + i) * sum_order::lanes < left) { *reinterpret_cast<std::uint32_t*>(to + (k + i) * word_step) = codec::narrow(out); }
    }
  }
}

/// A warp's part of a unit: of the groups of 128 columns those of its own, a thread's items 32 apart.
template <class T, int Parts>
struct unit_part {
  static constexpr int unit_columns = ring_plan::unit_segments * sum_order::segment;
  static constexpr std::uint32_t model_bytes = unit_columns * sizeof(T);
  static constexpr int items = tile_items<T>::count(ring_plan::unit_segments) / 32 / Parts;  // of a thread
  static constexpr int step = 32 / tile_items<T>::neighbours * tile_items<T>::columns;       // columns from one to the next
  static constexpr int pieces = static_cast<int>(model_bytes) / 16 / 32 / Parts;             // 16 bytes each, of a thread

  std::byte const* unit;  // the base's row in shared memory
  int first;              // the unit's first column
  int part;
  int lane;

  __device__ int left(index_t cols) const noexcept { return static_cast<int>(cols) - first; }

  /// Groups of several members.
  template <int N, class Arguments>
  __device__ void merge(Arguments const& a, std::uint32_t members, index_t channel, std::byte* row) const {
    ring_members<N> const group(members, model_bytes);
    int column = part * items * step + lane / tile_items<T>::neighbours * tile_items<T>::columns +
                 lane % tile_items<T>::neighbours * tile_items<T>::elements;
    int more = left(a.cols) - column;
    std::uint32_t block = 0;
    if constexpr (plan_of_threshold<typename Arguments::plan_type>) {
      block = row_block(a.first + channel, a.cols) + static_cast<std::uint32_t>(first + column) / 128 * 16 + static_cast<std::uint32_t>(column % 16);
    }
    std::byte const* from = unit + column * static_cast<int>(sizeof(T));
    std::byte* to = row + column * static_cast<int>(sizeof(T));
#pragma unroll 1
    for (int i = 0; i < items && more > 0; ++i) {
      merge_words<T>(a, group, from, to, more, a.first + channel, first + column + i * step, block);
      from += step * static_cast<int>(sizeof(T));
      to += step * static_cast<int>(sizeof(T));
      more -= step;
      block += step / 8;
    }
  }

  /// A group of one keeps its row.
  template <class Arguments>
  __device__ void copy(Arguments const& a, int member, std::byte* row) const {
    struct alignas(16) piece {
      std::uint32_t word[4];
    };
    int const there = left(a.cols) * static_cast<int>(sizeof(T)) / 16;
    auto const* const from = reinterpret_cast<piece const*>(unit + static_cast<std::uint32_t>(1 + member) * model_bytes);
    auto* const to = reinterpret_cast<piece*>(row);
    int const at = part * pieces * 32 + lane;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      if (at + i * 32 < there) { to[at + i * 32] = from[at + i * 32]; }
    }
  }
};

/// Each warp merges a unit, or two do, each half of its columns.
template <class T, int Parts, class Arguments>
__device__ void merge_units(Arguments const& a, std::byte* shared, int warp, int lane, ring_state& state) {
  ring_walk at(a.ring, warp / Parts, a.ring.warps.merge / Parts);
  for (;;) {
    int const place = at.channel % ring_state::places;
    if (!wait_unless_stopped(&state.chosen[place], static_cast<std::uint32_t>(at.channel / ring_state::places), at.channel, state)) { return; }
    ptx::wait_for(&state.full[at.slot], at.use);
    std::uint32_t members = state.members[place];
    index_t const channel = state.channel[place];
    int const first = at.unit * unit_part<T, Parts>::unit_columns;
    unit_part<T, Parts> const part{shared + static_cast<std::uint32_t>(at.slot) * a.ring.unit_bytes, first, warp % Parts, lane};
#pragma unroll 1
    for (int g = 0; members != 0; ++g, members >>= 8) {
      std::uint32_t const here = members & 0xFFu;
      std::byte* const row = place_of<T>(a, channel, g) + first * static_cast<index_t>(sizeof(T));
      int const count = __popc(here);
      if (count == 1) {
        part.copy(a, __ffs(static_cast<int>(here)) - 1, row);
      } else if (count == 2) {
        part.template merge<2>(a, here, channel, row);
      } else {
        part.template merge<3>(a, here, channel, row);
      }
    }
    __syncwarp();
    if (lane == 0) { ptx::arrive(&state.empty[at.slot]); }
    at.advance(a.ring);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
