#pragma once

#include <braid/backend/cpu.hpp>

#include <tbb/parallel_pipeline.h>

#include <algorithm>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One block on its way through the engine.
struct block_slot {
  index_t first = 0;
  index_t rows = 0;
  std::vector<std::byte> group_zero;   // [rows, cols]
  std::vector<std::byte> extra;        // further rows
  std::vector<std::uint8_t> label;     // [rows, experts]
  std::vector<std::uint64_t> hash;     // [models, rows], base first
  residual_block residual;
  merged_block merged;
};

/// Blocks of channels through a pipeline: `work(slot)` on many threads at once, then `place(slot)` for one after the
/// other, in order. At most `tokens` blocks are on their way, which bounds memory; slots are used again.
template <class Work, class Place>
void stream_blocks(cpu const& be, index_t channels, index_t rows_per_block, std::size_t tokens, Work const& work,
                   Place const& place) {
  std::vector<block_slot> slots(tokens);
  index_t next = 0;
  std::size_t number = 0;
  be.execute([&] {
    tbb::parallel_pipeline(
        tokens,
        tbb::make_filter<void, block_slot*>(tbb::filter_mode::serial_in_order,
                                            [&](tbb::flow_control& control) -> block_slot* {
                                              if (next >= channels) {
                                                control.stop();
                                                return nullptr;
                                              }
                                              // Blocks leave in order, so the oldest slot is free again.
                                              block_slot& slot = slots[number++ % tokens];
                                              slot.first = next;
                                              slot.rows = std::min(rows_per_block, channels - next);
                                              next += slot.rows;
                                              return &slot;
                                            }) &
            tbb::make_filter<block_slot*, block_slot*>(tbb::filter_mode::parallel,
                                                       [&](block_slot* slot) {
                                                         work(*slot);
                                                         return slot;
                                                       }) &
            tbb::make_filter<block_slot*, void>(tbb::filter_mode::serial_in_order,
                                                [&](block_slot* slot) { place(*slot); }));
  });
}

/// How many blocks may be on their way at once: two a thread, fewer where rows are so long that blocks are.
inline std::size_t blocks_on_their_way(cpu const& be, std::size_t block_bytes) {
  constexpr std::size_t limit = std::size_t{256} << 20;
  auto const wanted = 2 * static_cast<std::size_t>(be.threads());
  std::size_t const fitting = block_bytes == 0 ? wanted : limit / block_bytes;
  return fitting < 1 ? 1 : std::min(wanted, fitting);
}

/// Makes room without ever giving it back. Rows without columns have an address too.
template <class T>
void fit(std::vector<T>& v, std::size_t n) {
  if (v.size() < n || v.empty()) { v.resize(std::max<std::size_t>(n, 1)); }
}

}  // namespace detail
BRAID_NAMESPACE_END
