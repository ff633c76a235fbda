#pragma once

/// What coding a group's residuals does to whole rows, besides encoding.

#include <braid/backend/cpu/lanes.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// sum += times * (w - q).
struct add_left_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* w, float const* q, float times, index_t cols, float* sum) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const in[] = {w, q, sum};
    float* const out[] = {sum};
    map_columns<W>(in, out, cols, [times](f32 const* v, f32* y) { y[0] = v[2] + times * (v[0] - v[1]); });
  }
};

/// sum -= times * (w - q), and target = w - sum * share, or 0 where that isn't finite.
struct aim_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* w, float const* q, float times, float share, index_t cols, float* sum,
                                      float* target) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const in[] = {w, q, sum};
    float* const out[] = {sum, target};
    map_columns<W>(in, out, cols, [times, share](f32 const* v, f32* y) {
      y[0] = v[2] - times * (v[0] - v[1]);
      keep_finite<W>(v[0] - y[0] * share, y[1]);
    });
  }
};

/// target = w - shared, or 0 where that isn't finite.
struct distance_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* w, float const* shared, index_t cols, float* target) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const in[] = {w, shared};
    float* const out[] = {target};
    map_columns<W>(in, out, cols, [](f32 const* v, f32* y) { keep_finite<W>(v[0] - v[1], y[0]); });
  }
};

/// to = x / column: what a row's scale has to code where columns have scales of their own.
struct divide_columns_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float const* column, index_t cols, float* to) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const in[] = {x, column};
    float* const out[] = {to};
    map_columns<W>(in, out, cols, [](f32 const* v, f32* y) { keep_finite<W>(v[0] / v[1], y[0]); });
  }
};

/// to = weight * |x|; without weights |x|.
struct spread_weight_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float const* weight, index_t cols, float* to) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const in[] = {x, weight != nullptr ? weight : x};
    float* const out[] = {to};
    bool const weighted = weight != nullptr;
    map_columns<W>(in, out, cols, [weighted](f32 const* v, f32* y) {
      f32 size;
      magnitude<W>(v[0], size);
      y[0] = size;
      if (weighted) { y[0] = v[1] * size; }
    });
  }
};

/// x *= column.
struct multiply_columns_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* column, index_t cols, float* x) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const in[] = {column, x};
    float* const out[] = {x};
    map_columns<W>(in, out, cols, [](f32 const* v, f32* y) { y[0] = v[0] * v[1]; });
  }
};

/// out[0], out[1]: the squared errors, by weight, of two codes of one target.
struct two_errors_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* target, float const* first, float const* second, float const* weight,
                                      index_t cols, float* out) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const rows[] = {target, first, second};
    sum_columns<W, 2>(rows, weight, cols, [](f32 const* v, f32* y) {
      f32 const a = v[0] - v[1];
      f32 const b = v[0] - v[2];
      y[0] = a * a;
      y[1] = b * b;
    }, out);
  }
};

/// The largest finite number of a storage type.
template <class T>
inline constexpr float largest_finite = 0x1.fffffep127f;
template <>
inline constexpr float largest_finite<bfloat16> = 0x1.fep127f;
template <>
inline constexpr float largest_finite<float16> = 65504.0f;
template <>
inline constexpr float largest_finite<float8_e4m3> = 448.0f;
template <>
inline constexpr float largest_finite<float8_e5m2> = 57344.0f;

/// to = round(x), the largest finite number of its sign where a finite x doesn't fit.
template <class T>
struct narrow_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, index_t cols, T* to) noexcept {
    constexpr float most = largest_finite<T>;
    index_t c = 0;
    if constexpr (lane_codec<T, W>::vectorised) {
      using f32 = typename wide<W>::f32;
      for (; c + W <= cols; c += W) {
        f32 v;
        load_lanes<W>(x + c, v);
        clamp_finite<W>(v, most, v);
        lane_codec<T, W>::store(v, to + c);
      }
    }
    for (; c < cols; ++c) {
      bool const finite = (bits_as<std::uint32_t>(x[c]) & 0x7F800000u) != 0x7F800000u;
      to[c] = T(finite && x[c] > most ? most : finite && x[c] < -most ? -most : x[c]);
    }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
