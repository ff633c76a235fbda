#pragma once

/// Products of rows of a pool with several vectors on tensor cores: as fast as memory brings the rows, in an order of sums that
/// the hardware decides.

#include <braid/backend/cuda/tensor_core.cuh>
#include <braid/serve/cuda/row_products.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int matrix_inputs = 64;  // of a tile
/// Tasks of a tile: many, or half as many with more columns at a time, where that makes blocks for all processors.
inline constexpr int matrix_tasks = 64;
inline constexpr int matrix_few_tasks = 32;
inline constexpr int matrix_few_inputs = 32;

/// How many numbers of 16 bits stand for a float32: three of bf16 are all of its digits, two of f16 are 22 of them.
template <class T>
inline constexpr int matrix_terms = std::is_same_v<T, bfloat16> ? 3 : 2;

// ---- vectors ----

struct split_arguments {
  float const* x = nullptr;
  index_t x_stride = 0;
  index_t cols = 0;
  index_t pitch = 0;         // elements from vector to vector of a part: a multiple of 8
  index_t term = 0;          // elements from part to part
  std::uint16_t* parts = nullptr;
  float* scale = nullptr;    // [batch], what sums are multiplied by; f16 only
  int pieces = 1;            // blocks of a vector
};

inline constexpr int split_threads = 256;
inline constexpr int split_columns = 2048;  // of a block, where a vector has several

/// x = sum of its parts, each what of the rest fits its type. f16 has few exponents: a vector is first multiplied by a power of
/// two that brings its largest number near to f16's.
template <class T>
BRAID_KERNEL void __launch_bounds__(split_threads) split_inputs_kernel(split_arguments const a) {
  constexpr int terms = matrix_terms<T>;
  constexpr bool scaled = std::is_same_v<T, float16>;
  BRAID_BLOCK_MEMORY(memory);
  ptx::let_next_start();
  ptx::wait_for_last();
  int const thread = static_cast<int>(threadIdx.x);
  int const vector = static_cast<int>(blockIdx.x) / a.pieces;
  index_t const first = static_cast<index_t>(static_cast<int>(blockIdx.x) % a.pieces) * split_columns;
  index_t const last = a.pieces == 1 || first + split_columns > a.cols ? a.cols : first + split_columns;
  float const* const x = a.x + vector * a.x_stride;
  float factor = 1.0f;
  if constexpr (scaled) {
    auto* const largest = reinterpret_cast<std::uint32_t*>(memory);
    std::uint32_t most = 0;
    for (index_t c = first + thread; c < last; c += split_threads) {
      std::uint32_t const bits = __float_as_uint(x[c]) & 0x7FFFFFFFu;
      if (bits < 0x7F800000u && bits > most) { most = bits; }
    }
    most = __reduce_max_sync(0xFFFFFFFFu, most);
    if (thread % 32 == 0) { largest[thread / 32] = most; }
    __syncthreads();
    for (int w = 0; w < split_threads / 32; ++w) { most = largest[w] > most ? largest[w] : most; }
    // 2^(14 - exponent), and its inverse, both normal numbers.
    int power = most == 0 ? 0 : 14 + 127 - static_cast<int>(most >> 23);
    power = power > 126 ? 126 : power;  // from -113 on
    factor = __uint_as_float(static_cast<std::uint32_t>(127 + power) << 23);
    if (thread == 0) { a.scale[vector] = __uint_as_float(static_cast<std::uint32_t>(127 - power) << 23); }
  }
  // Zeros behind the last column: copies take 16 bytes.
  index_t const end = last == a.cols ? a.pitch : last;
  for (index_t c = first + thread; c < end; c += split_threads) {
    float left = c < last ? x[c] * factor : 0.0f;
    bool const finite = (__float_as_uint(left) & 0x7F800000u) != 0x7F800000u;
#pragma unroll
    for (int t = 0; t < terms; ++t) {
      std::uint16_t bits;
      float part;
      if constexpr (scaled) {
        bits = static_cast<std::uint16_t>(ptx::to_f16_pair(left, 0.0f));
        part = ptx::from_f16(bits);
      } else {
        bits = static_cast<std::uint16_t>(__float_as_uint(left) >> 16);
        if (left != left) { bits = 0x7FC0u; }
        part = __uint_as_float(std::uint32_t{bits} << 16);
      }
      a.parts[t * a.term + vector * a.pitch + c] = bits;
      left = finite ? left - part : 0.0f;
    }
  }
}

