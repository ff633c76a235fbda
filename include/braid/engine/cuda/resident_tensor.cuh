#pragma once

/// Tensors that lie on a device while they are measured and merged.

#include <braid/backend/channel_block.hpp>
#include <braid/backend/cpu.hpp>
#include <braid/core/detail/memory_layout.hpp>
#include <braid/engine/cuda/device_lanes.cuh>
#include <braid/engine/device_options.hpp>

#include <algorithm>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What of the engine's options concerns devices, with every choice made.
struct device_choices {
  std::vector<int> devices;
  std::size_t lanes;         // of all devices
  std::size_t block_bytes;   // inputs and results of a block
  std::size_t tensor_bytes;  // that may lie on a device beside its blocks
  stream_timeline* timeline;

  /// Two lanes a thread of the host, so that threads need not wait. Blocks of some megabytes keep the bus busy; fewer or smaller ones
  /// where memory is scarce.
  device_choices(cuda const& be, device_options const& o, int host_threads) : devices(o.devices), timeline(o.timeline) {
    if (devices.empty()) { devices.push_back(be.device()); }
    std::size_t const memory = o.memory == 0 ? std::size_t{1} << 30 : static_cast<std::size_t>(o.memory);
    constexpr std::size_t usual = std::size_t{2} << 20;
    constexpr std::size_t least = std::size_t{1} << 20;
    std::size_t const wanted = (2 * static_cast<std::size_t>(host_threads) + devices.size() - 1) / devices.size();
    std::size_t const each = std::clamp<std::size_t>(memory / least, 1, wanted);
    lanes = each * devices.size();
    block_bytes = std::min(usual, memory / each);
    tensor_bytes = memory - each * block_bytes;
  }
};

/// Where the rows of the base and of each model lie in one piece of memory, packed.
struct packed_tensor {
  std::size_t bytes = 0;
  std::vector<std::size_t> at;  // the base's first, whether there is one or not

  [[nodiscard]] static std::size_t row_bytes(tensor_channels const& t, channel_rows const& m) noexcept {
    return m.data == nullptr ? 0 : static_cast<std::size_t>(t.cols) * size_of(m.type);
  }

  explicit packed_tensor(tensor_channels const& t) {
    memory_layout layout;
    auto const rows = static_cast<std::size_t>(t.channels);
    at.push_back(layout.place(rows * row_bytes(t, t.base)));
    for (auto const& e : t.experts) { at.push_back(layout.place(rows * row_bytes(t, e))); }
    bytes = layout.size();
  }
};

/// Rows to where a copy starts from.
inline void stage_rows(channel_rows const& from, index_t rows, std::size_t row_bytes, std::byte* to) {
  auto const count = static_cast<std::size_t>(rows);
  if (static_cast<std::size_t>(from.stride) == row_bytes) {
    std::memcpy(to, from.data, count * row_bytes);
  } else {
    for (std::size_t r = 0; r < count; ++r) { std::memcpy(to + r * row_bytes, from.row(static_cast<index_t>(r)), row_bytes); }
  }
}

/// Whether a tensor may lie on the executor's device beside blocks on their way.
inline bool may_be_resident(device_choices const& choices, cuda const& be, tensor_channels const& t) {
  bool const takes_part = std::find(choices.devices.begin(), choices.devices.end(), be.device()) != choices.devices.end();
  return takes_part && packed_tensor(t).bytes <= choices.tensor_bytes;
}

/// A whole tensor on a device.
class resident_tensor {
 public:
  /// Brings it there with all of the host's threads, `rows` channels at a time. Returns when it is there.
  resident_tensor(cuda const& be, cpu const& host, device_lanes& lanes, tensor_channels const& source, index_t rows)
      : layout_(source), memory_(be.make_buffer<std::byte>(layout_.bytes)) {
    be.synchronize();  // lanes have streams of their own
    host.for_each((source.channels + rows - 1) / rows, [&](index_t i) {
      std::vector<std::byte> gathered;
      channel_block const block = source.block(i * rows, std::min(rows, source.channels - i * rows), gathered);
      device_lanes::taken const taken(lanes, be.device());
      device_lane& lane = *taken;
      tensor_channels part = source;
      part.channels = block.rows;
      packed_tensor const packed(part);
      lane.fit_here(packed.bytes);
      for (std::size_t m = 0; m <= block.experts.size(); ++m) {
        channel_rows const& model = m == 0 ? block.base : block.experts[m - 1];
        std::size_t const row = packed_tensor::row_bytes(source, model);
        if (row == 0) { continue; }
        stage_rows(model, block.rows, row, lane.here.data() + packed.at[m]);
        lane.be.to_device(memory_.data() + layout_.at[m] + static_cast<std::size_t>(block.first) * row,
                          static_cast<std::byte const*>(lane.here.data() + packed.at[m]), static_cast<std::size_t>(block.rows) * row);
      }
      lane.be.synchronize();
    });
  }

  /// Channels `first` to `first + count` of the tensor as they lie on the device.
  [[nodiscard]] tensor_channels there(tensor_channels const& here, index_t first, index_t count) const {
    tensor_channels t = here;
    t.channels = count;
    t.first_channel = first;
    t.transposed = 0;
    auto const move = [&](channel_rows& m, std::size_t place) {
      if (m.data == nullptr) { return; }
      auto const row = static_cast<index_t>(packed_tensor::row_bytes(here, m));
      m = {memory_.data() + place + static_cast<std::size_t>(first * row), m.type, row};
    };
    move(t.base, layout_.at[0]);
    for (std::size_t e = 0; e < t.experts.size(); ++e) { move(t.experts[e], layout_.at[e + 1]); }
    return t;
  }

 private:
  packed_tensor layout_;
  device_buffer<std::byte> memory_;
};

}  // namespace detail
BRAID_NAMESPACE_END
