// No tests: the merges of gpu/residuals.hpp on the device.

#include <braid/cuda.cuh>

#include "gpu/device_family.cuh"
#include "gpu/residuals.hpp"

namespace braid_test {

coded_family code_on_device(recipe const& r, residual_recipe const& residual, family const& f, std::vector<float> const& column_weight) {
  static braid::cuda const be;
  return with_coding_method<braid::cuda>(r, residual, [&](auto const& m) {
    return with_type(f.base.type, [&]<class T>(T) {
      coded_family found;
      merge_on_device_as<T>(be, m, f, column_weight, [&](auto const& merged) -> auto& {
        found = describe_coded(merged.to_host(be));
        found.stored_bytes = merged.stored_bytes();
        return found.merged;
      });
      return found;
    });
  });
}

}  // namespace braid_test
