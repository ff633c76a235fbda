#pragma once

/// Cuts of deltas over a tensor: by a sample and one pass, and by radix passes where a sample doesn't do.

#include <braid/backend/cuda/sampled_select.cuh>
#include <braid/backend/cuda/value_select.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The cuts that take `wanted[c * models + i]` elements of the delta of model i, largest or smallest first; any number of cuts c.
/// Waits.
inline std::vector<magnitude_cut> select_deltas(device_method_workspace& work, channel_block const& block, index_t cols, std::vector<index_t> const& wanted,
                                                radix_select::order order) {
  std::size_t const models = block.experts.size();
  std::vector<magnitude_cut> cuts(wanted.size());
  constexpr std::size_t most_cuts = 2;  // at once
  std::size_t const all_cuts = models == 0 ? 0 : wanted.size() / models;
  for (std::size_t first = 0; first < models; first += most_few_models) {
    std::size_t const last = std::min<std::size_t>(models, first + most_few_models);
    channel_block part = block;
    part.experts.assign(block.experts.begin() + static_cast<std::ptrdiff_t>(first), block.experts.begin() + static_cast<std::ptrdiff_t>(last));
    for (std::size_t cut = 0; cut < all_cuts; cut += most_cuts) {
      std::vector<index_t> here;  // [cuts, models] of this part
      std::vector<std::size_t> number;
      for (std::size_t c = cut; c < std::min(all_cuts, cut + most_cuts); ++c) {
        for (std::size_t i = first; i < last; ++i) {
          number.push_back(c * models + i);
          here.push_back(wanted[number.back()]);
        }
      }
      auto const quick = select_by_sample<1, 2>(work, part, cols, delta_values{}, {here}, order);
      std::size_t const streams = last - first;
      for (std::size_t c = 0; c < here.size(); c += streams) {
        std::vector<magnitude_cut> slow;
        auto const begin = quick.begin() + static_cast<std::ptrdiff_t>(c);
        if (std::any_of(begin, begin + static_cast<std::ptrdiff_t>(streams), [](auto const& q) { return !q.has_value(); })) {
          value_selector select(work, part, cols, operand::deltas, delta_values{}, order);
          slow = select([&](std::size_t s, index_t) { return here[c + s]; });
        }
        for (std::size_t s = 0; s < streams; ++s) { cuts[number[c + s]] = quick[c + s] ? *quick[c + s] : slow[s]; }
      }
    }
  }
  return cuts;
}

}  // namespace detail
BRAID_NAMESPACE_END
