#pragma once

#include <braid/residual/detail/magnitude_sums.hpp>
#include <braid/residual/detail/ternary_digits.hpp>
#include <braid/residual/policy.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace residual {

/// Minus, zero or plus one scale a row, five elements a byte: 1.6 bits an element and two bytes a row. Starts from
/// zero below 0.767 of the row's mean absolute value, which is best for a Gaussian row; then the scale is the mean
/// absolute value of the others and zero is what lies nearer to it than to the scale, a few times over (Lloyd's algorithm,
/// whose error never rises).
struct ternary {
  static constexpr std::string_view name = "ternary";
  static constexpr residual_code code = residual_code::ternary;
  static constexpr float start = 0.767f;  // the first threshold, in units of the mean absolute value
  static constexpr int rounds = 3;
  int sweeps = 3;
  bool rank_one = false;

  /// @throws argument_error for a number of sweeps that can't be meant
  void validate() const { detail::check_sweeps(name, sweeps); }

  void encode(float const* x, float const* weight, index_t cols, std::byte* plane, bfloat16* scale,
              residual_workspace&) const noexcept {
    float threshold = start * detail::magnitude_sum(x, weight, cols).mean();
    scale[0] = bfloat16(0.0f);
    for (int round = 0; round < rounds; ++round) {
      float above[2];
      detail::dispatch<detail::sums_above_body<1>>(x, weight, cols, static_cast<float const*>(&threshold),
                                                   static_cast<float*>(above));
      scale[0] = detail::stored_scale(above[1] > 0.0f ? above[0] / above[1] : 0.0f);
      threshold = 0.5f * static_cast<float>(scale[0]);
    }
    detail::dispatch<detail::write_ternary_body>(x, cols, threshold, plane);
  }
};
static_assert(residual_policy<ternary>);

}  // namespace residual
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
