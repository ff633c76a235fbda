#pragma once

/// How the rows of a channel are laid out in the shared memory of a GPU's multiprocessors. Host code: no device needed.

#include <braid/core/sum_order.hpp>

#include <cstddef>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Experts that the fused kernel takes: as many as cluster::exact.
inline constexpr int most_tile_experts = 10;

/// A channel's rows of base and experts in shared memory: segments of 512 columns, a little gap behind each, so that
/// threads that work in different segments meet different banks. Where they are too long for one thread block, a cluster
/// of blocks shares the segments.
struct tile_plan {
  int cluster = 0;                ///< thread blocks for a row, 1, 2, 4 or 8; 0: the rows don't fit
  int segments = 0;               ///< of a row
  int own = 0;                    ///< segments of one block, at most
  int threads = 0;                ///< of one block
  std::uint32_t segment_bytes = 0;  ///< from one segment to the next
  std::uint32_t model_bytes = 0;    ///< from one model's segments to the next model's
  std::uint32_t sums_at = 0;        ///< float [pairs, segments]: the segments' dot products
  std::uint32_t gram_at = 0;        ///< double [experts, experts], at least [4, 4]
  std::uint32_t scores_at = 0;      ///< double [2^experts]
  std::uint32_t shared_bytes = 0;   ///< of one block
};

/// Places what choosing needs behind the rows.
constexpr void lay_out_choice(tile_plan& p, std::uint32_t experts) noexcept {
  p.sums_at = (experts + 1u) * p.model_bytes;
  p.gram_at = (p.sums_at + experts * (experts + 1u) / 2u * static_cast<std::uint32_t>(p.segments) * 4u + 15u) / 16u * 16u;
  p.scores_at = p.gram_at + (experts < 4u ? 16u : experts * experts) * 8u;
  p.shared_bytes = p.scores_at + (8u << experts);
}

/// @param element      bytes of an element in shared memory, 2 or 4
/// @param block_limit  bytes of shared memory that a block may have
/// @param processor_limit  and all blocks of a multiprocessor together
/// @param most_cluster 1 where a row's blocks can't share it
constexpr tile_plan plan_tile(index_t cols, int experts, std::size_t element, std::size_t block_limit,
                              std::size_t processor_limit, int most_cluster = 8) noexcept {
  constexpr index_t most_own = 16;              // segments of a block: 256 threads
  constexpr std::size_t block_overhead = 2304;  // what the device keeps for itself, and the state beside the rows
  if (cols < 1 || cols > most_own * 8 * sum_order::segment || experts > most_tile_experts) { return {}; }
  tile_plan best{};
  auto const n = static_cast<std::uint32_t>(experts);
  auto const segments = static_cast<std::uint32_t>((cols + sum_order::segment - 1) / sum_order::segment);
  std::size_t best_blocks = 0;
  for (int cluster = 1; cluster <= most_cluster; cluster *= 2) {
    auto const blocks = static_cast<std::uint32_t>(cluster);
    std::uint32_t const own = (segments + blocks - 1) / blocks;
    if (own > most_own || (cluster > 1 && own * (blocks - 1) >= segments)) { continue; }  // too many; or an idle block
    tile_plan p{};
    p.cluster = cluster;
    p.segments = static_cast<int>(segments);
    p.own = static_cast<int>(own);
    std::uint32_t const threads = (own * 16u + 31u) / 32u * 32u;
    p.threads = static_cast<int>(threads < 64u ? 64u : threads);
    p.segment_bytes = static_cast<std::uint32_t>((sum_order::segment + sum_order::lanes) * element);
    p.model_bytes = own * p.segment_bytes;
    lay_out_choice(p, n);
    if (p.shared_bytes + block_overhead > block_limit) { continue; }
    std::size_t const fit = processor_limit / (p.shared_bytes + block_overhead);
    // Three blocks on a multiprocessor hide each other's waiting; more blocks of a cluster cost barriers.
    if (best.cluster == 0 || (best_blocks < 3 && fit > best_blocks)) {
      best = p;
      best_blocks = fit;
    }
  }
  return best;
}

}  // namespace detail
BRAID_NAMESPACE_END
