#pragma once

/// Rows of any storage type and layout, element by element: what kernels for unusual cases read and write.

#include <braid/backend/channel_block.hpp>
#include <braid/backend/cuda/kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

BRAID_HD inline float widen_any(dtype type, std::byte const* p) noexcept {
  switch (type) {
    case dtype::bf16: return static_cast<float>(*reinterpret_cast<bfloat16 const*>(p));
    case dtype::f16: return static_cast<float>(*reinterpret_cast<float16 const*>(p));
    case dtype::f8_e4m3: return static_cast<float>(*reinterpret_cast<float8_e4m3 const*>(p));
    case dtype::f8_e5m2: return static_cast<float>(*reinterpret_cast<float8_e5m2 const*>(p));
    default: return *reinterpret_cast<float const*>(p);
  }
}

__device__ inline void narrow_any(dtype type, float x, std::byte* p) noexcept {
  switch (type) {
    case dtype::bf16: *reinterpret_cast<bfloat16*>(p) = bfloat16(x); break;
    case dtype::f16: *reinterpret_cast<float16*>(p) = float16(x); break;
    case dtype::f8_e4m3: *reinterpret_cast<float8_e4m3*>(p) = float8_e4m3(x); break;
    case dtype::f8_e5m2: *reinterpret_cast<float8_e5m2*>(p) = float8_e5m2(x); break;
    default: *reinterpret_cast<float*>(p) = x;
  }
}

/// One model's channels.
struct any_rows {
  std::byte const* data = nullptr;
  index_t stride = 0;  // bytes from one channel to the next, in a matrix of `width` channels
  index_t step = 0;    // bytes from one column to the next
  index_t width = 0;   // channels of a matrix, where channels are columns; 0: all
  index_t matrix = 0;  // bytes from one matrix to the next
  dtype type = dtype::f32;

  any_rows() = default;
  any_rows(channel_rows const& rows, tensor_channels const& tensor) noexcept : data(rows.data), type(rows.type) {
    auto const element = static_cast<index_t>(size_of(rows.type));
    width = tensor.transposed;
    stride = width == 0 ? rows.stride : element;
    step = width == 0 ? element : width * element;
    matrix = width == 0 ? 0 : tensor.cols * width * element;
  }

  BRAID_HD std::byte const* row(index_t channel) const noexcept {
    return width == 0 ? data + channel * stride : data + channel / width * matrix + channel % width * stride;
  }
  BRAID_HD float at(std::byte const* row, index_t col) const noexcept { return widen_any(type, row + col * step); }
};

}  // namespace detail
BRAID_NAMESPACE_END
