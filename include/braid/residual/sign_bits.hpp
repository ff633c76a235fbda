#pragma once

#include <braid/residual/detail/row_sum.hpp>
#include <braid/residual/policy.hpp>

#include <array>
#include <cmath>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace residual {

/// B passes of signs, each with one scale a row: x ~ +-s0 +-s1 ... Each scale starts as the mean absolute value of what
/// the passes before have left. With several passes, the scales that are best for these signs (least squares) and the
/// signs that are best for these scales then follow each other a few times, while the error falls. One pass is BitDelta's
/// code (Liu et al., NeurIPS 2024, arXiv 2402.10193) with a scale a row. B bits an element and 2 B bytes a row.
template <int B>
  requires(B >= 1 && B <= 3)
struct sign_bits {
  static constexpr std::string_view name = B == 1 ? "sign1" : B == 2 ? "sign2" : "sign3";
  static constexpr residual_code code = B == 1 ? residual_code::sign1 : B == 2 ? residual_code::sign2 : residual_code::sign3;
  int sweeps = 3;

  void encode(float const* x, float const* weight, index_t cols, std::byte* plane, bfloat16* scale,
              residual_workspace& work) const {
    float* const left = work.left.data();
    for (index_t c = 0; c < cols; ++c) { left[c] = std::fabs(x[c]); }
    float const total = detail::total_weight(weight, cols);
    scales s{};
    for (int pass = 0; pass < B; ++pass) {
      float const mean = total > 0.0f ? detail::row_sum(weight, cols, [&](index_t c) { return left[c]; }) / total : 0.0f;
      float const a = rounded(mean);
      s[pass] = a;
      for (index_t c = 0; c < cols; ++c) { left[c] = std::fabs(left[c] - a); }
    }
    if constexpr (B > 1) { refine(x, weight, cols, s); }
    index_t const stride = (cols + 7) / 8;
    for (index_t i = 0; i < stride; ++i) {
      unsigned bits[passes]{};
      index_t const n = cols - 8 * i < 8 ? cols - 8 * i : 8;
      for (int k = 0; k < n; ++k) {
        float rest = x[8 * i + k];
        for (int pass = 0; pass < B; ++pass) {
          bool const minus = rest < 0.0f;
          bits[pass] |= static_cast<unsigned>(minus) << k;
          rest = minus ? rest + s[pass] : rest - s[pass];
        }
      }
      for (int pass = 0; pass < B; ++pass) { plane[pass * stride + i] = static_cast<std::byte>(bits[pass]); }
    }
    for (int pass = 0; pass < B; ++pass) { scale[pass] = bfloat16(s[pass]); }
  }

 private:
  static constexpr auto passes = static_cast<std::size_t>(B);
  static constexpr auto classes = std::size_t{1} << (B - 1);  // what the signs make of an absolute value
  struct scales {
    float of[passes];
    float& operator[](int i) noexcept { return of[i]; }
    float operator[](int i) const noexcept { return of[i]; }
  };

  static float rounded(float x) noexcept { return static_cast<float>(bfloat16(x)); }

  /// The class of an absolute value: bit i says that pass i + 1 subtracts.
  static int class_of(float y, scales const& s) noexcept {
    int k = 0;
    float rest = y - s[0];
    for (int pass = 1; pass < B; ++pass) {
      bool const minus = rest < 0.0f;
      k |= static_cast<int>(minus) << (pass - 1);
      rest = minus ? rest + s[pass] : rest - s[pass];
    }
    return k;
  }

  static float squared_error(float const* x, float const* weight, index_t cols, scales const& s) noexcept {
    return detail::row_sum(weight, cols, [&](index_t c) {
      float const y = std::fabs(x[c]);
      float rest = y - s[0];
      for (int pass = 1; pass < B; ++pass) { rest = std::fabs(rest) - s[pass]; }
      return rest * rest;
    });
  }

  static void refine(float const* x, float const* weight, index_t cols, scales& s) noexcept {
    constexpr int rounds = 4;
    float best = squared_error(x, weight, cols, s);
    for (int round = 0; round < rounds && best > 0.0f; ++round) {
      double count[classes];
      double sum[classes];
      for (int k = 0; k < static_cast<int>(classes); ++k) {
        count[k] = static_cast<double>(detail::row_sum(
            weight, cols, [&](index_t c) { return class_of(std::fabs(x[c]), s) == k ? 1.0f : 0.0f; }));
        sum[k] = static_cast<double>(detail::row_sum(weight, cols, [&](index_t c) {
          float const y = std::fabs(x[c]);
          return class_of(y, s) == k ? y : 0.0f;
        }));
      }
      scales next;
      if (!solve(count, sum, next)) { return; }
      float const error = squared_error(x, weight, cols, next);
      if (!(error < best)) { return; }
      best = error;
      s = next;
    }
  }

  /// Least squares for the scales, by Gauss. @return false where the classes can't tell them apart, or they don't fall
  static bool solve(double const* count, double const* sum, scales& s) noexcept {
    double m[passes][passes + 1]{};
    for (int k = 0; k < static_cast<int>(classes); ++k) {
      double sign[passes];
      sign[0] = 1.0;
      for (int pass = 1; pass < B; ++pass) { sign[pass] = (k >> (pass - 1) & 1) != 0 ? -1.0 : 1.0; }
      for (int i = 0; i < B; ++i) {
        for (int j = 0; j < B; ++j) { m[i][j] += sign[i] * sign[j] * count[k]; }
        m[i][B] += sign[i] * sum[k];
      }
    }
    for (int i = 0; i < B; ++i) {
      if (!(std::fabs(m[i][i]) > 1e-6)) { return false; }
      for (int r = 0; r < B; ++r) {
        if (r == i) { continue; }
        double const f = m[r][i] / m[i][i];
        for (int c = i; c <= B; ++c) { m[r][c] -= f * m[i][c]; }
      }
    }
    for (int i = 0; i < B; ++i) {
      s[i] = rounded(static_cast<float>(m[i][B] / m[i][i]));
      if (!(s[i] >= 0.0f) || (i > 0 && s[i] > s[i - 1])) { return false; }
    }
    return true;
  }
};
static_assert(residual_policy<sign_bits<1>> && residual_policy<sign_bits<2>> && residual_policy<sign_bits<3>>);

}  // namespace residual
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