// ---- products ----

struct matrix_arguments {
  product_arguments row{};            // its x isn't read
  std::byte const* parts = nullptr;   // vectors of the rows' type, on 16 bytes
  index_t pitch = 0;                  // elements, a multiple of 8
  index_t term = 0;
  float const* scale = nullptr;       // [batch] or none
  int split = 1;                      // blocks of a tile, each with a part of the columns: a cluster
  // Kernels of the same products run side by side: what vectors wait for, the first of them has waited for before it lets the
  // next one start; the others wait for each other at their ends, so that behind the last all are done.
  bool follows = false;
  bool followed = false;
};

template <int Tasks, int Inputs, int Terms>
struct matrix_layout {
  static constexpr int threads = 128;
  static constexpr int columns = Tasks < 64 ? 128 : 64;  // of a step
  static constexpr int row_bytes = columns * 2;
  static constexpr int chunks = row_bytes / 16;  // of a row; they change places so that no bank is met twice
  static constexpr int at_once = threads / chunks;
  static constexpr int row_tiles = Inputs < 64 ? 1 : 2;  // of 16 rows, of a warp
  static constexpr int warps_of_rows = Tasks / (16 * row_tiles);
  static constexpr int warps_of_inputs = Inputs == 64 ? 2 : 1;
  static constexpr int warps_of_columns = threads / 32 / (warps_of_rows * warps_of_inputs);
  static constexpr int input_tiles = Inputs / 8 / warps_of_inputs;  // of 8 vectors, of a warp
  static constexpr int products = columns / 16 / warps_of_columns;  // of a warp in a step
  static constexpr int rows_part = Tasks * row_bytes;
  static constexpr int stage = rows_part + Terms * Inputs * row_bytes;
  static constexpr int room = 220 * 1024;  // of a processor
  static constexpr int blocks = 3 * stage <= room / 2 ? 2 : 1;  // of a processor
  static constexpr int stages = room / blocks / stage < 8 ? room / blocks / stage : 8;
  static constexpr int bytes = stages * stage;
  static_assert(stages >= 3 && warps_of_columns >= 1 && warps_of_columns <= 2);
  static_assert(Tasks % at_once == 0 && Inputs % at_once == 0);
  static_assert(Tasks * Inputs * 4 <= bytes);
};

