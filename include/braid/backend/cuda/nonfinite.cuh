#pragma once

/// A device finds the channel; the host looks which element it is, with the CPU's own eyes.

#include <braid/backend/cpu/channel_gram.hpp>
#include <braid/backend/cuda.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One channel of a tensor of device memory, in host memory.
struct downloaded_channel {
  std::vector<std::vector<std::byte>> rows;  // the base first
  channel_block block;
};

inline downloaded_channel download_channel(cuda const& be, tensor_channels const& source, index_t channel) {
  downloaded_channel d;
  d.block.first = channel;
  d.block.rows = 1;
  d.block.out = source.out;
  auto const fetch = [&](channel_rows const& model) {
    if (model.data == nullptr) { return model; }
    std::size_t const element = size_of(model.type);
    auto& row = d.rows.emplace_back(static_cast<std::size_t>(source.cols) * element);
    if (source.transposed == 0) {
      be.to_host(row.data(), model.row(channel), row.size());
    } else {
      current_device const current(be.device());
      index_t const width = source.transposed;
      std::byte const* const from =
          model.data + static_cast<std::size_t>(channel / width * source.cols * width + channel % width) * element;
      check_cuda(cudaMemcpy2DAsync(row.data(), element, from, static_cast<std::size_t>(width) * element, element,
                                   static_cast<std::size_t>(source.cols), cudaMemcpyDeviceToHost, be.stream()),
                 "copying");
    }
    return channel_rows{row.data(), model.type, source.cols * static_cast<index_t>(element)};
  };
  d.rows.reserve(source.experts.size() + 1);
  d.block.base = fetch(source.base);
  for (auto const& e : source.experts) { d.block.experts.push_back(fetch(e)); }
  be.synchronize();
  return d;
}

/// Reports what is wrong with a channel that a kernel has found to be bad.
/// @throws nonfinite_found
[[noreturn]] inline void report_nonfinite(cuda const& be, tensor_context const& context, tensor_channels const& source, index_t channel) {
  downloaded_channel const d = download_channel(be, source, channel);
  channel_workspace work;
  check_finite_channel(d.block, 0, source.cols, work);
  // All elements are finite, so the square of a delta isn't.
  distinct_rows distinct;
  find_distinct(d.block, 0, source.cols, work, distinct);
  channel_gram(context, d.block, 0, distinct, false, work);
  int suspect = 0;
  for (int i = distinct.count - 1; i >= 0; --i) {
    auto const slot = static_cast<std::size_t>(i);
    if (!std::isfinite(work.gram[slot * static_cast<std::size_t>(distinct.count) + slot])) { suspect = distinct.first[slot]; }
  }
  throw nonfinite_found{{suspect, channel, 0, 0.0f}};
}

}  // namespace detail
BRAID_NAMESPACE_END
