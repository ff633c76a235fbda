#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/backend/cuda/ring_plan.hpp>

using namespace braid_test;
using braid::detail::plan_tile;
using braid::detail::tile_plan;

namespace {
constexpr std::size_t block = 232448;  // bytes of an H100
constexpr std::size_t processor = 233472;
}  // namespace

TEST_CASE("a plan's blocks hold all segments of a row, none of them is idle, and all fits", "[cuda][tile_plan]") {
  random_source random(301);
  for (int round = 0; round < 2000; ++round) {
    index_t const cols = random.chance(0.5) ? random.between(1, 5000) : random.between(1, 65536);
    int const experts = random.between(1, 10);
    std::size_t const element = random.chance(0.5) ? 2 : 4;
    tile_plan const p = plan_tile(cols, experts, element, block, processor);
    INFO(cols << " columns, " << experts << " experts of " << element << " bytes");
    if (p.cluster == 0) {
      // A fourth of the rows is too much: an eighth may be too, and some numbers of segments have no eighth.
      CHECK(static_cast<std::size_t>((cols + 3) / 4) * element * static_cast<std::size_t>(experts + 1) > block - 60000);
      continue;
    }
    CHECK((p.cluster == 1 || p.cluster == 2 || p.cluster == 4 || p.cluster == 8));
    CHECK(p.segments == (cols + 511) / 512);
    CHECK(p.own * p.cluster >= p.segments);
    CHECK(p.own * (p.cluster - 1) < p.segments);
    CHECK(p.threads >= 16 * p.own);
    CHECK(p.threads % 32 == 0);
    CHECK(p.threads >= 64);
    CHECK(p.threads <= 256);
    CHECK(p.shared_bytes <= block);
    CHECK(p.segment_bytes % 16 == 0);
    CHECK(p.segment_bytes > 512 * element);
    CHECK(p.model_bytes == static_cast<std::uint32_t>(p.own) * p.segment_bytes);
    CHECK(p.sums_at == static_cast<std::uint32_t>(experts + 1) * p.model_bytes);
    CHECK(p.gram_at % 16 == 0);
    CHECK(p.gram_at >= p.sums_at + static_cast<std::uint32_t>(experts * (experts + 1) / 2 * p.segments) * 4);
    CHECK(p.scores_at >= p.gram_at + 16 * 8);
    CHECK(p.shared_bytes >= p.scores_at + (8u << experts));
  }
}

TEST_CASE("rows that no cluster can hold have no plan", "[cuda][tile_plan]") {
  CHECK(plan_tile(65537, 1, 2, block, processor).cluster == 0);
  CHECK(plan_tile(65536, 1, 2, block, processor).cluster == 8);
  CHECK(plan_tile(1000, 11, 2, block, processor).cluster == 0);
  CHECK(plan_tile(0, 2, 2, block, processor).cluster == 0);
}

TEST_CASE("usual rows leave room for three blocks and more on a multiprocessor", "[cuda][tile_plan]") {
  for (index_t const cols : {1024, 4096, 8192, 11008, 14336}) {
    tile_plan const p = plan_tile(cols, 4, 2, block, processor);
    INFO(cols);
    CHECK(processor / p.shared_bytes >= 3);
  }
  CHECK(plan_tile(4096, 4, 2, block, processor).cluster == 1);
  CHECK(plan_tile(14336, 4, 2, block, processor).cluster == 2);
}

TEST_CASE("a ring's plan fits a block, and leaves a fourth of the ring to the next channel", "[cuda][ring_plan]") {
  random_source random(302);
  for (int round = 0; round < 2000; ++round) {
    index_t const cols = random.chance(0.5) ? 16 * random.between(1, 1100) : random.between(1, 20000);
    int const experts = random.between(2, 5);
    std::size_t const element = random.chance(0.5) ? 2 : 4;
    bool const pruned = random.chance(0.5);
    auto const p = braid::detail::plan_ring(cols, experts, element, block - 5000, pruned);
    INFO(cols << " columns, " << experts << " experts of " << element << " bytes");
    if (cols % 16 != 0 || experts < 3 || experts > 4) {
      CHECK(p.slots == 0);
      continue;
    }
    if (p.slots == 0) {
      bool const too_long = static_cast<std::size_t>(cols) * element * static_cast<std::size_t>(experts + 1) * 4 > (block - 40000) * 3;
      CHECK((too_long || cols > 16384));  // half a warp a segment, where all threads work on a channel
      continue;
    }
    CHECK(p.unit_bytes == static_cast<std::uint32_t>((experts + 1) * 1024 + 16) * static_cast<std::uint32_t>(element));
    CHECK(p.sums_at == static_cast<std::uint32_t>(p.slots) * p.unit_bytes);
    CHECK(p.sums_at + static_cast<std::uint32_t>(p.slots) * p.pairs * 8 <= p.shared_bytes);
    CHECK(p.whole.shared_bytes <= p.shared_bytes);
    CHECK(p.shared_bytes <= block - 5000);
    CHECK(p.units == (cols + 1023) / 1024);
    CHECK(p.units * 4 <= p.slots * 3 + 2);
    CHECK(p.warps.gram <= p.slots);
    if (p.fours) {
      CHECK(pruned);
      CHECK(p.units + 3 <= p.slots);
      CHECK(p.warps.gram % 2 == 0);
      CHECK(p.warps.gram * 2 <= p.slots);
    }
    CHECK(p.warps.merge % 2 == 0);
    CHECK(p.warps.threads() <= braid::detail::ring_plan::most_threads(pruned));
  }
  CHECK(braid::detail::plan_ring(4096, 4, 2, block - 5000, true).fours);
  for (index_t const cols : {1024, 4096, 8192, 11008, 14336}) { CHECK(braid::detail::plan_ring(cols, 4, 2, block - 5000, true).slots >= 20); }
}
