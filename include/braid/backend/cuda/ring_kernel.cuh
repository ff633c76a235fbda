#pragma once

/// Channel Merging of usual rows: one block on each multiprocessor, whose warps have different work. One warp brings channels'
/// rows, two segments at a time, to a ring in shared memory; others multiply them, choose groups, and write the merged rows,
/// each as soon as it can, so that memory never waits for one channel.

#include <braid/backend/cuda/fused_kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What a block's warps tell each other. Units are numbered through all channels of a block: unit u has slot u mod slots and is
/// its use number u / slots. Channel n of a block has place n mod places; there are more places than channels in the ring and in
/// warps' turns together, so that no warp waits for a use of a place before the one before it is over.
struct ring_state {
  static constexpr int slots = ring_plan::most_slots;
  static constexpr int places = 2 * slots;
  static constexpr int most_deferred = 256;

  std::uint64_t full[slots];     // a unit's rows have come
  std::uint64_t empty[slots];    // it has been merged
  std::uint64_t summed[places];  // a channel's dot products are there
  std::uint64_t chosen[places];  // its groups are known
  std::uint32_t members[places]; // 8 bits for each group, one for each expert; 0: nothing to merge here
  std::int32_t channel[places];
  double gram[ring_plan::most_choice_warps][16];
  std::int32_t stop;            // channels that have come, once that is known
  std::int32_t pending;         // the next channel of this block
  std::int32_t deferred;        // channels that need all threads: rows that may be equal, numbers that aren't finite
  std::int32_t deferred_channel[most_deferred];
  tile_state all;               // where all threads work on a channel
};

/// The way through the ring of a warp that takes every `step`-th unit.
struct ring_walk {
  int slot;
  std::uint32_t use = 0;  // of the slot
  int channel = 0;        // of those of this block
  int unit;               // of the channel

  __device__ ring_walk(ring_plan const& plan, int first) noexcept : slot(first), unit(first) { settle(plan); }
  __device__ void advance(ring_plan const& plan, int step) noexcept {
    slot += step;
    unit += step;
    settle(plan);
  }

 private:
  __device__ void settle(ring_plan const& plan) noexcept {
    if (slot >= plan.slots) {
      slot -= plan.slots;
      ++use;
    }
    while (unit >= plan.units) {
      unit -= plan.units;
      ++channel;
    }
  }
};

/// Waits for a barrier of a channel that may not come. @return whether it does
__device__ inline bool wait_unless_stopped(std::uint64_t* barrier, std::uint32_t phase, int channel, ring_state const& state) noexcept {
  while (!ptx::is_over(barrier, phase)) {
    if (channel >= ptx::peek(&state.stop)) { return false; }
  }
  return true;
}

/// A unit's rows in its slot.
template <class T, class Arguments>
__device__ row_tile<T> unit_tile(Arguments const& a, std::byte* shared, ring_walk const& at) noexcept {
  int const first = at.unit * ring_plan::unit_segments;
  int const left = a.ring.whole.segments - first;
  return {shared + static_cast<std::uint32_t>(at.slot) * a.ring.unit_bytes, a.ring.unit, a.cols, first,
          left < ring_plan::unit_segments ? left : ring_plan::unit_segments};
}

/// One thread: brings channels until there are no more, or too many need all threads.
template <class T, class Arguments>
__device__ void bring_channels(Arguments const& a, std::byte* shared, ring_state& state) {
  constexpr int models = most_warp_experts + 1;
  constexpr auto whole = static_cast<std::uint32_t>(ring_plan::unit_segments * sum_order::segment * sizeof(T));
  auto const row_bytes = static_cast<std::uint32_t>(a.cols) * static_cast<std::uint32_t>(sizeof(T));
  int channel = state.pending;
  int number = 0;
  int slot = 0;
  std::uint32_t use = 0;
  while (channel < a.channels && ptx::peek(&state.deferred) <= ring_state::most_deferred - ring_state::places) {
    unsigned const taken = atomicAdd(&a.out.totals->next, 1u);  // not looked at before the rows are on their way
    std::byte const* row[models];
#pragma unroll
    for (int m = 0; m < models; ++m) { row[m] = a.models[m].data + channel * a.models[m].stride; }
    state.channel[number % ring_state::places] = channel;
#pragma unroll 1
    for (std::uint32_t at = 0; at < row_bytes; at += whole) {
      // A unit's segments of a model are one piece of its row.
      std::uint32_t const bytes = row_bytes - at < whole ? row_bytes - at : whole;
      std::byte* const here = shared + static_cast<std::uint32_t>(slot) * a.ring.unit_bytes;
      if (use > 0) { ptx::wait_for(&state.empty[slot], use - 1); }
      ptx::expect_copies(&state.full[slot], static_cast<std::uint32_t>(a.experts + 1) * bytes);
#pragma unroll
      for (int m = 0; m < models; ++m) {
        if (m <= a.experts) { ptx::copy_in(here + static_cast<std::uint32_t>(m) * a.ring.unit.model_bytes, row[m] + at, bytes, &state.full[slot]); }
      }
      if (++slot == a.ring.slots) {
        slot = 0;
        ++use;
      }
    }
    ++number;
    channel = static_cast<int>(gridDim.x + taken);
  }
  state.pending = channel;
  ptx::poke(&state.stop, number);
}

