#pragma once

#include <braid/residual/detail/bit_planes.hpp>
#include <braid/residual/detail/magnitude_sums.hpp>
#include <braid/residual/detail/sign_scales.hpp>
#include <braid/residual/policy.hpp>

#include <cmath>
#include <cstddef>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace residual {

/// B passes of signs, each with one scale a row: x ~ +-s0 +-s1 ... With one pass the scale is the mean absolute value:
/// BitDelta's code (Liu et al., NeurIPS 2024, arXiv 2402.10193) with a scale a row. With several, the 2^B levels that the
/// signs can name start where they suit a Gaussian row; then the scales that are best for these signs (least squares) and
/// the signs that are best for these scales follow each other a few times (Lloyd's algorithm, whose error never rises).
/// B bits an element and 2 B bytes a row.
template <int B>
  requires(B >= 1 && B <= 3)
struct sign_bits {
  static constexpr std::string_view name = B == 1 ? "sign1" : B == 2 ? "sign2" : "sign3";
  static constexpr residual_code code = B == 1 ? residual_code::sign1 : B == 2 ? residual_code::sign2 : residual_code::sign3;
  int sweeps = 3;
  bool rank_one = false;

  /// @throws argument_error for a number of sweeps that can't be meant
  void validate() const { detail::check_sweeps(name, sweeps); }

  void encode(float const* x, float const* weight, index_t cols, std::byte* plane, bfloat16* scale,
              residual_workspace& work) const {
    braid::detail::magnitude_sum const all(x, weight, cols);
    scales s{};
    if constexpr (B == 1) {
      s[0] = all.mean();
    } else {
      s.begin(all.mean());
      if (!refine(x, weight, cols, all, s)) {
        greedy(x, weight, cols, all, s, work);
        refine(x, weight, cols, all, s);
      }
    }
    for (int pass = 0; pass < B; ++pass) {
      scale[pass] = braid::detail::stored_scale(s[pass]);
      s[pass] = static_cast<float>(scale[pass]);
    }
    float limit[3]{};
    s.thresholds(limit);
    braid::detail::dispatch<braid::detail::write_planes_body<B>>(x, cols, static_cast<float const*>(limit), plane);
  }

 private:
  using scales = braid::detail::sign_scales<B>;
  static constexpr int classes = scales::classes;

  /// Each scale is the mean absolute value of what the passes before have left: scales that suit no Gaussian.
  static void greedy(float const* x, float const* weight, index_t cols, braid::detail::magnitude_sum const& all, scales& s,
                     residual_workspace& work) noexcept {
    float* const left = work.left.data();
    for (index_t c = 0; c < cols; ++c) { left[c] = x[c]; }
    s[0] = all.mean();
    for (int pass = 1; pass < B; ++pass) {
      for (index_t c = 0; c < cols; ++c) { left[c] = std::fabs(left[c]) - s[pass - 1]; }
      s[pass] = braid::detail::magnitude_sum(left, weight, cols).mean();
    }
  }

  /// Lloyd's algorithm, a few rounds of it. @return false where the first one found no scales
  static bool refine(float const* x, float const* weight, index_t cols, braid::detail::magnitude_sum const& all, scales& s) noexcept {
    for (int round = 0; round < scales::rounds; ++round) {
      float limit[3]{};
      float above[2 * scales::levels];
      s.thresholds(limit);
      braid::detail::dispatch<braid::detail::sums_above_body<classes - 1>>(x, weight, cols, static_cast<float const*>(limit),
                                                                           static_cast<float*>(above));
      if (!s.solve(all.magnitude, all.weight, above)) { return round > 0; }
    }
    return true;
  }
};
static_assert(residual_policy<sign_bits<1>> && residual_policy<sign_bits<2>> && residual_policy<sign_bits<3>>);

}  // namespace residual
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
