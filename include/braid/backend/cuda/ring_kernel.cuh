#pragma once

/// Channel Merging of usual rows: one block on each multiprocessor, whose warps have different work. One warp brings channels'
/// rows, two segments at a time, to a ring in shared memory; others multiply them, choose groups, and write the merged rows,
/// each as soon as it can, so that memory never waits for one channel.

#include <braid/backend/cuda/fused_kernel.cuh>
#include <braid/backend/cuda/ring_gram.cuh>
#include <braid/backend/cuda/ring_merge.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

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

template <class Arguments>
__device__ void choose_channels(Arguments const& a, std::byte* shared, int warp, int lane, ring_state& state) {
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

/// A channel by all threads, its rows read again.
/// Not inlined: what it needs of registers is not to be taken from the others.
template <class T, class Arguments>
__device__ __noinline__ void merge_deferred(Arguments const& a, std::byte* shared, index_t channel, tile_state& state) {
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
BRAID_KERNEL void __launch_bounds__(ring_plan::most_threads(!plan_keeps_all<Plan>), 1) ring_merge_kernel(__grid_constant__ fused_arguments<Plan, Consensus> const a) {
  BRAID_BLOCK_MEMORY(shared);
  BRAID_BLOCK_OBJECT(ring_state, ring);
  int const thread = static_cast<int>(threadIdx.x);
  ptx::let_next_start();
  if (thread == 0) { ring.pending = static_cast<std::int32_t>(blockIdx.x); }
  bool waited = false;
  do {
    if (thread < ring_state::slots) {
      ptx::make_barrier(&ring.full[thread], 1);
      ptx::make_barrier(&ring.empty[thread], static_cast<std::uint32_t>(a.ring.parts));
    }
    if (thread < ring_state::places) {
      ptx::make_barrier(&ring.summed[thread], static_cast<std::uint32_t>(a.ring.fours ? a.ring.units * ring_plan::unit_segments : a.ring.units));
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
    // What threads derive from their numbers isn't to be kept, or spilled, while all of them work on a channel.
    int const here = ptx::as_new(thread);
    int const warp = here / 32;
    int const lane = here % 32;
    // Warps that multiply, and those that merge, are spread evenly over the quarters of a multiprocessor.
    if (warp < roles.gram) {
      bool done = false;
      if constexpr (!plan_keeps_all<Plan>) {
        if (a.ring.fours) {
          multiply_fours<T>(a, shared, warp, lane, ring);
          done = true;
        }
      }
      if (!done) { multiply_units<T>(a, shared, warp, lane, ring); }
    } else if (warp < roles.gram + roles.merge) {
      if (a.ring.parts == 1) {
        merge_units<T, 1>(a, shared, warp - roles.gram, lane, ring);
      } else {
        merge_units<T, 2>(a, shared, warp - roles.gram, lane, ring);
      }
    } else if (warp < roles.gram + roles.merge + roles.choice) {
      choose_channels(a, shared, warp - roles.gram - roles.merge, lane, ring);
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
