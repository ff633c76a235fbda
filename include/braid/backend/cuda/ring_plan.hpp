#pragma once

/// How channels stream through a multiprocessor's shared memory. Host code: no device needed.

#include <braid/backend/cuda/tile_plan.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Warps of a block by what they do; one more brings the rows. 0: as many as is usual.
struct ring_warps {
  int gram = 0;
  int choice = 0;
  int merge = 0;

  [[nodiscard]] constexpr int threads() const noexcept { return 32 * (1 + gram + choice + merge); }
};

/// A ring of units in shared memory. A unit is two segments of 512 columns of a channel's rows of base and experts: what one
/// warp merges, or two, and one warp multiplies; or two warps multiply four units, each one segment of them. Channels follow each other through the ring, so that memory is busy while threads are.
struct ring_plan {
  static constexpr int unit_segments = 2;
  static constexpr int most_slots = 32;
  static constexpr int gram_units = 4;  // that warps multiply at a time
  static constexpr int most_choice_warps = 2;
  static constexpr int usual_merge_warps = 8;

  /// Threads of a block at most. Up to 512 may have 128 registers each, which is what pruning needs.
  [[nodiscard]] static constexpr int most_threads(bool pruned) noexcept { return pruned ? 512 : 608; }

  int slots = 0;     ///< units that the ring holds; 0: no such plan
  int units = 0;     ///< of a row
  bool fours = false;  ///< warps multiply four units at a time
  int parts = 1;     ///< warps that share the merging of a unit
  ring_warps warps{};
  tile_plan unit{};   ///< a unit in its slot
  tile_plan whole{};  ///< a channel where all threads of the block work on one
  std::uint32_t unit_bytes = 0;
  std::uint32_t pairs = 0;
  std::uint32_t sums_at = 0;  ///< float [slots, pairs, 2]: the segments' dot products
  std::uint32_t shared_bytes = 0;
};

/// @param block_limit bytes of dynamic shared memory that a block may have
/// @param pruned whether deltas are changed before they are merged
/// @param most what a block has at most of warps, where it isn't as usual
constexpr ring_plan plan_ring(index_t cols, int experts, std::size_t element, std::size_t block_limit, bool pruned, ring_warps const& most = {}) noexcept {
  ring_plan p{};
  if (cols < 1 || cols % sum_order::lanes != 0 || experts < 3 || experts > 4) { return {}; }
  auto const n = static_cast<std::uint32_t>(experts);
  auto const segments = static_cast<index_t>((cols + sum_order::segment - 1) / sum_order::segment);
  p.pairs = n * (n + 1u) / 2u;
  tile_plan& u = p.unit;
  u.cluster = 1;
  u.segments = ring_plan::unit_segments;
  u.own = ring_plan::unit_segments;
  u.threads = 32;
  u.segment_bytes = static_cast<std::uint32_t>(sum_order::segment * element);
  u.model_bytes = u.segment_bytes * ring_plan::unit_segments;
  // Of four units in a row, segments begin in different banks.
  p.unit_bytes = (n + 1u) * u.model_bytes + static_cast<std::uint32_t>(sum_order::lanes * element);
  std::uint32_t const sums = p.pairs * ring_plan::unit_segments * 4u;
  std::size_t const room = block_limit / (p.unit_bytes + sums);
  auto const fit = static_cast<int>(room < ring_plan::most_slots ? room : ring_plan::most_slots);
  p.slots = fit;
  // What multiplies and merges at the same time gets as much as measured best: long rows want their sums soon, since they leave
  // little of the ring to the next channel's; short ones have more choices to make.
  bool const is_long = segments > ring_plan::usual_merge_warps * ring_plan::unit_segments;
  p.warps = is_long ? ring_warps{6, 1, ring_plan::usual_merge_warps} : ring_warps{pruned ? 5 : 8, 2, ring_plan::usual_merge_warps};
  if (most.gram != 0) { p.warps = most; }
  // Warps take turns at the units, each within one round.
  if (p.warps.gram > p.slots) { p.warps.gram = p.slots; }
  if (p.warps.merge > p.slots) { p.warps.merge = p.slots; }
  p.warps.merge -= p.warps.merge % 2;
  // A row that nearly fills the ring leaves nothing to stream.
  if (segments * 4 > p.slots * ring_plan::unit_segments * 3 || segments > p.warps.threads() / sum_order::lanes) { return {}; }
  p.units = static_cast<int>((segments + ring_plan::unit_segments - 1) / ring_plan::unit_segments);
  // Where a channel has more units than warps can merge at a time, its first ones are to leave the ring soon.
  p.parts = p.units > p.warps.merge ? 2 : 1;
  // Where instructions are what is short, and the ring has room for a unit to wait for three more.
  int const at_once = p.slots / ring_plan::gram_units;
  p.fours = pruned && p.parts == 1 && p.units + ring_plan::gram_units <= p.slots;
  if (p.fours) { p.warps.gram = ring_plan::unit_segments * (at_once < 2 ? at_once : 2); }
  p.sums_at = static_cast<std::uint32_t>(p.slots) * p.unit_bytes;
  p.shared_bytes = p.sums_at + static_cast<std::uint32_t>(p.slots) * sums;

  tile_plan& w = p.whole;
  w = u;
  w.segments = static_cast<int>(segments);
  w.own = w.segments;
  w.threads = p.warps.threads();
  w.segment_bytes = static_cast<std::uint32_t>((sum_order::segment + sum_order::lanes) * element);
  w.model_bytes = static_cast<std::uint32_t>(w.own) * w.segment_bytes;
  lay_out_choice(w, n);
  if (w.shared_bytes > p.shared_bytes) { p.shared_bytes = w.shared_bytes; }
  if (p.shared_bytes > block_limit) { return {}; }
  return p;
}

}  // namespace detail
BRAID_NAMESPACE_END
