#pragma once

/// Families of models in device memory.

#include <braid/cuda.cuh>

#include "gpu/pipelines.hpp"

namespace braid_test {

/// A matrix in device memory, with its gaps.
inline braid::device_buffer<std::byte> to_device(braid::cuda const& be, matrix const& m) {
  auto there = be.make_buffer<std::byte>(m.memory.size());
  be.to_device(there.data(), m.memory.data(), m.memory.size());
  return there;
}

/// Merges a family on the device. `describe(merged)` gives what is known of it, a merged_family&, in which experts are crossed
/// out that the device doesn't rebuild as the host does.
template <class T, class Method, class Describe>
void merge_on_device_as(braid::cuda const& be, Method const& m, family const& f, std::vector<float> const& column_weight, Describe const& describe) {
  constexpr auto device = braid::memory_space::device;
  std::vector<braid::device_buffer<std::byte>> memory;
  auto const view = [&](matrix const& w) {
    memory.push_back(to_device(be, w));
    return braid::tensor_view<T const, device>(reinterpret_cast<T const*>(memory.back().data()), w.rows, w.cols, w.stride);
  };
  auto const base = view(f.base);
  std::vector<braid::expert_view<T, device>> experts;
  for (auto const& e : f.experts) { experts.push_back({e.name, view(e.weight)}); }
  braid::grouped_tensor<T, device> const merged = m(be, f.tensor, base, experts, column_weight);
  merged_family& found = describe(merged);
  for (std::size_t e = 0; e < experts.size(); ++e) {
    auto const rebuilt = be.make_buffer<T>(static_cast<std::size_t>(merged.channels() * merged.cols()));
    merged.extract(be, e, {rebuilt.data(), merged.channels(), merged.cols()});
    std::vector<std::byte> here(rebuilt.size() * sizeof(T));
    be.to_host(reinterpret_cast<T*>(here.data()), static_cast<T const*>(rebuilt.data()), rebuilt.size());
    be.synchronize();
    if (here != found.rebuilt[e]) { found.rebuilt[e].clear(); }
  }
}

}  // namespace braid_test
