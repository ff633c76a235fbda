#pragma once

/// The scales of some passes of signs: what of their search is no sum over a row. For host and device.

#include <braid/core/types.hpp>

#include <cmath>
#include <cstddef>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// B scales, the largest first.
template <int B>
struct sign_scales {
  static constexpr auto passes = static_cast<std::size_t>(B);
  static constexpr int classes = 1 << (B - 1);  // of an absolute value, by the thresholds that it lies above
  static constexpr auto levels = static_cast<std::size_t>(classes);
  static constexpr int rounds = 3;              // of Lloyd's algorithm

  float of[passes];

  BRAID_HD float& operator[](int i) noexcept { return of[i]; }
  BRAID_HD float operator[](int i) const noexcept { return of[i]; }

  /// The best ones of a Gaussian row.
  BRAID_HD void begin(float mean_magnitude) noexcept {
    constexpr float start[3] = {B == 2 ? 1.2298f : 1.4080f, B == 2 ? 0.6629f : 0.7760f, 0.4090f};
    for (int pass = 0; pass < B; ++pass) { of[pass] = start[pass] * mean_magnitude; }
  }

  /// Where the second pass, and the third, change their signs: halfway between neighbouring levels.
  BRAID_HD void thresholds(float* limit) const noexcept {
    if constexpr (B == 2) { limit[0] = of[0]; }
    if constexpr (B == 3) {
      limit[0] = of[0] - of[1];
      limit[1] = of[0];
      limit[2] = of[0] + of[1];
    }
  }

  /// The best ones for the signs that the thresholds give.
  /// @param magnitude, weight  sums over the row: of the magnitudes, by weight, and of the weights
  /// @param above  [classes - 1, 2]: the same over the columns above each threshold
  /// @return false where they can't be told apart, or don't fall; then they stay as they were
  BRAID_HD bool solve(float magnitude, float weight, float const* above) noexcept {
    double sum[levels];
    double count[levels];
    for (int k = 0; k < classes; ++k) {
      double const whole_sum = static_cast<double>(k == 0 ? magnitude : above[2 * (k - 1)]);
      double const whole_count = static_cast<double>(k == 0 ? weight : above[2 * (k - 1) + 1]);
      sum[k] = whole_sum - (k + 1 < classes ? static_cast<double>(above[2 * k]) : 0.0);
      count[k] = whole_count - (k + 1 < classes ? static_cast<double>(above[2 * k + 1]) : 0.0);
    }
    return least_squares(count, sum);
  }

 private:
  /// By Gauss.
  BRAID_HD bool least_squares(double const* count, double const* sum) noexcept {
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
    sign_scales found;
    for (int i = 0; i < B; ++i) {
      found[i] = static_cast<float>(m[i][B] / m[i][i]);
      if (!(found[i] >= 0.0f) || (i > 0 && found[i] > found[i - 1])) { return false; }
    }
    *this = found;
    return true;
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
