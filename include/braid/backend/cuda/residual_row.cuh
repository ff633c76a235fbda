#pragma once

/// How a block works on one channel's residuals: a thread is one lane of some segments, so that the one order of sums
/// (core/sum_order.hpp) costs nothing, and whatever belongs to a column is its thread's own.

#include <braid/backend/cuda/element_rows.cuh>
#include <braid/backend/cuda/lane_codec.cuh>
#include <braid/core/sum_order.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Columns of a chunk: a thread's, 16 apart. Four chunks are a segment.
inline constexpr int chunk_columns = 8;

/// Most sums of one pass.
inline constexpr int most_residual_sums = 6;

/// How rows lie in a block's memory: the number of columns, and threads, a multiple of 32.
struct residual_shape {
  int cols = 0;
  int threads = 0;

  BRAID_HD constexpr int segments() const noexcept { return (cols + sum_order::segment - 1) / sum_order::segment; }
  BRAID_HD constexpr int segments_at_once() const noexcept { return threads / sum_order::lanes; }
  BRAID_HD constexpr int chunks() const noexcept { return (segments() + segments_at_once() - 1) / segments_at_once() * 4; }
  /// Floats of a row.
  BRAID_HD constexpr int slots() const noexcept { return chunks() * chunk_columns * threads; }

  /// Where a column's float is.
  BRAID_HD constexpr int slot_of(int col) const noexcept {
    int const segment = col / sum_order::segment;
    int const in_segment = col % sum_order::segment;
    return (segment / segments_at_once() * 32 + in_segment / sum_order::lanes) * threads +
           segment % segments_at_once() * sum_order::lanes + in_segment % sum_order::lanes;
  }
};

/// A thread's view of a row. Columns of a chunk are `first_column + 16 i`.
struct residual_row {
  residual_shape shape;
  float* part;  // [2, most_residual_sums, segments]: sums of segments
  int turn = 0;

  __device__ residual_row(residual_shape const& s, float* parts) noexcept : shape(s), part(parts) {}

  __device__ static int thread() noexcept { return static_cast<int>(threadIdx.x); }
  __device__ static int lane() noexcept { return thread() % sum_order::lanes; }

  __device__ int first_column(int chunk) const noexcept {
    return (chunk / 4 * shape.segments_at_once() + thread() / sum_order::lanes) * sum_order::segment + chunk % 4 * (sum_order::segment / 4) +
           lane();
  }
  __device__ int slot(int chunk, int i) const noexcept { return (chunk * chunk_columns + i) * shape.threads + thread(); }

  /// Calls `f(chunk, first column)` for this thread's chunks that have columns.
  template <class F>
  __device__ void each(F const& f) const {
    int const chunks = shape.chunks();
    for (int q = 0; q < chunks; ++q) {
      int const c = first_column(q);
      if (c < shape.cols) { f(q, c); }
    }
  }

  /// The sums of what `f(chunk, first column, sum)` adds, in columns' order, to `sum`. By all threads, who all get them; a
  /// barrier.
  template <int Sums, class F>
  __device__ void sums(F const& f, float (&total)[Sums]) {
    static_assert(Sums <= most_residual_sums);
    int const segments = shape.segments();
    turn ^= 1;
    float* const to = part + turn * most_residual_sums * segments;
    int const chunks = shape.chunks();
    for (int tile = 0; tile < chunks; tile += 4) {
      float sum[Sums];
#pragma unroll
      for (int s = 0; s < Sums; ++s) { sum[s] = 0.0f; }
      for (int q = tile; q < tile + 4; ++q) {
        int const c = first_column(q);
        if (c < shape.cols) { f(q, c, sum); }
      }
#pragma unroll
      for (int width = sum_order::lanes / 2; width > 0; width /= 2) {
#pragma unroll
        for (int s = 0; s < Sums; ++s) { sum[s] = sum[s] + __shfl_xor_sync(0xFFFFFFFFu, sum[s], width); }
      }
      int const segment = tile / 4 * shape.segments_at_once() + thread() / sum_order::lanes;
      if (lane() == 0 && segment < segments) {
#pragma unroll
        for (int s = 0; s < Sums; ++s) { to[s * segments + segment] = sum[s]; }
      }
    }
    __syncthreads();
#pragma unroll
    for (int s = 0; s < Sums; ++s) {
      total[s] = 0.0f;
      for (int segment = 0; segment < segments; ++segment) { total[s] = total[s] + to[s * segments + segment]; }
    }
  }
};

/// Not a part of every loop: types that few tensors have.
__device__ __noinline__ inline float widen_apart(dtype type, std::byte const* p) noexcept { return widen_any(type, p); }

/// A chunk of a model's row in float32; zeros behind the row's end.
__device__ inline void load_chunk(dtype type, std::byte const* row, index_t step, int first, int cols, float (&x)[chunk_columns]) noexcept {
  auto const load = [&](auto const& one) {
#pragma unroll
    for (int i = 0; i < chunk_columns; ++i) {
      int const c = first + sum_order::lanes * i;
      x[i] = c < cols ? one(row + static_cast<index_t>(c) * step) : 0.0f;
    }
  };
  switch (type) {
    case dtype::bf16: load([](std::byte const* p) { return word_codec<bfloat16>::widen_one(*reinterpret_cast<std::uint16_t const*>(p)); }); break;
    case dtype::f16: load([](std::byte const* p) { return word_codec<float16>::widen_one(*reinterpret_cast<std::uint16_t const*>(p)); }); break;
    case dtype::f32: load([](std::byte const* p) { return *reinterpret_cast<float const*>(p); }); break;
    default: load([type](std::byte const* p) { return widen_apart(type, p); }); break;
  }
}

__device__ inline bool is_finite(float x) noexcept { return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u; }
__device__ inline float size_of_float(float x) noexcept { return __uint_as_float(__float_as_uint(x) & 0x7FFFFFFFu); }

/// What an error in what is coded counts.
struct residual_weight {
  float const* of_column;  // [cols], or null: all one
  bool spread;             // times the element's size

  __device__ bool weighted() const noexcept { return of_column != nullptr || spread; }
  __device__ float operator()(int col, float x) const noexcept {
    float const size = spread ? size_of_float(x) : 1.0f;
    return of_column == nullptr ? size : of_column[col] * size;
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
