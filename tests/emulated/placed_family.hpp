#pragma once

#include "support/method_models.hpp"

namespace braid_test {

/// Packed copies of a family's matrices that begin `offset` bytes behind a multiple of 16, as a request and as a block.
struct placed_family {
  std::vector<std::vector<std::byte>> memory;
  braid::tensor_request request;
  braid::channel_block block;

  placed_family(family const& f, bool based, std::size_t offset) : request(request_of(f, based, f.base.type)) {
    auto const place = [&](braid::channel_rows& rows) {
      if (rows.data == nullptr) { return; }
      auto const bytes = static_cast<std::size_t>(request.inputs.channels * rows.stride);
      auto& there = memory.emplace_back(bytes + 32);
      std::byte* const to = there.data() + (16 - reinterpret_cast<std::uintptr_t>(there.data()) % 16) % 16 + offset;
      std::copy_n(rows.data, bytes, to);
      rows.data = to;
    };
    memory.reserve(16);
    place(request.inputs.base);
    for (auto& e : request.inputs.experts) { place(e); }
    std::vector<std::byte> scratch;
    block = request.inputs.block(0, request.inputs.channels, scratch);
  }
};

}  // namespace braid_test
