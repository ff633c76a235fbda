#pragma once

/// What the scales of a row's code are computed from.

#include <braid/backend/cpu/lanes.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// out[0] = sum of weight * |x|, out[1] = sum of the weights.
struct magnitude_sum_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float const* weight, index_t cols, float* out) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const rows[] = {x};
    if (weight == nullptr) {
      sum_columns<W, 1>(rows, nullptr, cols, [](f32 const* v, f32* y) { magnitude<W>(v[0], y[0]); }, out);
      out[1] = static_cast<float>(cols);
    } else {
      sum_columns<W, 2>(rows, weight, cols, [](f32 const* v, f32* y) {
        magnitude<W>(v[0], y[0]);
        fill_lanes<W>(1.0f, y[1]);
      }, out);
    }
  }
};

/// Over the columns whose |x| is above threshold t: out[2 t] = sum of weight * |x|, out[2 t + 1] = sum of the weights.
template <int Thresholds>
struct sums_above_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float const* weight, index_t cols, float const* threshold,
                                      float* out) noexcept {
    using f32 = typename wide<W>::f32;
    float limit[static_cast<std::size_t>(Thresholds)];
    for (int t = 0; t < Thresholds; ++t) { limit[t] = threshold[t]; }
    float const* const rows[] = {x};
    sum_columns<W, 2 * Thresholds>(rows, weight, cols, [&limit](f32 const* v, f32* y) {
      f32 size;
      f32 one;
      magnitude<W>(v[0], size);
      fill_lanes<W>(1.0f, one);
      BRAID_UNROLL
      for (int t = 0; t < Thresholds; ++t) {
        auto const above = (typename wide<W>::u32)(size > limit[t]);
        keep_where<W>(above, size, y[2 * t]);
        keep_where<W>(above, one, y[2 * t + 1]);
      }
    }, out);
  }
};

/// out[0] = sum of weight * x * y, out[1] = sum of weight * y * y.
struct product_sum_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float const* y, float const* weight, index_t cols, float* out) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const rows[] = {x, y};
    sum_columns<W, 2>(rows, weight, cols, [](f32 const* v, f32* p) {
      p[0] = v[0] * v[1];
      p[1] = v[1] * v[1];
    }, out);
  }
};

/// Sums over a row: of the magnitudes, and of the weights.
struct magnitude_sum {
  float magnitude;
  float weight;

  magnitude_sum(float const* x, float const* column_weight, index_t cols) noexcept {
    float out[2];
    dispatch<magnitude_sum_body>(x, column_weight, cols, static_cast<float*>(out));
    magnitude = out[0];
    weight = out[1];
  }
  [[nodiscard]] float mean() const noexcept { return weight > 0.0f ? magnitude / weight : 0.0f; }
};

/// A scale as it is stored. What overflows, or is below zero, is zero: then nothing is coded.
BRAID_HD inline bfloat16 stored_scale(float s) noexcept {
  bfloat16 const rounded(s);
  bool const finite = (rounded.bits & 0x7F80u) != 0x7F80u;
  return s >= 0.0f && finite ? rounded : bfloat16(0.0f);
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
