#pragma once

/// Products of rows of a weight with inputs, in the order of sums, several at a time.

#include <braid/backend/cpu/convert.hpp>
#include <braid/backend/cpu/native_f16.hpp>
#include <braid/core/sum_order.hpp>

#include <cstring>
#include <type_traits>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// `sum_order::fold` in vectors: the same additions.
BRAID_ALWAYS_INLINE float fold_lanes(float* lane) noexcept {
  using eight = wide<8>::f32_memory;
  using four = wide<4>::f32_memory;
  *reinterpret_cast<eight*>(lane) = *reinterpret_cast<eight const*>(lane) + *reinterpret_cast<eight const*>(lane + 8);
  wide<4>::f32 const x = *reinterpret_cast<four const*>(lane) + *reinterpret_cast<four const*>(lane + 4);
  return (x[0] + x[2]) + (x[1] + x[3]);
}

/// How far ahead rows are fetched into the second cache, in bytes: where a row begins, no hardware can guess. Measured on rows
/// of 8 to 28 KiB in random order: 1.2 times the speed without.
inline constexpr index_t fetch_ahead = 4096;

/// totals[r * stride + b] += the sum over columns `first` to `last` - 1 of row r times input b, for R rows and B inputs.
/// Meanwhile the first columns of the rows `next` are fetched.
/// `first` is a multiple of a segment, and so is `last`, unless it is `cols`: several calls from the left are one sum.
template <class T, int R, int B>
struct row_products_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(T const* const* row, T const* const* next, float const* const* x, index_t first,
                                      index_t last, index_t cols, float* totals, index_t stride) noexcept {
    using f32 = typename wide<W>::f32;
    constexpr int lanes = sum_order::lanes;
    constexpr auto rows = static_cast<std::size_t>(R);
    constexpr auto inputs = static_cast<std::size_t>(B);
    constexpr auto width = static_cast<std::size_t>(lanes);
    constexpr index_t per_line = 64 / static_cast<index_t>(sizeof(T));
    index_t const whole = cols / lanes * lanes;
    bool const ragged = last > whole;
    // The last columns, filled up with zeros.
    T row_tail[rows][width];
    float x_tail[inputs][width];
    if (ragged) {
      for (index_t l = 0; l < lanes; ++l) {
        for (std::size_t r = 0; r < rows; ++r) { row_tail[r][l] = whole + l < cols ? row[r][whole + l] : T{}; }
        for (std::size_t b = 0; b < inputs; ++b) { x_tail[b][l] = whole + l < cols ? x[b][whole + l] : 0.0f; }
      }
    }
    for (index_t begin = first; begin < last; begin += sum_order::segment) {
      index_t const end = begin + sum_order::segment < last ? begin + sum_order::segment : last;
      index_t const full = end < whole ? end : whole;
      alignas(64) float lane[rows][inputs][width];
      for (int at = 0; at < lanes; at += W) {
        f32 sum[rows][inputs];
        BRAID_UNROLL
        for (std::size_t r = 0; r < rows; ++r) {
          BRAID_UNROLL
          for (std::size_t b = 0; b < inputs; ++b) { sum[r][b] = f32{}; }
        }
        for (index_t c = begin + at; c < full; c += lanes) {
          if (at == 0 && c % per_line == 0) {
            index_t const ahead = c + fetch_ahead / static_cast<index_t>(sizeof(T));
            BRAID_UNROLL
            for (std::size_t r = 0; r < rows; ++r) {
              __builtin_prefetch(ahead < last ? row[r] + ahead : next[r] + (first + ahead - last), 0, 2);
            }
          }
          f32 w[rows];
          BRAID_UNROLL
          for (std::size_t r = 0; r < rows; ++r) { lane_codec<T, W>::load(row[r] + c, w[r]); }
          BRAID_UNROLL
          for (std::size_t b = 0; b < inputs; ++b) {
            f32 v;
            lane_codec<float, W>::load(x[b] + c, v);
            BRAID_UNROLL
            for (std::size_t r = 0; r < rows; ++r) { sum[r][b] = sum[r][b] + w[r] * v; }
          }
        }
        if (ragged && end == last) {
          for (std::size_t r = 0; r < rows; ++r) {
            f32 w;
            lane_codec<T, W>::load(row_tail[r] + at, w);
            for (std::size_t b = 0; b < inputs; ++b) {
              f32 v;
              lane_codec<float, W>::load(x_tail[b] + at, v);
              sum[r][b] = sum[r][b] + w * v;
            }
          }
        }
        BRAID_UNROLL
        for (std::size_t r = 0; r < rows; ++r) {
          BRAID_UNROLL
          for (std::size_t b = 0; b < inputs; ++b) { lane_codec<float, W>::store(sum[r][b], lane[r][b] + at); }
        }
      }
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t b = 0; b < inputs; ++b) {
          float& total = totals[static_cast<index_t>(r) * stride + static_cast<index_t>(b)];
          total = total + fold_lanes(lane[r][b]);
        }
      }
    }
  }
};

/// The same for any number of rows and inputs.
/// @param row  addresses of `rows` rows of T
template <class T>
void row_products(std::byte const* const* row, int rows, float const* const* x, int inputs, index_t first, index_t last,
                  index_t cols, float* totals, index_t stride) {
  if constexpr (std::is_same_v<T, float16>) {
    if (has_native_f16()) {
      row_products<native_float16>(row, rows, x, inputs, first, last, cols, totals, stride);
      return;
    }
  }
  auto const run = [&]<int R, int B>(std::integral_constant<int, R>, std::integral_constant<int, B>, int r, int b) {
    T const* at[static_cast<std::size_t>(R)];
    T const* next[static_cast<std::size_t>(R)];
    for (int i = 0; i < R; ++i) {
      at[i] = reinterpret_cast<T const*>(row[r + i]);
      next[i] = reinterpret_cast<T const*>(row[r + R + i < rows ? r + R + i : r + i]);
    }
    dispatch<row_products_body<T, R, B>>(static_cast<T const* const*>(at), static_cast<T const* const*>(next), x + b, first, last,
                                         cols, totals + static_cast<index_t>(r) * stride + b, stride);
  };
  auto const all_rows = [&]<int B>(std::integral_constant<int, B> count, int b) {
    int r = 0;
    if constexpr (B == 1) {  // as many streams from memory as registers allow
      for (; r + 8 <= rows; r += 8) { run(std::integral_constant<int, 8>{}, count, r, b); }
    }
    for (; r + 4 <= rows; r += 4) { run(std::integral_constant<int, 4>{}, count, r, b); }
    for (; r < rows; ++r) { run(std::integral_constant<int, 1>{}, count, r, b); }
  };
  int b = 0;
  for (; b + 4 <= inputs; b += 4) { all_rows(std::integral_constant<int, 4>{}, b); }
  switch (inputs - b) {
    case 3: all_rows(std::integral_constant<int, 3>{}, b); break;
    case 2: all_rows(std::integral_constant<int, 2>{}, b); break;
    case 1: all_rows(std::integral_constant<int, 1>{}, b); break;
    default: break;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
