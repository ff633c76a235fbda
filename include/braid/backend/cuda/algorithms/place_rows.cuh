#pragma once

/// Where the rows of channels lie in a pool when channels have different numbers of groups: a scan. For any execution policy
/// of Thrust, so that it runs on the host as well.

#include <braid/core/types.hpp>

#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/scan.h>
#include <thrust/tabulate.h>

#include <cstddef>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Writes a channel's column of the index, and says how many groups there are beyond the first.
struct index_of_channel {
  std::uint8_t const* label;  // [channels, experts]
  std::uint8_t* index;        // [experts, channels]
  index_t channels;
  int experts;

  BRAID_HD std::int32_t operator()(index_t channel) const noexcept {
    if (channel >= channels) { return 0; }
    int last = 0;
    for (int e = 0; e < experts; ++e) {
      std::uint8_t const group = label[channel * experts + e];
      index[e * channels + channel] = group;
      last = group > last ? group : last;
    }
    return last;
  }
};

/// The slots that a channel's further rows have been left in.
struct list_slots {
  std::int32_t const* before;
  index_t most_extra;
  std::int32_t* slot;

  BRAID_HD void operator()(index_t channel) const noexcept {
    for (std::int32_t i = before[channel]; i < before[channel + 1]; ++i) {
      slot[i] = static_cast<std::int32_t>(channel * most_extra + (i - before[channel]));
    }
  }
};

/// The row of a pool that an expert's channel has: of group 0 the channel's own; further ones follow those of the channels before.
struct row_of_channel {
  std::uint8_t const* group;   // [channels] of this expert
  std::int32_t const* before;  // [channels + 1]
  index_t channels;

  BRAID_HD index_t operator()(index_t channel) const noexcept {
    int const g = group[channel];
    return g == 0 ? channel : channels + before[channel] + g - 1;
  }
};

/// Places the rows of a merge.
/// @param label   [channels, experts]: groups, numbered from 0 in each channel
/// @param index   [experts, channels]: receives them
/// @param before  [channels + 1]: receives how many further groups earlier channels have; the last number is that of all
template <class Policy>
void place_rows(Policy const& policy, std::uint8_t const* label, index_t channels, int experts, std::uint8_t* index, std::int32_t* before) {
  thrust::tabulate(policy, before, before + channels + 1, index_of_channel{label, index, channels, experts});
  thrust::exclusive_scan(policy, before, before + channels + 1, before);
}

/// Lists where the further rows lie that were written to slots, `most_extra` of them a channel.
/// @param before  of `place_rows`
/// @param slot    [before[channels]]
template <class Policy>
void list_rows(Policy const& policy, std::int32_t const* before, index_t channels, index_t most_extra, std::int32_t* slot) {
  thrust::for_each_n(policy, thrust::counting_iterator<index_t>(0), channels, list_slots{before, most_extra, slot});
}

}  // namespace detail
BRAID_NAMESPACE_END
