#pragma once

#include <braid/backend/cpu/residual_kernels.hpp>
#include <braid/core/dtype.hpp>
#include <braid/residual/code.hpp>

#include <cstring>

BRAID_NAMESPACE_BEGIN

/// An expert's row: round(shared + column * residual), product and sum in float32, each rounded, then one rounding to the
/// type. Where the sum doesn't fit into the type it is the largest finite number of its sign; NaN and infinity of the shared
/// row stay what they are. A row without a residual is the shared row, bit for bit. Instruction sets give the same bits.
/// @param type    one that braid computes with
/// @param shared  [cols] of `type`
/// @param plane   [residual_bytes(code, cols)]
/// @param scale   [residual_scales(code)]
/// @param column  [cols], the scales of the columns; null: all one
/// @param out     [cols] of `type`; may be `shared`
/// @param scratch [cols]
inline void apply_residual(dtype type, std::byte const* shared, residual_code code, std::byte const* plane,
                           bfloat16 const* scale, bfloat16 const* column, index_t cols, std::byte* out, float* scratch) {
  if (cols == 0) { return; }  // then an address may be null
  if (code == residual_code::none) {
    if (out != shared) { std::memcpy(out, shared, static_cast<std::size_t>(cols) * size_of(type)); }
    return;
  }
  decode_residual(code, plane, scale, cols, scratch);
  detail::visit_dtype(type, [&]<class T>(T*) {
    detail::dispatch<detail::add_residual_body<T>>(reinterpret_cast<T const*>(shared), static_cast<float const*>(scratch),
                                                   column, cols, reinterpret_cast<T*>(out));
  });
}

BRAID_NAMESPACE_END
