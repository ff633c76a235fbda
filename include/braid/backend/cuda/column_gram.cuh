#pragma once

/// Gram matrices of two inputs' columns: exact products of float32 numbers, added in float64 from the first row to the last. The
/// order leaves one chain of additions a sum, so that bringing the rows is what there is to do well.

#include <braid/backend/cuda/element_inputs.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// gram[column] = {aa, ab, ab, bb}. Any types; a thread takes a column.
struct column_gram {
  device_input base;
  device_input models[2];
  bool has_base;
  bool deltas;
  index_t rows;
  double* gram;

  __device__ void operator()(index_t col) const noexcept {
    double aa = 0.0;
    double ab = 0.0;
    double bb = 0.0;
#pragma unroll 8
    for (index_t row = 0; row < rows; ++row) {
      auto const at = [row, col](device_input const& input) { return widen_element(input.data + row * input.stride + col * bytes_of(input.type), input.type); };
      float const p = has_base ? at(base) : 0.0f;
      float x = at(models[0]);
      float y = at(models[1]);
      if (deltas) {
        x = x - p;
        y = y - p;
      }
      double const a = static_cast<double>(x);
      double const b = static_cast<double>(y);
      aa = aa + a * a;
      ab = ab + a * b;
      bb = bb + b * b;
    }
    gram[4 * col] = aa;
    gram[4 * col + 1] = ab;
    gram[4 * col + 2] = ab;
    gram[4 * col + 3] = bb;
  }
};

inline constexpr int gram_columns = 32;       // of a block
inline constexpr int gram_threads = 256;
inline constexpr int gram_pieces = 4;         // of 16 bytes that a thread brings of each model at once
inline constexpr int gram_stage_rows = gram_threads / 4 * gram_pieces;  // a row's columns are 4 pieces

struct alignas(16) gram_piece {
  std::uint32_t word[4];
};

struct column_gram_room {
  alignas(16) std::uint16_t x[2][gram_stage_rows][gram_columns];
};

/// The same of two models of bfloat16, rows of whole pieces. All threads bring rows for the next stage, and the first three warps
/// add one sum each; products are exact, so that a fused multiply-add rounds as the addition does.
[[maybe_unused]] BRAID_KERNEL void __launch_bounds__(gram_threads) column_gram_kernel(__grid_constant__ column_gram const a, index_t cols) {
  BRAID_BLOCK_MEMORY(memory);
  auto& room = *reinterpret_cast<column_gram_room*>(memory);
  auto const first = static_cast<index_t>(blockIdx.x) * gram_columns;
  index_t const piece_col = first + static_cast<index_t>(threadIdx.x % 4) * 8;
  auto const piece_row = static_cast<index_t>(threadIdx.x / 4);
  gram_piece next[2][gram_pieces];
  auto const bring = [&](index_t stage) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int k = 0; k < gram_pieces; ++k) {
        index_t const row = stage + k * (gram_threads / 4) + piece_row;
        if (row < a.rows && piece_col < cols) {
          ptx::load_once(a.models[m].data + row * a.models[m].stride + piece_col * 2, next[m][k].word);
        } else {
#pragma unroll
          for (int w = 0; w < 4; ++w) { next[m][k].word[w] = 0; }
        }
      }
    }
  };
  auto const which = threadIdx.x / 32;  // aa, ab, bb
  auto const lane = threadIdx.x % 32;
  double sum = 0.0;
  bring(0);
  for (index_t stage = 0; stage < a.rows; stage += gram_stage_rows) {
    __syncthreads();
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int k = 0; k < gram_pieces; ++k) {
        *reinterpret_cast<gram_piece*>(&room.x[m][k * (gram_threads / 4) + static_cast<int>(piece_row)][threadIdx.x % 4 * 8]) = next[m][k];
      }
    }
    __syncthreads();
    if (stage + gram_stage_rows < a.rows) { bring(stage + gram_stage_rows); }
    if (which < 3) {
      auto const* const x = room.x[which == 2 ? 1 : 0];
      auto const* const y = room.x[which == 0 ? 0 : 1];
      index_t const left = a.rows - stage;
      int const rows = left < gram_stage_rows ? static_cast<int>(left) : gram_stage_rows;
      auto const widen = [](std::uint16_t bits) { return static_cast<double>(__uint_as_float(static_cast<std::uint32_t>(bits) << 16)); };
#pragma unroll 8
      for (int r = 0; r < rows; ++r) { sum = ptx::fused(widen(x[r][lane]), widen(y[r][lane]), sum); }
    }
  }
  index_t const col = first + lane;
  if (which < 3 && col < cols) {
    a.gram[4 * col + (which == 0 ? 0 : which == 1 ? 1 : 3)] = sum;
    if (which == 1) { a.gram[4 * col + 2] = sum; }
  }
}

/// Whether that kernel takes them.
inline bool has_usual_columns(column_gram const& g, index_t cols) noexcept {
  auto const usual = [](device_input const& input) {
    return input.type == dtype::bf16 && reinterpret_cast<std::uintptr_t>(input.data) % 16 == 0 && input.stride % 16 == 0;
  };
  return !g.deltas && cols % 8 == 0 && usual(g.models[0]) && usual(g.models[1]);
}

}  // namespace detail
BRAID_NAMESPACE_END
