#pragma once

/// What the general algorithms find on the device, for comparisons with the host.

#include "support/coded_tensor.hpp"

#include <braid/backend/channel_block.hpp>

namespace braid_test {

/// A tensor of host memory, copied to the device, and what comes back from there.
template <class T>
struct device_copy {
  std::vector<std::vector<std::byte>> rebuilt;  // of each expert, with gaps
  braid::grouped_tensor<T> back;
  braid::grouped_tensor<T> packed;  // the same, but residuals came in slots of one size
};
/// @param stride  elements from row to row of what is rebuilt; gaps hold bytes of 0x5A
template <class T>
device_copy<T> copied_to_device(braid::grouped_tensor<T> const& t, index_t stride);

/// Slots of `cols` elements, `most_groups - 1` a channel behind the channels' own, as a merge leaves them: the packed pool and the
/// index that the device makes of them.
struct placed_rows {
  std::vector<float> pool;
  std::vector<std::uint8_t> index;
};
placed_rows placed_on_device(std::vector<float> const& slots, std::vector<std::uint8_t> const& label, int experts, index_t channels, index_t cols,
                             index_t most_groups);

std::vector<std::uint32_t> ranked_on_device(std::vector<std::uint32_t> const& bits, index_t rows, index_t cols);
std::vector<double> added_on_device(std::vector<float> const& rows, index_t channels, index_t sums);
index_t first_nonfinite_on_device(std::vector<float> const& x);

/// The cuts over a whole model, [tensors, models].
std::vector<std::vector<braid::magnitude_cut>> global_cuts_on_device(std::vector<double> const& density, std::vector<family> const& tensors);

/// What an algorithm that asks for more memory than there is says.
std::string message_without_memory();

}  // namespace braid_test
