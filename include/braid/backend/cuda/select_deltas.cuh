#pragma once

/// Cuts of deltas over a tensor: by a sample and one pass, and by radix passes where a sample doesn't do.

#include <braid/backend/cuda/sampled_select.cuh>
#include <braid/backend/cuda/value_select.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The cuts that take `wanted[i]` elements of the delta of model i, largest or smallest first. Waits.
inline std::vector<magnitude_cut> select_deltas(device_method_workspace& work, channel_block const& block, index_t cols, std::vector<index_t> const& wanted,
                                                radix_select::order order) {
  std::vector<magnitude_cut> cuts;
  for (std::size_t first = 0; first < wanted.size(); first += most_count_streams) {
    std::size_t const last = std::min(wanted.size(), first + most_count_streams);
    channel_block part = block;
    part.experts.assign(block.experts.begin() + static_cast<std::ptrdiff_t>(first), block.experts.begin() + static_cast<std::ptrdiff_t>(last));
    std::vector<index_t> const here(wanted.begin() + static_cast<std::ptrdiff_t>(first), wanted.begin() + static_cast<std::ptrdiff_t>(last));
    auto const quick = select_by_sample(work, part, cols, here, order);
    std::vector<magnitude_cut> slow;
    if (std::any_of(quick.begin(), quick.end(), [](auto const& c) { return !c.has_value(); })) {
      value_selector select(work, part, cols, operand::deltas, delta_values{}, order);
      slow = select([&](std::size_t s, index_t) { return here[s]; });
    }
    for (std::size_t i = 0; i < here.size(); ++i) { cuts.push_back(quick[i] ? *quick[i] : slow[i]); }
  }
  return cuts;
}

}  // namespace detail
BRAID_NAMESPACE_END
