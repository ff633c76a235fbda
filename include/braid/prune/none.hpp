#pragma once

#include <braid/core/concepts.hpp>

BRAID_NAMESPACE_BEGIN
namespace prune {

/// Keeps every element.
struct none {
  static constexpr std::string_view name = "none";
  static constexpr statistic measures = statistic::none;

  struct plan_type {
    static constexpr bool keeps_all = true;  // nothing to do: kernels may leave the step out
    BRAID_HD constexpr float operator()(float x, index_t, index_t) const noexcept { return x; }
    void apply(float*, int, index_t, index_t) const noexcept {}
  };
  [[nodiscard]] plan_type plan(tensor_key const&) const noexcept { return {}; }
};
static_assert(pruning_policy<none>);

}  // namespace prune
BRAID_NAMESPACE_END
