#pragma once

#include <braid/residual/detail/bit_planes.hpp>
#include <braid/residual/detail/magnitude_sums.hpp>
#include <braid/residual/policy.hpp>

#include <array>
#include <cmath>

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
      for (int pass = 0; pass < B; ++pass) { s[pass] = start[pass] * all.mean(); }
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
    thresholds(s, limit);
    braid::detail::dispatch<braid::detail::write_planes_body<B>>(x, cols, static_cast<float const*>(limit), plane);
  }

 private:
  static constexpr auto passes = static_cast<std::size_t>(B);
  static constexpr int classes = 1 << (B - 1);  // of an absolute value, by the thresholds that it lies above
  static constexpr auto level_count = static_cast<std::size_t>(classes);
  static constexpr int rounds = 3;
  /// The best scales of a Gaussian row, in units of its mean absolute value.
  static constexpr float start[3] = {B == 2 ? 1.2298f : 1.4080f, B == 2 ? 0.6629f : 0.7760f, 0.4090f};

  struct scales {
    float of[passes];
    float& operator[](int i) noexcept { return of[i]; }
    float operator[](int i) const noexcept { return of[i]; }
  };

  /// Where the second pass, and the third, change their signs: halfway between neighbouring levels.
  static void thresholds(scales const& s, float* limit) noexcept {
    if constexpr (B == 2) { limit[0] = s[0]; }
    if constexpr (B == 3) {
      limit[0] = s[0] - s[1];
      limit[1] = s[0];
      limit[2] = s[0] + s[1];
    }
  }

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
    for (int round = 0; round < rounds; ++round) {
      float limit[3]{};
      float above[2 * level_count];
      thresholds(s, limit);
      braid::detail::dispatch<braid::detail::sums_above_body<classes - 1>>(x, weight, cols, static_cast<float const*>(limit),
                                                                           static_cast<float*>(above));
      double sum[level_count];
      double count[level_count];
      for (int k = 0; k < classes; ++k) {
        double const whole_sum = static_cast<double>(k == 0 ? all.magnitude : above[2 * (k - 1)]);
        double const whole_count = static_cast<double>(k == 0 ? all.weight : above[2 * (k - 1) + 1]);
        sum[k] = whole_sum - (k + 1 < classes ? static_cast<double>(above[2 * k]) : 0.0);
        count[k] = whole_count - (k + 1 < classes ? static_cast<double>(above[2 * k + 1]) : 0.0);
      }
      if (!solve(count, sum, s)) { return round > 0; }
    }
    return true;
  }

  /// Least squares for the scales, by Gauss. @return false where the classes can't tell them apart, or they don't fall;
  /// then they stay as they were
  static bool solve(double const* count, double const* sum, scales& s) noexcept {
    double m[passes][passes + 1]{};
    for (int k = 0; k < classes; ++k) {
      if (!(count[k] > 0.0)) { return false; }
      // Class k of 4 is minus minus, minus plus, plus minus, plus plus, after the first pass's plus.
      double sign[passes];
      sign[0] = 1.0;
      for (int pass = 1; pass < B; ++pass) { sign[pass] = (k >> (B - 1 - pass) & 1) != 0 ? 1.0 : -1.0; }
      for (int i = 0; i < B; ++i) {
        for (int j = 0; j < B; ++j) { m[i][j] += sign[i] * sign[j] * count[k]; }
        m[i][B] += sign[i] * sum[k];
      }
    }
    double const least = 1e-6 * m[0][0];
    for (int i = 0; i < B; ++i) {
      if (!(std::fabs(m[i][i]) > least)) { return false; }
      for (int r = 0; r < B; ++r) {
        if (r == i) { continue; }
        double const f = m[r][i] / m[i][i];
        for (int c = i; c <= B; ++c) { m[r][c] -= f * m[i][c]; }
      }
    }
    scales found;
    for (int i = 0; i < B; ++i) {
      found[i] = static_cast<float>(m[i][B] / m[i][i]);
      if (!(found[i] >= 0.0f) || (i > 0 && found[i] > found[i - 1])) { return false; }
    }
    s = found;
    return true;
  }
};
static_assert(residual_policy<sign_bits<1>> && residual_policy<sign_bits<2>> && residual_policy<sign_bits<3>>);

}  // namespace residual
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
