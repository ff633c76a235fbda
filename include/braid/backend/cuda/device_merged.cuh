#pragma once

/// What a merge on a device writes, and the plans that are made for it.

#include <braid/backend/channel_block.hpp>
#include <braid/backend/cuda/kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What a merge leaves beside the rows.
struct merge_totals {
  unsigned long long similarity = 0;     // a signed sum; see merged_block
  unsigned long long compared = 0;
  unsigned long long first_bad = ~0ull;  // the lowest channel with NaN, infinity or an overflowing square
  std::uint32_t next = 0;                // channels that blocks have taken beyond their first; 0 again behind every merge
  std::uint32_t finished = 0;            // and blocks that have taken their last
};

/// A merged tensor in device memory; the caller provides the room.
struct device_merged {
  std::byte* group_zero = nullptr;  // [channels, cols]
  std::byte* extra = nullptr;       // [channels, most_extra, cols]: the other groups
  index_t most_extra = 0;
  std::uint8_t* label = nullptr;    // [channels, experts]
  merge_totals* totals = nullptr;   // as above before the merge
};

/// The plan of an expert that needs no more than the tensor's measures.
template <class Prune>
auto plan_ahead(Prune const& prune, tensor_context const& context, int expert) {
  auto const e = static_cast<std::size_t>(expert);
  if constexpr (Prune::measures == statistic::tensor_cut) {
    return prune.plan(context.keys[e], context.cuts.empty() ? magnitude_cut{} : context.cuts[e]);
  } else {
    return prune.plan(context.keys[e]);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