/// The products of two whole segments. Those of one lie behind those of the other at a multiple of the banks, so half of the threads
/// is one step behind the other; what isn't there adds zeros, which changes no sum.
template <class T, int N, bool Short>
__device__ void whole_products(row_tile<T> const& tile, int s, int lane, float (&sum)[N * (N + 1) / 2]) {
  using codec = word_codec<T>;
  using raw = typename codec::raw;
  raw const* from[N + 1];
#pragma unroll
  for (int i = 0; i <= N; ++i) { from[i] = reinterpret_cast<raw const*>(tile.segment(i, s)) + (lane - s * sum_order::lanes); }
  auto const add = [&](int k, bool there) {
    int const at = k * sum_order::lanes;
    float const p = codec::widen_one(from[0][at]);
    float x[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float const d = codec::widen_one(from[i + 1][at]) - p;
      x[i] = there ? d : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int j = 0; j <= i; ++j) { sum[tile_pair(i, j)] = sum[tile_pair(i, j)] + x[i] * x[j]; }
    }
  };
  add(0, s == 0);
  // A short loop: what many warps run must fit the instruction caches together.
  constexpr int together = Short ? 4 : 8;
#pragma unroll 1
  for (int k = 1; k <= segment_steps; k += together) {
#pragma unroll
    for (int i = 0; i < together - 1; ++i) { add(k + i, true); }
    add(k + together - 1, s == 1 || k + together <= segment_steps);
  }
}

/// The dot products of a unit's pairs of N experts, by one warp: thread l has lane l mod 16 of segment l / 16.
template <class T, int N, bool Short>
__device__ void multiply_unit(row_tile<T> const& tile, float* sums) {
  constexpr int pairs = N * (N + 1) / 2;
  int const s = static_cast<int>(threadIdx.x) % 32 / sum_order::lanes;
  int const lane = static_cast<int>(threadIdx.x) % sum_order::lanes;
  float sum[pairs];
#pragma unroll
  for (int k = 0; k < pairs; ++k) { sum[k] = 0.0f; }
  int const steps = s < tile.own ? tile.width(s) / sum_order::lanes : 0;
  if (__all_sync(0xFFFFFFFFu, steps == segment_steps)) {
    whole_products<T, N, Short>(tile, s, lane, sum);
  } else {
    int row[N];
#pragma unroll
    for (int i = 0; i < N; ++i) { row[i] = 1 + i; }
#pragma unroll 1
    for (int k = 0; k < steps; ++k) { lane_products<T, N, true, false>(tile, s, lane + k * sum_order::lanes, row, gram_terms{}, sum, 1); }
  }
  float const total = fold_sums<pairs>(sum, lane);
  int const pair = folded_number(lane);
  if (pair < pairs && s < tile.own) { sums[pair * ring_plan::unit_segments + s] = total; }
}

template <class T, class Arguments>
__device__ void multiply_units(Arguments const& a, std::byte* shared, int warp, ring_state& state) {
  constexpr bool pruned = !plan_keeps_all<typename Arguments::plan_type>;
  ring_walk at(a.ring, warp);
  float* const sums = reinterpret_cast<float*>(shared + a.ring.sums_at);
  for (;;) {
    // The use before is over before this one begins, so that there's no doubt which one is full.
    if (at.use > 0 && !wait_unless_stopped(&state.empty[at.slot], at.use - 1, at.channel, state)) { return; }
    if (!wait_unless_stopped(&state.full[at.slot], at.use, at.channel, state)) { return; }
    row_tile<T> const tile = unit_tile<T>(a, shared, at);
    float* const here = sums + static_cast<std::uint32_t>(at.slot) * a.ring.pairs * ring_plan::unit_segments;
    if (a.experts == 3) {
      multiply_unit<T, 3, pruned>(tile, here);
    } else {
      multiply_unit<T, 4, pruned>(tile, here);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) { ptx::arrive(&state.summed[at.channel % ring_state::places]); }
    at.advance(a.ring, a.ring.warps.gram);
  }
}

