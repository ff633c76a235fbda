#pragma once

/// Dot products of the deltas of one segment of a row, in the one order of sums (core/sum_order.hpp).

#include <braid/backend/cpu/convert.hpp>
#include <braid/core/sum_order.hpp>

#include <cmath>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Entry (i, j <= i) of a lower triangle that is stored row by row.
constexpr index_t triangle(index_t i, index_t j) noexcept { return i * (i + 1) / 2 + j; }

/// Delta i of a segment starts at `delta + i * segment`; columns beyond the row's end are zero up to a multiple of 16.
inline constexpr int segment_stride = sum_order::segment;

constexpr int padded(int count) noexcept { return (count + sum_order::lanes - 1) / sum_order::lanes * sum_order::lanes; }

/// Rows i0 .. i0 + I with rows j0 .. j0 + J (a full block), or with themselves (`Triangle`: pairs j <= i). The
/// accumulators stay in registers: I and J are at most 4 and 2, or a triangle of 4.
template <int W, int I, int J, bool Triangle>
BRAID_ALWAYS_INLINE void gram_block(float const* delta, int i0, int j0, int count, float* totals) noexcept {
  using f32 = typename wide<W>::f32;
  constexpr auto pairs = static_cast<std::size_t>(Triangle ? I * (I + 1) / 2 : I * J);
  float lane[pairs][static_cast<std::size_t>(sum_order::lanes)];
  for (int first = 0; first < sum_order::lanes; first += W) {
    f32 sum[pairs];
    BRAID_UNROLL
    for (std::size_t k = 0; k < pairs; ++k) { sum[k] = f32{}; }
    float const* row = delta + first;
    for (int c = 0; c < count; c += sum_order::lanes) {
      f32 x[static_cast<std::size_t>(I)];
      BRAID_UNROLL
      for (int i = 0; i < I; ++i) { x[i] = *reinterpret_cast<typename wide<W>::f32_memory const*>(row + (i0 + i) * segment_stride + c); }
      if constexpr (Triangle) {
        BRAID_UNROLL
        for (int i = 0; i < I; ++i) {
          BRAID_UNROLL
          for (int j = 0; j <= i; ++j) { sum[triangle(i, j)] = sum[triangle(i, j)] + x[i] * x[j]; }
        }
      } else {
        BRAID_UNROLL
        for (int j = 0; j < J; ++j) {
          f32 const y = *reinterpret_cast<typename wide<W>::f32_memory const*>(row + (j0 + j) * segment_stride + c);
          BRAID_UNROLL
          for (int i = 0; i < I; ++i) { sum[i * J + j] = sum[i * J + j] + x[i] * y; }
        }
      }
    }
    BRAID_UNROLL
    for (std::size_t k = 0; k < pairs; ++k) { *reinterpret_cast<typename wide<W>::f32_memory*>(&lane[k][first]) = sum[k]; }
  }
  for (int i = 0; i < I; ++i) {
    for (int j = 0; j < (Triangle ? i + 1 : J); ++j) {
      float& total = totals[triangle(i0 + i, j0 + j)];
      total = total + sum_order::fold(lane[Triangle ? triangle(i, j) : i * J + j]);
    }
  }
}

/// Adds a segment's dot products to `totals`, the lower triangle of all pairs of `rows` deltas.
struct gram_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* delta, int rows, int count, float* totals) noexcept {
    int i = 0;
    for (; i + 4 <= rows; i += 4) {
      gram_block<W, 4, 4, true>(delta, i, i, count, totals);
      for (int j = 0; j < i; j += 2) { gram_block<W, 4, 2, false>(delta, i, j, count, totals); }
    }
    for (; i < rows; ++i) {
      for (int j = 0; j + 2 <= i; j += 2) { gram_block<W, 1, 2, false>(delta, i, j, count, totals); }
      if (i % 2 != 0) { gram_block<W, 1, 1, false>(delta, i, i - 1, count, totals); }
      gram_block<W, 1, 1, true>(delta, i, i, count, totals);
    }
  }
};

/// Adds a segment's squared length to `*total`.
struct squared_length_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* delta, int count, float* total) noexcept {
    gram_block<W, 1, 1, true>(delta, 0, 0, count, total);
  }
};

/// Replaces each element by its sign: -1, 0, +1.
struct sign_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float* x, int count) noexcept {
    for (int c = 0; c < count; ++c) {
      float const up = x[c] > 0.0f ? 1.0f : 0.0f;
      float const down = x[c] < 0.0f ? 1.0f : 0.0f;
      x[c] = up - down;
    }
  }
};

/// x *= root: with the root of a column's weight on both sides, a dot product counts the column by its weight.
struct root_weight_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* root, float* x, int count) noexcept {
    for (int c = 0; c < count; ++c) { x[c] = root[c] * x[c]; }
  }
};

/// Sets `*found` where an element is NaN or infinite.
struct nonfinite_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, int count, bool* found) noexcept {
    std::uint32_t any = 0;
    for (int c = 0; c < count; ++c) {
      any |= (bits_as<std::uint32_t>(x[c]) & 0x7F800000u) == 0x7F800000u ? 1u : 0u;
    }
    *found = *found || any != 0;
  }
};

/// Zeros up to the next multiple of 16, so that kernels need no tail.
inline void pad_segment(float* x, int count) noexcept {
  for (int c = count; c < padded(count); ++c) { x[c] = 0.0f; }
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
