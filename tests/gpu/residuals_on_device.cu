// No tests: the merges of gpu/residuals.hpp on the device.

#include <braid/cuda.cuh>

#include "gpu/residuals.hpp"

namespace braid_test {

coded_family code_on_device(recipe const& r, residual_recipe const& residual, family const& f, std::vector<float> const& column_weight) {
  static braid::cuda const be;
  constexpr auto device = braid::memory_space::device;
  return with_coding_method<braid::cuda>(r, residual, [&](auto const& m) {
    return with_type(f.base.type, [&]<class T>(T) {
      std::vector<braid::device_buffer<std::byte>> memory;
      auto const view = [&](matrix const& w) {
        memory.push_back(be.make_buffer<std::byte>(w.memory.size()));
        be.to_device(memory.back().data(), w.memory.data(), w.memory.size());
        return braid::tensor_view<T const, device>(reinterpret_cast<T const*>(memory.back().data()), w.rows, w.cols, w.stride);
      };
      auto const base = view(f.base);
      std::vector<braid::expert_view<T, device>> experts;
      for (auto const& e : f.experts) { experts.push_back({e.name, view(e.weight)}); }
      braid::grouped_tensor<T, device> const merged = m(be, f.tensor, base, experts, column_weight);
      coded_family found = describe_coded(merged.to_host(be));
      found.stored_bytes = merged.stored_bytes();
      for (std::size_t e = 0; e < experts.size(); ++e) {  // an expert that the device rebuilds is the one that the host does
        auto const rebuilt = be.make_buffer<T>(static_cast<std::size_t>(merged.channels() * merged.cols()));
        merged.extract(be, e, {rebuilt.data(), merged.channels(), merged.cols()});
        std::vector<std::byte> here(rebuilt.size() * sizeof(T));
        be.to_host(reinterpret_cast<T*>(here.data()), static_cast<T const*>(rebuilt.data()), rebuilt.size());
        be.synchronize();
        if (here != found.merged.rebuilt[e]) { found.merged.rebuilt[e].clear(); }
      }
      return found;
    });
  });
}

}  // namespace braid_test