template <class Arguments>
__device__ void choose_channels(Arguments const& a, std::byte* shared, int warp, ring_state& state) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
  float const* const sums = reinterpret_cast<float const*>(shared + a.ring.sums_at);
  double* const gram = state.gram[warp];
  for (int number = warp;; number += a.ring.warps.choice) {
    std::uint32_t const first = static_cast<std::uint32_t>(number) * static_cast<std::uint32_t>(a.ring.units);
    int slot = static_cast<int>(first % static_cast<std::uint32_t>(a.ring.slots));
    int const place = number % ring_state::places;
    if (!wait_unless_stopped(&state.summed[place], static_cast<std::uint32_t>(number / ring_state::places), number, state)) { return; }
    float total = 0.0f;
    if (lane < static_cast<int>(a.ring.pairs)) {
#pragma unroll 4
      for (int s = 0; s < a.ring.whole.segments; s += ring_plan::unit_segments) {
        float const* const here = sums + (static_cast<std::uint32_t>(slot) * a.ring.pairs + static_cast<std::uint32_t>(lane)) * ring_plan::unit_segments;
        total = total + here[0];
        if (s + 1 < a.ring.whole.segments) { total = total + here[1]; }
        if (++slot == a.ring.slots) { slot = 0; }
      }
    }
    int const channel = state.channel[place];
    warp_choice const choice = choose_in_warp(total, a.experts, a.groups, a.similarity, a.norms, gram);
    if (lane == 0) {
      state.members[place] = choice.unusual ? 0u : choice.members[0] | choice.members[1] << 8 | choice.members[2] << 16;
      if (choice.unusual) { state.deferred_channel[atomicAdd(&state.deferred, 1)] = channel; }
      ptx::arrive(&state.chosen[place]);
    }
    __syncwarp();
    if (!choice.unusual) { write_labels(a, channel, choice.group, true, agreement_in_warp(choice.group, gram, a.experts)); }
    __syncwarp();
  }
}

/// One warp merges a unit, or two do, each half of the columns of its segments (where there are two).
template <class T>
struct unit_part {
  static constexpr int items = tile_items<T>::count(ring_plan::unit_segments) / 32;  // of a thread in a whole unit

  tile_items<T> first;
  int count;  // of items
  int left;   // columns from the first one on to the row's end, at most

  __device__ unit_part(row_tile<T> const& tile, int part, int parts) noexcept : first(of_warp(tile, part)) {
    bool const pair = tile.own == ring_plan::unit_segments;
    count = pair ? items / parts : part == 0 ? items / 2 : 0;
    index_t const more = tile.cols - first.col;
    left = more < sum_order::segment ? static_cast<int>(more) : sum_order::segment;
  }

  /// The next item's columns lie as many groups behind as the warp takes at once of a segment.
  __device__ static constexpr int step(bool pair) noexcept {
    return tile_items<T>::columns * (32 / tile_items<T>::neighbours) / (pair ? ring_plan::unit_segments : 1);
  }

 private:
  __device__ static tile_items<T> of_warp(row_tile<T> const& tile, int part) noexcept {
    int const lane = static_cast<int>(threadIdx.x) % 32;
    int const place = lane / tile_items<T>::neighbours;
    bool const pair = tile.own == ring_plan::unit_segments;
    int const segment = pair ? place % ring_plan::unit_segments : 0;
    int const group = pair ? place / ring_plan::unit_segments + part * tile_items<T>::groups / 2 : place;
    return tile_items<T>(tile, segment, group, lane % tile_items<T>::neighbours);
  }
};

/// One group's rows of a part of a unit, by one warp.
template <class T, class Arguments>
__device__ void merge_part(Arguments const& a, row_tile<T> const& tile, unit_part<T> const& part, std::uint32_t members, index_t channel, int g) {
  constexpr int word_step = tile_items<T>::word_step;
  std::byte* const row = place_of<T>(a, channel, g) + part.first.col * static_cast<index_t>(sizeof(T));
  auto const each = [&](auto const& merge) {
    tile_items<T> item = part.first;
    int const step = unit_part<T>::step(tile.own == ring_plan::unit_segments);
#pragma unroll 1
    for (int i = 0; i < part.count; ++i) {
      std::byte* const to = row + i * step * static_cast<int>(sizeof(T));
      int const left = part.left - i * step;
      if (left > 0) {
        merge(item, [to, left](int k, std::uint32_t word) {
          if (k * sum_order::lanes < left) { *reinterpret_cast<std::uint32_t*>(to + k * word_step) = word; }
        });
      }
      item.advance(step);
    }
  };
  auto const of = [&]<int N>(std::integral_constant<int, N>) {
    group_members<N> const group(tile, members);
    row_blocks const blocks(a.first + channel, a.cols);
    with_blocks(a, blocks, [&](auto whole) {
      each([&](tile_items<T> const& item, auto const& put) { merge_item<decltype(whole)::value>(tile, item, group, a, a.first + channel, blocks, put); });
    });
  };
  int const count = __popc(members);
  if (count == 1) {
    group_members<1> const alone(tile, members);
    each([&](tile_items<T> const& item, auto const& put) {
#pragma unroll
      for (int k = 0; k < tile_items<T>::words; ++k) { put(k, *item.word(tile, alone.at[0], k)); }
    });
  } else if (count == 2) {
    of(std::integral_constant<int, 2>{});
  } else {
    of(std::integral_constant<int, 3>{});
  }
}

