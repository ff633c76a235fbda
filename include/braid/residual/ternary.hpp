#pragma once

#include <braid/residual/detail/row_sum.hpp>
#include <braid/residual/policy.hpp>

#include <cmath>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace residual {

/// Minus, zero or plus one scale a row, five elements a byte: 1.6 bits an element and two bytes a row. Starts from
/// zero below 0.7 of the row's mean absolute value; then the scale is the mean absolute value of the others and zero is
/// what lies nearer to it than to the scale, a few times over (Lloyd's algorithm, whose error never rises).
struct ternary {
  static constexpr std::string_view name = "ternary";
  static constexpr residual_code code = residual_code::ternary;
  int sweeps = 3;

  void encode(float const* x, float const* weight, index_t cols, std::byte* plane, bfloat16* scale,
              residual_workspace&) const noexcept {
    constexpr int rounds = 4;
    float const total = detail::total_weight(weight, cols);
    float const all = detail::row_sum(weight, cols, [&](index_t c) { return std::fabs(x[c]); });
    float threshold = total > 0.0f ? 0.7f * (all / total) : 0.0f;
    float s = 0.0f;
    for (int round = 0; round < rounds; ++round) {
      float const sum = detail::row_sum(weight, cols, [&](index_t c) { return std::fabs(x[c]) > threshold ? std::fabs(x[c]) : 0.0f; });
      float const kept = detail::row_sum(weight, cols, [&](index_t c) { return std::fabs(x[c]) > threshold ? 1.0f : 0.0f; });
      s = kept > 0.0f ? static_cast<float>(bfloat16(sum / kept)) : 0.0f;
      threshold = 0.5f * s;
    }
    for (index_t c = 0; c < cols;) {
      unsigned five = 0;
      unsigned place = 1;
      for (int i = 0; i < 5; ++i, ++c, place *= 3) {
        unsigned const digit = c >= cols ? 1u : x[c] > threshold ? 2u : x[c] < -threshold ? 0u : 1u;
        five += digit * place;
      }
      plane[(c - 1) / 5] = static_cast<std::byte>(five);
    }
    scale[0] = bfloat16(s);
  }
};
static_assert(residual_policy<ternary>);

}  // namespace residual
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
