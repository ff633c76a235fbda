#pragma once

#include <braid/residual/policy.hpp>

BRAID_NAMESPACE_BEGIN
namespace residual {

/// A group's members all get its row.
struct none {
  static constexpr std::string_view name = "none";
  static constexpr residual_code code = residual_code::none;
  static constexpr int sweeps = 0;
  static constexpr bool rank_one = false;

  void encode(float const*, float const*, index_t, std::byte*, bfloat16*, residual_workspace&) const noexcept {}
};
static_assert(residual_policy<none>);

}  // namespace residual
BRAID_NAMESPACE_END