template <class T, class Arguments>
__device__ void merge_units(Arguments const& a, std::byte* shared, int warp, ring_state& state) {
  int const parts = a.ring.parts;
  ring_walk at(a.ring, warp / parts);
  for (;;) {
    int const place = at.channel % ring_state::places;
    auto const use = static_cast<std::uint32_t>(at.channel / ring_state::places);
    if (!wait_unless_stopped(&state.chosen[place], use, at.channel, state)) { return; }
    ptx::wait_for(&state.full[at.slot], at.use);
    std::uint32_t members = state.members[place];
    index_t const channel = state.channel[place];
    row_tile<T> const tile = unit_tile<T>(a, shared, at);
    unit_part<T> const part(tile, warp % parts, parts);
#pragma unroll 1
    for (int g = 0; members != 0; ++g, members >>= 8) { merge_part<T>(a, tile, part, members & 0xFFu, channel, g); }
    __syncwarp();
    if (threadIdx.x % 32 == 0) { ptx::arrive(&state.empty[at.slot]); }
    at.advance(a.ring, a.ring.warps.merge / parts);
  }
}

/// A channel by all threads, its rows read again.
template <class T, class Arguments>
__device__ void merge_deferred(Arguments const& a, std::byte* shared, index_t channel, tile_state& state) {
  row_tile<T> const tile{shared, a.ring.whole, a.cols, 0, a.ring.whole.segments};
  for (int m = 0; m <= a.experts; ++m) { tile.load_pieces(m, a.models[m].data + channel * a.models[m].stride); }
  __syncthreads();
  bool const by_warp = merge_in_block<most_warp_experts>(a, tile, shared, channel, 0, state);
  __syncthreads();
  for (int g = 0; g < state.groups; ++g) { tile.store_pieces(__ffs(static_cast<int>(state.members[g])), place_of<T>(a, channel, g)); }
  if (threadIdx.x < 32) { write_labels_of_block(a, tile, shared, channel, by_warp, state); }
  __syncthreads();
}

template <class T, class Plan, class Consensus>
BRAID_KERNEL void __launch_bounds__(ring_plan::most_threads, 1) ring_merge_kernel(__grid_constant__ fused_arguments<Plan, Consensus> const a) {
  BRAID_BLOCK_MEMORY(shared);
  BRAID_BLOCK_OBJECT(ring_state, ring);
  int const thread = static_cast<int>(threadIdx.x);
  int const warp = thread / 32;
  ptx::let_next_start();
  if (thread == 0) { ring.pending = static_cast<std::int32_t>(blockIdx.x); }
  bool waited = false;
  do {
    if (thread < ring_state::slots) {
      ptx::make_barrier(&ring.full[thread], 1);
      ptx::make_barrier(&ring.empty[thread], static_cast<std::uint32_t>(a.ring.parts));
    }
    if (thread < ring_state::places) {
      ptx::make_barrier(&ring.summed[thread], static_cast<std::uint32_t>(a.ring.units));
      ptx::make_barrier(&ring.chosen[thread], 1);
      ptx::publish_barriers();
    }
    if (thread == 0) {
      ring.stop = 0x7FFFFFFF;
      ring.deferred = 0;
    }
    ptx::publish_to_copies();
    __syncthreads();
    if (!waited) { ptx::wait_for_last(); }
    waited = true;
    ring_warps const& roles = a.ring.warps;
    // Warps that multiply, and those that merge, are spread evenly over the quarters of a multiprocessor.
    if (warp < roles.gram) {
      multiply_units<T>(a, shared, warp, ring);
    } else if (warp < roles.gram + roles.merge) {
      merge_units<T>(a, shared, warp - roles.gram, ring);
    } else if (warp < roles.gram + roles.merge + roles.choice) {
      choose_channels(a, shared, warp - roles.gram - roles.merge, ring);
    } else if (ptx::elect()) {
      bring_channels<T>(a, shared, ring);
    }
    __syncthreads();
    for (int i = 0; i < ring.deferred; ++i) { merge_deferred<T>(a, shared, ring.deferred_channel[i], ring.all); }
    __syncthreads();
  } while (ring.pending < a.channels);
  // The last block makes the counters ready for the next merge.
  if (thread == 0 && atomicInc(&a.out.totals->finished, gridDim.x - 1) == gridDim.x - 1) { a.out.totals->next = 0; }
}

}  // namespace detail
BRAID_NAMESPACE_END