/// A tile: up to `Tasks` tasks times up to `Inputs` vectors of `Terms` parts. Sums of 64 columns are formed by tensor cores and
/// added up in float32, those of other warps and of the blocks of a cluster in a fixed order: another run gives the same bits.
template <class T, int Tasks, int Inputs, int Terms, bool Coded>
BRAID_KERNEL void __launch_bounds__(matrix_layout<Tasks, Inputs, Terms>::threads, matrix_layout<Tasks, Inputs, Terms>::blocks)
    row_matrix_kernel(matrix_arguments const a) {
  using layout = matrix_layout<Tasks, Inputs, Terms>;
  constexpr int at_once = layout::at_once;
  constexpr int stages = layout::stages;
  constexpr int row_tiles = layout::row_tiles;
  constexpr int input_tiles = layout::input_tiles;
  BRAID_BLOCK_MEMORY(memory);
  if (!a.followed) { ptx::let_next_start(); }
  int const thread = static_cast<int>(threadIdx.x);
  int const warp = thread / 32;
  int const lane = thread % 32;
  int const rank = static_cast<int>(blockIdx.x) % a.split;
  task_tile const tile = a.row.tiles[static_cast<int>(blockIdx.x) / a.split];
  row_task const* const tasks = a.row.tasks + tile.first;
  std::int32_t const* const inputs = a.row.inputs + tile.first_input;
  int const all_steps = static_cast<int>((a.row.cols + layout::columns - 1) / layout::columns);
  int const first = static_cast<int>(static_cast<std::int64_t>(all_steps) * rank / a.split);
  int const last = static_cast<int>(static_cast<std::int64_t>(all_steps) * (rank + 1) / a.split);

  // A thread copies the same chunk of every few rows and vectors.
  int const chunk = thread % layout::chunks;
  int const own_row = thread / layout::chunks;
  std::byte const* row_from[Tasks / at_once];
#pragma unroll
  for (int i = 0; i < Tasks / at_once; ++i) {
    int const r = i * at_once + own_row;
    row_from[i] = r < tile.tasks ? a.row.pool + static_cast<index_t>(tasks[r].row) * a.row.stride : nullptr;
  }
  std::byte const* input_from[Inputs / at_once];
#pragma unroll
  for (int i = 0; i < Inputs / at_once; ++i) {
    int const b = i * at_once + own_row;
    input_from[i] = b < tile.inputs ? a.parts + static_cast<index_t>(inputs[b]) * a.pitch * 2 : nullptr;
  }
  auto const stage_of = [&](int step) { return memory + (step - first) % stages * layout::stage; };
  auto const place_of = [&](int r) { return r * layout::row_bytes + (chunk ^ (r & 7)) * 16; };
  auto const start_rows = [&](int step) {
    std::byte* const to = stage_of(step);
    index_t const offset = static_cast<index_t>(step) * layout::row_bytes + chunk * 16;
#pragma unroll
    for (int i = 0; i < Tasks / at_once; ++i) {
      bool const there = row_from[i] != nullptr && offset < a.row.stride;
      ptx::copy_16(to + place_of(i * at_once + own_row), there ? row_from[i] + offset : a.row.pool, there ? 16 : 0);
    }
  };
  auto const start_inputs = [&](int step) {
    std::byte* const to = stage_of(step) + layout::rows_part;
    index_t const c = static_cast<index_t>(step) * layout::columns + chunk * 8;
    int const bytes = c >= a.row.cols ? 0 : a.row.cols - c < 8 ? static_cast<int>(a.row.cols - c) * 2 : 16;
#pragma unroll
    for (int t = 0; t < Terms; ++t) {
#pragma unroll
      for (int i = 0; i < Inputs / at_once; ++i) {
        bool const there = input_from[i] != nullptr && bytes != 0;
        ptx::copy_16(to + place_of(t * Inputs + i * at_once + own_row), there ? input_from[i] + (t * a.term + c) * 2 : a.parts, there ? bytes : 0);
      }
    }
  };

  // Rows are there since long before; vectors may be what the kernel before is writing.
#pragma unroll
  for (int s = 0; s < stages - 1; ++s) {
    if (first + s < last) { start_rows(first + s); }
  }
  if (!a.follows) { ptx::wait_for_last(); }
  if (a.followed) { ptx::let_next_start(); }
#pragma unroll
  for (int s = 0; s < stages - 1; ++s) {
    if (first + s < last) { start_inputs(first + s); }
    ptx::close_copies();
  }

  int const first_row = warp % layout::warps_of_rows * (16 * row_tiles);
  int const first_input = warp / layout::warps_of_rows % layout::warps_of_inputs * (8 * input_tiles);
  int const part = warp / (layout::warps_of_rows * layout::warps_of_inputs);  // of the columns
  float total[row_tiles][input_tiles][4];
#pragma unroll
  for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < input_tiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) { total[m][n][i] = 0.0f; }
    }
  }
  for (int step = first; step < last; ++step) {
    ptx::wait_for_all_but<stages - 2>();
    __syncthreads();
    std::byte* const here = stage_of(step);
    if constexpr (Coded) {
      index_t const c = static_cast<index_t>(step) * layout::columns + chunk * 8;
      for (int r = own_row; r < tile.tasks; r += at_once) { add_residual<T>(a.row.coded, tasks[r], c, a.row.cols, here + place_of(r)); }
      __syncthreads();
    }
    if (step + stages - 1 < last) {  // into the stage that all have left behind
      start_rows(step + stages - 1);
      start_inputs(step + stages - 1);
    }
    ptx::close_copies();
    float sum[row_tiles][input_tiles][4];
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < input_tiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) { sum[m][n][i] = 0.0f; }
      }
    }
