#pragma once

/// The inputs of a single-model method's kernels, and how a thread takes its elements of them.

#include <braid/backend/cuda/element_tile.cuh>
#include <braid/core/concepts.hpp>
#include <braid/core/philox.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Inputs that a kernel holds in registers; with more it takes an element at a time.
inline constexpr int most_few_models = 4;

/// Base and models of a block of channels, as kernel arguments. Where no row has a gap, and nothing asks for rows, all
/// channels are one row.
template <int Most>
struct element_inputs {
  device_input base;
  device_input models[Most];
  int count;             // of models
  index_t rows;
  index_t cols;          // of a row
  index_t first;         // channel of the first row
  index_t channel_cols;  // columns of a channel
  index_t first_row;     // what is added to a row's number and a column's, so that plans see the tensor's
  index_t first_col;
  bool has_base;
  bool deltas;           // models less the base
  bool whole;            // tiles may be loaded whole
  bool grouped;          // rows are whole groups of Philox blocks
  bool check;
  unsigned long long* first_bad;  // the lowest channel with NaN or infinity
};

/// A thread's elements.
template <int N>
struct element_tile {
  float base[tile_elements];
  float x[N][tile_elements];
};

/// Loads a tile of row `row` from column `col`; zeros beyond the row's end.
template <int N, tile_layout L, int Most>
__device__ void load_elements(element_inputs<Most> const& in, index_t row, index_t col, bool whole, element_tile<N>& tile) noexcept {
  auto const from = [row, col](device_input const& input) { return input.data + row * input.stride + col * bytes_of(input.type); };
  raw_tile base;
  raw_tile raw[N];
  if (whole) {
#pragma unroll
    for (int i = 0; i < N; ++i) { load_raw<L>(from(in.models[i]), in.models[i].type, raw[i]); }
    if (in.has_base) { load_raw<L>(from(in.base), in.base.type, base); }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) { raw[i] = load_raw_singly<L>(from(in.models[i]), in.models[i].type, col, in.cols); }
    if (in.has_base) { base = load_raw_singly<L>(from(in.base), in.base.type, col, in.cols); }
  }
  if (in.has_base) {
    widen_tile(base, in.base.type, tile.base);
  } else {
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { tile.base[j] = 0.0f; }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    widen_tile(raw[i], in.models[i].type, tile.x[i]);
    if (in.deltas) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { tile.x[i][j] = tile.x[i][j] - tile.base[j]; }
    }
  }
}

/// The same for a whole tile of bfloat16, and the models less the base.
template <int N, tile_layout L, int Most>
__device__ void load_deltas(element_inputs<Most> const& in, index_t row, index_t col, element_tile<N>& tile) noexcept {
  auto const from = [row, col](device_input const& input) { return input.data + row * input.stride + col * 2; };
  raw_tile base;
  raw_tile raw[N];
#pragma unroll
  for (int i = 0; i < N; ++i) { load_raw<L>(from(in.models[i]), dtype::bf16, raw[i]); }
  load_raw<L>(from(in.base), dtype::bf16, base);
  widen_tile(base, dtype::bf16, tile.base);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    widen_tile(raw[i], dtype::bf16, tile.x[i]);
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { tile.x[i][j] = tile.x[i][j] - tile.base[j]; }
  }
}

/// Notes the first channel of a tile that has a NaN or an infinity, which lies there or in a later one.
template <int N, int Most>
__device__ void check_elements(element_inputs<Most> const& in, index_t row, index_t col, element_tile<N> const& tile) noexcept {
  float zero = 0.0f;  // times anything finite
  if (in.has_base) {
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { zero = ptx::fused(tile.base[j], 0.0f, zero); }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { zero = ptx::fused(tile.x[i][j], 0.0f, zero); }
  }
  if (zero != zero) {
    atomicMin(in.first_bad, static_cast<unsigned long long>(in.first + row + (in.channel_cols < in.cols ? col / in.channel_cols : 0)));
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
