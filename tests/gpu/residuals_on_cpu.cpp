// No tests: the merges of gpu/residuals.hpp on the CPU.

#include "gpu/residuals.hpp"

namespace braid_test {

coded_family code_on_cpu(recipe const& r, residual_recipe const& residual, family const& f, std::vector<float> const& column_weight) {
  return with_coding_method<braid::cpu>(r, residual, [&](auto const& m) {
    return with_type(f.base.type, [&]<class T>(T) {
      auto const view = [](matrix const& w) {
        return braid::tensor_view<T const>(reinterpret_cast<T const*>(w.memory.data()), w.rows, w.cols, w.stride);
      };
      std::vector<braid::expert_view<T>> experts;
      for (auto const& e : f.experts) { experts.push_back({e.name, view(e.weight)}); }
      return describe_coded(m(braid::cpu(2), f.tensor, view(f.base), experts, column_weight));
    });
  });
}

}  // namespace braid_test
