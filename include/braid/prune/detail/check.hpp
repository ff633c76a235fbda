#pragma once

#include <braid/core/error.hpp>

#include <string>

BRAID_NAMESPACE_BEGIN
namespace prune::detail {

/// Density is the fraction that survives. NaN fails too.
inline void check_density(std::string_view policy, double density) {
  if (!(density >= 0.0 && density <= 1.0)) {
    throw argument_error("prune::" + std::string(policy) + ": density is " + std::to_string(density) +
                         ", but it is the fraction of elements kept: choose a number from 0 to 1");
  }
}

}  // namespace prune::detail
BRAID_NAMESPACE_END
