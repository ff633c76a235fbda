#pragma once

/// linear, nearswap, passthrough and ram on a device: one kernel each.

#include <braid/backend/cuda/method_blocks.cuh>
#include <braid/backend/cuda/method_functions.cuh>
#include <braid/method/linear.hpp>
#include <braid/method/nearswap.hpp>
#include <braid/method/passthrough.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

template <int Most>
void copy_numbers(std::vector<float> const& from, float (&to)[Most]) {
  std::copy(from.begin(), from.end(), to);
}

}  // namespace detail

template <>
inline void linear<cuda>::apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                                      detail::device_method_workspace& work) const {
  auto const& plan = static_cast<plan_type const&>(any_plan);
  auto const map = [&](auto const& make) { detail::map_elements(work, block, plan.cols, out, detail::operand::values, plan.allow_nonfinite, make); };
  if (fused_) {
    map([&]<int Most>(std::integral_constant<int, Most>) {
      detail::fused_combine_function<Most> f{};
      detail::copy_numbers(plan.weight, f.coefficient);
      f.divisor = plan.divisor;
      return f;
    });
  } else {
    map([&]<int Most>(std::integral_constant<int, Most>) {
      detail::combine_function<Most, true> f{};
      detail::copy_numbers(plan.weight, f.coefficient);
      f.divisor = plan.divisor;
      return f;
    });
  }
}

template <>
inline void nearswap<cuda>::apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                                        detail::device_method_workspace& work) const {
  auto const& plan = static_cast<plan_type const&>(any_plan);
  detail::map_elements(work, block, plan.cols, out, detail::operand::values, plan.allow_nonfinite,
                       [&](auto) { return detail::nearswap_function{{}, plan.t}; });
}

template <>
inline void passthrough<cuda>::apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                                           detail::device_method_workspace& work) const {
  auto const& plan = static_cast<plan_type const&>(any_plan);
  channel_rows const& model = block.experts[0];
  if (plan.scale == 1.0f && plan.allow_nonfinite && model.type == block.out) {  // bit for bit
    detail::current_device const current(work.executor().device());
    std::size_t const row = static_cast<std::size_t>(plan.cols) * size_of(block.out);
    detail::check_cuda(cudaMemcpy2DAsync(out, row, model.data, static_cast<std::size_t>(model.stride), row, static_cast<std::size_t>(block.rows),
                                         cudaMemcpyDeviceToDevice, work.executor().stream()),
                       "copying");
    return;
  }
  detail::map_elements(work, block, plan.cols, out, detail::operand::values, plan.allow_nonfinite,
                       [&](auto) { return detail::scaled_copy_function{{}, plan.scale}; });
}

BRAID_NAMESPACE_END