#pragma unroll
    for (int own = 0; own < layout::products; ++own) {
      int const k = part * layout::products + own;
      std::uint32_t w[row_tiles][4];
#pragma unroll
      for (int m = 0; m < row_tiles; ++m) {
        int const r = first_row + m * 16 + lane % 16;
        ptx::load_matrices(w[m], here + r * layout::row_bytes + ((k * 2 + lane / 16) ^ (r & 7)) * 16);
      }
#pragma unroll
      for (int t = 0; t < Terms; ++t) {
#pragma unroll
        for (int n = 0; n < input_tiles; n += 2) {
          int const b = t * Inputs + first_input + n * 8 + lane / 16 * 8 + lane % 8;
          std::uint32_t x[4];
          ptx::load_matrices(x, here + layout::rows_part + b * layout::row_bytes + ((k * 2 + lane / 8 % 2) ^ (b & 7)) * 16);
#pragma unroll
          for (int m = 0; m < row_tiles; ++m) {
            ptx::multiply_16x8x16<T>(sum[m][n], w[m], x[0], x[1]);
            ptx::multiply_16x8x16<T>(sum[m][n + 1], w[m], x[2], x[3]);
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < input_tiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) { total[m][n][i] = total[m][n][i] + sum[m][n][i]; }
      }
    }
  }
  ptx::wait_for_all_but<0>();
  if (a.follows) { ptx::wait_for_last(); }
  if constexpr (layout::warps_of_columns == 2) {
    __syncthreads();  // nobody reads stages any more
    constexpr int places = row_tiles * input_tiles * 4;
    auto* const halves = reinterpret_cast<float*>(memory) + warp % (layout::warps_of_rows * layout::warps_of_inputs) * (places * 32) + lane;
#pragma unroll
    for (int i = 0; i < row_tiles * input_tiles * 4; ++i) {
      if (part == 1) { halves[i * 32] = total[i / (input_tiles * 4)][i / 4 % input_tiles][i % 4]; }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < row_tiles * input_tiles * 4; ++i) {
      float& first_half = total[i / (input_tiles * 4)][i / 4 % input_tiles][i % 4];
      if (part == 0) { first_half = first_half + halves[i * 32]; }
    }
  }

  auto const store = [&](int row, int b, float y) {
    if (row >= tile.tasks || b >= tile.inputs) { return; }
    std::int32_t const vector = inputs[b];
    if (a.scale != nullptr) { y = y * a.scale[vector]; }
    a.row.y[static_cast<index_t>(vector) * a.row.y_stride + tasks[row].channel] = y;
  };
  auto const for_each_sum = [&](auto const& f) {
    if (part != 0) { return; }
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < input_tiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          f(first_row + m * 16 + lane / 4 + i / 2 * 8, first_input + n * 8 + lane % 4 * 2 + i % 2, total[m][n][i]);
        }
      }
    }
  };
  if (a.split == 1) {
    for_each_sum(store);
    return;
  }
  // Each block adds up some of the rows.
  ptx::cluster_arrive();
  ptx::cluster_wait();  // nobody reads stages any more
  int const own = Tasks / a.split;
  auto* const sums = reinterpret_cast<float*>(memory);  // [split][Inputs][own]
  for_each_sum([&](int row, int b, float y) {
    ptx::store_in_cluster(sums + (rank * Inputs + b) * own + row % own, static_cast<std::uint32_t>(row / own), y);
  });
  ptx::cluster_arrive();
  ptx::cluster_wait();
  for (int i = thread; i < own * Inputs; i += layout::threads) {
    float y = sums[i];
    for (int s = 1; s < a.split; ++s) { y = y + sums[s * Inputs * own + i]; }
    store(rank * own + i % own, i / own, y);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
