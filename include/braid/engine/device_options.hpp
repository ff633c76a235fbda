#pragma once

#include <braid/config.hpp>
#include <braid/engine/stream_timeline.hpp>

#include <cstdint>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// How the engine streams blocks through devices. Ignored by braid::cpu; no option changes a result.
struct device_options {
  std::vector<int> devices{};  ///< share the blocks of each tensor, or the tensors of a recipe; none: the executor's own device
  std::uint64_t memory = 0;    ///< bytes that blocks may take on each device, at least those of one channel; 0: 1 GiB
  int host_threads = 0;        ///< read, copy and write; 0: all of the machine
  stream_timeline* timeline = nullptr;  ///< notes where the time goes; null: nobody does
};

BRAID_NAMESPACE_END
