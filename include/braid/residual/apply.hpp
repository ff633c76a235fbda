#pragma once

/// The one rule by which an expert's row is rebuilt from the row that its group shares and from its residual.

#include <braid/backend/cpu/residual_kernels.hpp>
#include <braid/residual/decode.hpp>
#include <braid/residual/detail/rebuild_piece.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// row = round(row + column * residual).
template <class T>
struct add_residual_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* residual, bfloat16 const* column, T* row, int count) noexcept {
    constexpr float top = largest_finite<T>;
    int c = 0;
    if constexpr (lane_codec<T, W>::vectorised) {
      using f32 = typename wide<W>::f32;
      using u32 = typename wide<W>::u32;
      for (; c + W <= count; c += W) {
        f32 shared;
        lane_codec<T, W>::load(row + c, shared);
        f32 more = *reinterpret_cast<typename wide<W>::f32_memory const*>(residual + c);
        if (column != nullptr) {
          f32 factor;
          lane_codec<bfloat16, W>::load(column + c, factor);
          more = factor * more;
        }
        f32 const sum = shared + more;
        u32 const finite = (u32)(((u32)shared & 0x7F800000u) != 0x7F800000u);
        u32 const above = finite & (u32)(sum > top);
        u32 const below = finite & (u32)(sum < -top);
        u32 const limit = bits_as<std::uint32_t>(top) ^ (below & 0x80000000u);
        u32 const outside = above | below;
        u32 const bits = (outside & limit) | (~outside & (u32)sum);
        lane_codec<T, W>::store((f32)bits, row + c);
      }
    }
    for (; c < count; ++c) {
      float const shared = widen_one(row[c]);
      float sum = shared + (column != nullptr ? static_cast<float>(column[c]) * residual[c] : residual[c]);
      if ((bits_as<std::uint32_t>(shared) & 0x7F800000u) != 0x7F800000u) {
        sum = sum > top ? top : sum < -top ? -top : sum;
      }
      row[c] = T(sum);
    }
  }
};

/// Signs and ternary digits in one pass. @return false where sums don't fit, or there is no such pass: nothing is done then
/// @param first  a multiple of `residual_grain`
/// @param n      columns, at most `residual_piece`
/// @param shared, out  [n] of `type`; may be the same
inline bool rebuild_in_one_pass(dtype type, residual_code code, std::byte const* plane, bfloat16 const* scale, bfloat16 const* column,
                                index_t cols, index_t first, index_t n, std::byte const* shared, std::byte* out) {
  if (n % sum_order::lanes != 0) { return false; }
  alignas(64) std::byte kept[static_cast<std::size_t>(residual_piece) * sizeof(float)];
  std::byte* const to = shared == out ? static_cast<std::byte*>(kept) : out;
  bool fits = false;
  (void)visit_one_pass(type, code, plane, scale, cols, first, [&]<class Columns, class T>(Columns const& coded, T*) {
    dispatch<rebuild_piece_body<T, Columns>>(reinterpret_cast<T const*>(shared), coded, column == nullptr ? nullptr : column + first, n,
                                             reinterpret_cast<T*>(to), &fits);
  });
  if (fits && to != out) { std::memcpy(out, to, static_cast<std::size_t>(n) * size_of(type)); }
  return fits;
}

/// Rebuilds columns `first .. first + count` of a row.
/// @param plane  [residual_bytes(code, cols)]: of the whole row, as `scale` and `column` are
/// @param first  a multiple of `residual_grain`
/// @param shared, out  [count] of `type`, aligned to its elements; may be the same
inline void rebuild_residual_piece(dtype type, residual_code code, std::byte const* plane, bfloat16 const* scale, bfloat16 const* column,
                                   index_t cols, index_t first, index_t count, std::byte const* shared, std::byte* out) {
  std::size_t const element = size_of(type);
  if (code == residual_code::none) {
    if (out != shared) { std::memcpy(out, shared, static_cast<std::size_t>(count) * element); }
    return;
  }
  for (index_t done = 0; done < count; done += residual_piece) {
    index_t const n = count - done < residual_piece ? count - done : residual_piece;
    index_t const at = first + done;
    std::byte const* const from = shared + static_cast<std::size_t>(done) * element;
    std::byte* const to = out + static_cast<std::size_t>(done) * element;
    if (rebuild_in_one_pass(type, code, plane, scale, column, cols, at, n, from, to)) { continue; }
    alignas(64) float decoded[residual_piece];
    decode_residual_piece(code, plane, scale, cols, at, n, decoded);
    if (to != from) { std::memcpy(to, from, static_cast<std::size_t>(n) * element); }
    visit_dtype(type, [&]<class T>(T*) {
      dispatch<add_residual_body<T>>(static_cast<float const*>(decoded), column == nullptr ? nullptr : column + at,
                                     reinterpret_cast<T*>(to), static_cast<int>(n));
    });
  }
}

/// The same in place.
inline void apply_residual_piece(dtype type, residual_code code, std::byte const* plane, bfloat16 const* scale,
                                 bfloat16 const* column, index_t cols, index_t first, index_t count, std::byte* piece) {
  rebuild_residual_piece(type, code, plane, scale, column, cols, first, count, piece, piece);
}

}  // namespace detail

/// Rebuilds an expert's row: round(shared row + column * decoded residual), where the product and the sum are each rounded
/// to float32 and the result once more to `type`, to nearest even. What doesn't fit into the type becomes its largest
/// number of that sign, since no expert had an infinity there; an infinity or a NaN of the shared row itself stays one.
/// With `residual_code::none` the shared row is copied bit for bit. The same bits on every machine and instruction set.
/// @param type    f32, f16, bf16 or f8: of both rows, each aligned to its elements
/// @param shared  [cols]
/// @param plane   [residual_bytes(code, cols)]
/// @param scale   [residual_scales(code)]
/// @param column  [cols]: what each column's residual is multiplied by; null: nothing
/// @param out     [cols]: may be `shared`
inline void apply_residual(dtype type, std::byte const* shared, residual_code code, std::byte const* plane,
                           bfloat16 const* scale, bfloat16 const* column, index_t cols, std::byte* out) {
  if (cols == 0) { return; }
  detail::rebuild_residual_piece(type, code, plane, scale, column, cols, 0, cols, shared, out);
}

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
