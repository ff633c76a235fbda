#pragma once

/// What the warps of a block share that channels stream through, and how each finds its units in the ring.

#include <braid/backend/cuda/ring_plan.hpp>
#include <braid/backend/cuda/tile_state.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What a block's warps tell each other. Units are numbered through all channels of a block: unit u has slot u mod slots and is
/// its use number u / slots. Channel n of a block has place n mod places; there are more places than channels in the ring and in
/// warps' turns together, so that no warp waits for a use of a place before the one before it is over.
///
/// What orders accesses. Threads of a warp meet (`__syncwarp`, a shuffle) before one of them arrives for all, and a barrier's
/// arrival orders all that its warp has waited for before:
///   a unit's rows     their copies, `full`, multiplying and merging, `empty`, the next copies
///   channel           bringing, `full`, multiplying, `summed`, choosing; and `full`, merging; written again `places` channels later,
///                     when all of their units but a ring's have been waited for through `empty`
///   sums              multiplying, `summed`, choosing, `chosen`, merging, `empty`, which the next use's multiplying waits for
///   members           choosing, `chosen`, merging; written again `places` channels later
///   stop              not ordered: a word that only ever changes once, and is looked at again until it does
/// Tools that know a barrier's order only for the threads that arrive themselves report sums, channel and stop.
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

/// The way through the ring of a warp, or of some of its threads, that takes every `step`-th unit; of steps, there are no more
/// than slots.
class ring_walk {
 public:
  int slot;
  std::uint32_t use = 0;  // of the slot
  int channel;            // of those of this block
  int unit;               // of the channel

  __device__ ring_walk(ring_plan const& plan, int first, int step) noexcept
      : slot(first), channel(first / plan.units), unit(first % plan.units), step_(step), channels_(step / plan.units), units_(step % plan.units) {}
  __device__ void advance(ring_plan const& plan) noexcept {
    slot += step_;
    if (slot >= plan.slots) {
      slot -= plan.slots;
      ++use;
    }
    channel += channels_;
    unit += units_;
    if (unit >= plan.units) {
      unit -= plan.units;
      ++channel;
    }
  }

 private:
  int step_;
  int channels_;  // of a step
  int units_;     // and beyond those
};

/// Waits for a barrier of a channel that may not come. @return whether it does
__device__ inline bool wait_unless_stopped(std::uint64_t* barrier, std::uint32_t phase, int channel, ring_state const& state) noexcept {
  while (!ptx::is_over(barrier, phase)) {
    if (channel >= ptx::peek(&state.stop)) { return false; }
  }
  return true;
}

}  // namespace detail
BRAID_NAMESPACE_END
