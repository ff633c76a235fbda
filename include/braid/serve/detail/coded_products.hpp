#pragma once

/// The product of one vector with a row that has a residual, decoded, rounded and multiplied in registers.

#include <braid/residual/detail/rebuild_piece.hpp>
#include <braid/serve/detail/row_products.hpp>
#include <braid/serve/row_source.hpp>

#include <cmath>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// x rounded to T, of numbers that fit; what doesn't becomes infinite, and NaN whose lower 16 bits are zero stays one.
template <class T, int W>
BRAID_ALWAYS_INLINE void round_lanes(typename wide<W>::f32& x) noexcept {
  if constexpr (std::is_same_v<T, bfloat16>) {
    using u32 = typename wide<W>::u32;
    u32 const u = (u32)x;
    x = (typename wide<W>::f32)((u + 0x7FFFu + ((u >> 16) & 1u)) & 0xFFFF0000u);
  } else if constexpr (!std::is_same_v<T, float>) {
    T narrow[static_cast<std::size_t>(W)];
    lane_codec<T, W>::store(x, narrow);
    lane_codec<T, W>::load(narrow, x);
  }
}

/// The dot product of a row with x, in the order of sums. Where the row holds what isn't finite or what doesn't fit its type, the
/// total isn't finite: such rows are the caller's.
/// @param cols  a multiple of 16
/// @param next  the row that is multiplied next, whose beginning is fetched
template <class T, class Columns>
struct coded_product_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(T const* shared, T const* next, Columns coded, bfloat16 const* column, float const* x, index_t cols,
                                      float* total) noexcept {
    using f32 = typename wide<W>::f32;
    constexpr int lanes = sum_order::lanes;
    constexpr auto vectors = static_cast<std::size_t>(lanes / W);
    constexpr index_t per_line = 64 / static_cast<index_t>(sizeof(T));
    constexpr index_t ahead = fetch_ahead / static_cast<index_t>(sizeof(T));
    typename Columns::template reader<W> residual(coded);
    float all = 0.0f;
    for (index_t block = 0; block < cols; block += reader_block) {
      index_t const block_end = block + reader_block < cols ? block + reader_block : cols;
      residual.enter(coded, block, block_end - block);
      for (index_t begin = block; begin < block_end; begin += sum_order::segment) {
        index_t const end = begin + sum_order::segment < block_end ? begin + sum_order::segment : block_end;
        f32 sum[vectors];
        BRAID_UNROLL
        for (std::size_t v = 0; v < vectors; ++v) { sum[v] = f32{}; }
        for (index_t c = begin; c < end; c += lanes) {
          if (c % per_line == 0) { __builtin_prefetch(c + ahead < cols ? shared + c + ahead : next + (c + ahead - cols), 0, 2); }
          BRAID_UNROLL
          for (std::size_t v = 0; v < vectors; ++v) {
            int const at = static_cast<int>(v) * W;
            f32 w;
            sum_with_residual<T, W>(residual, c - block, at, shared + c + at, column == nullptr ? nullptr : column + c + at, w);
            round_lanes<T, W>(w);
            f32 in;
            lane_codec<float, W>::load(x + c + at, in);
            sum[v] = sum[v] + w * in;
          }
        }
        alignas(64) float lane[static_cast<std::size_t>(lanes)];
        BRAID_UNROLL
        for (std::size_t v = 0; v < vectors; ++v) { lane_codec<float, W>::store(sum[v], lane + v * W); }
        all = all + fold_lanes(lane);
      }
    }
    *total = all;
  }
};

/// The product, if it can be had this way.
/// @param row, next  of `type`
inline bool coded_product(dtype type, stored_row const& row, stored_row const& next, bfloat16 const* column, index_t cols, float const* x,
                          float& total) {
  if (cols % sum_order::lanes != 0) { return false; }
  bool const done = visit_one_pass(type, row.code, row.plane, row.scale, cols, 0, [&]<class Columns, class T>(Columns const& coded, T*) {
    dispatch<coded_product_body<T, Columns>>(reinterpret_cast<T const*>(row.shared), reinterpret_cast<T const*>(next.shared), coded,
                                             column, x, cols, &total);
  });
  return done && std::isfinite(total);
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
