#pragma once

/// Products of rows of a pool with vectors in the one order of sums (core/sum_order.hpp). Rows come to shared memory 16 bytes
/// a copy and lane by lane out of it, so that the order costs no uncoalesced read.

#include <braid/backend/cuda/async_copy.cuh>
#include <braid/backend/cuda/lane_gram.cuh>
#include <braid/serve/cuda/coded_rows.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What all kernels of products take.
struct product_arguments {
  std::byte const* pool = nullptr;
  index_t stride = 0;  // bytes
  index_t cols = 0;
  row_task const* tasks = nullptr;
  int count = 0;  // of tasks; of one vector only
  task_tile const* tiles = nullptr;
  std::int32_t const* inputs = nullptr;
  coded_pool coded{};
  float const* x = nullptr;  // or, for one vector, where one of 16 bits begins
  index_t x_stride = 0;
  float* y = nullptr;
  index_t y_stride = 0;
  bool aligned_x = false;  // every vector begins on 16 bytes

  __device__ int segments() const noexcept { return static_cast<int>((cols + sum_order::segment - 1) / sum_order::segment); }
  /// Steps of 16 columns in a segment.
  __device__ int steps(int segment) const noexcept {
    index_t const left = (cols - static_cast<index_t>(segment) * sum_order::segment + sum_order::lanes - 1) / sum_order::lanes;
    constexpr int most = sum_order::segment / sum_order::lanes;
    return left < most ? static_cast<int>(left) : most;
  }
};

// ---- one vector ----

/// How a warp reads rows for one vector: a unit is a segment, `parts` threads share one, each with 16 bytes of every 16
/// columns. A round is as many units as a warp has: segments of one row, or of several short ones. It comes in pieces, so that
/// many warps have room: one warp alone would wait for its own arithmetic.
template <class T>
struct vector_layout {
  static constexpr int each = 16 / static_cast<int>(sizeof(T));  // elements a thread reads at a time
  static constexpr int parts = sum_order::lanes / each;
  static constexpr int units = 32 / parts;
  static constexpr int segment_bytes = sum_order::segment * static_cast<int>(sizeof(T));
  static constexpr int pieces = 4;
  static constexpr int piece_bytes = segment_bytes / pieces;
  static constexpr int piece_steps = sum_order::segment / sum_order::lanes / pieces;
  static constexpr int pitch = piece_bytes + 16 * parts;  // eight threads read eight different 16 bytes of the banks
  static constexpr int warps = 16;
  static constexpr int threads = 32 * warps;
  static constexpr int stage = units * pitch;
  static constexpr int x_pitch = sum_order::segment + 16;  // floats
  static_assert(piece_steps * sum_order::lanes == coded_piece);

  /// Groups of four floats of the vector change places, so that threads of neighbouring segments meet no bank twice.
  __device__ static int swapped(int segment) noexcept { return parts == 4 ? 0 : parts == 2 ? segment >> 1 & 1 : segment >> 1 & 3; }
  static constexpr int copies = units * piece_bytes / 512;  // of a thread, for a piece

  /// Bytes of shared memory.
  static std::size_t bytes(index_t cols, int stages) noexcept {
    auto const segments = static_cast<std::size_t>((cols + sum_order::segment - 1) / sum_order::segment);
    return segments * x_pitch * sizeof(float) + static_cast<std::size_t>(warps * stages * stage);
  }
};

/// Where a warp is: the group of rows, the round of their segments, the piece of a round.
struct vector_place {
  int group;
  int round = 0;
  int piece = 0;

  /// @return whether another group begins
  template <int Pieces>
  __device__ bool advance(int rounds, int step) noexcept {
    if (++piece < Pieces) { return false; }
    piece = 0;
    if (++round < rounds) { return false; }
    round = 0;
    group += step;
    return true;
  }
};

/// y[channel] = row . x for all tasks, each by one warp. `Stages` pieces of a warp are in shared memory at a time.
/// @tparam X      the vector's type: float32, or 16 bits that are widened
/// @tparam Coded  whether tasks may have residuals
template <class T, class X, int Stages, bool Coded>
BRAID_KERNEL void __launch_bounds__(vector_layout<T>::threads, 1) row_vector_kernel(product_arguments const a) {
  using layout = vector_layout<T>;
  ptx::let_next_start();
  static_assert(Stages <= layout::pieces, "copies run at most one group ahead");
  constexpr int parts = layout::parts;
  constexpr int units = layout::units;
  constexpr int each = layout::each;
  constexpr int unit_chunks = layout::piece_bytes / 16;
  BRAID_BLOCK_MEMORY(memory);
  int const segments = a.segments();
  auto* const x = reinterpret_cast<float*>(memory);
  int const thread = static_cast<int>(threadIdx.x);
  int const warp = thread / 32;
  int const lane = thread % 32;
  std::byte* const ring = memory + static_cast<std::size_t>(segments) * layout::x_pitch * sizeof(float) + static_cast<std::size_t>(warp * Stages) * layout::stage;

  int shift = 0;  // units that a row takes in a round, as a power of two
  while (1 << shift < units && 1 << shift < segments) { ++shift; }
  int const per_row = 1 << shift;
  int const rows = units >> shift;  // of a round
  int const rounds = (segments + units - 1) / units;
  int const blocks = static_cast<int>(gridDim.x);
  // Neighbouring groups to different blocks: the last ones are spread over the device.
  int const first_group = static_cast<int>(blockIdx.x) + warp * blocks;
  int const all_groups = (a.count + rows - 1) / rows;
  int const step = blocks * layout::warps;

  // The task of row `lane` of a group.
  auto const task_of = [&](int group) {
    row_task t;
    t.row = -1;
    int const at = group * rows + lane;
    if (lane < rows && at < a.count) { t = a.tasks[at]; }
    return t;
  };
  auto const start = [&](vector_place const& place, int stage, int row_of_lane) {
    std::byte* const to = ring + stage * layout::stage;
#pragma unroll
    for (int i = 0; i < layout::copies; ++i) {
      int const chunk = i * 32 + lane;
      int const unit = chunk / unit_chunks;
      int const within = chunk % unit_chunks;
      int const row = __shfl_sync(0xFFFFFFFFu, row_of_lane, unit >> shift);
      int const offset = (place.round * units + (unit & (per_row - 1))) * layout::segment_bytes + place.piece * layout::piece_bytes + within * 16;
      if (row >= 0 && offset < a.stride) {
        ptx::copy_16(to + unit * layout::pitch + within * 16, a.pool + static_cast<index_t>(row) * a.stride + offset);
      }
    }
    ptx::close_copies();
  };

  vector_place ahead{first_group};  // what is copied next
  row_task started = task_of(first_group);
  row_task coming = task_of(first_group + step);
  row_task here = started;
  auto const start_next = [&](int stage) {
    start(ahead, stage, started.row);
    if (ahead.advance<layout::pieces>(rounds, step)) {
      started = coming;
      coming = task_of(ahead.group + step);
    }
  };
  // Rows are there since long before; the vector may be what the kernel before is writing.
#pragma unroll
  for (int s = 0; s < Stages - 1; ++s) { start_next(s); }
  ptx::wait_for_last();
  // The vector, once.
  auto const* const vector = reinterpret_cast<X const*>(a.x);
  for (int i = thread; i < segments * (sum_order::segment / 4); i += layout::threads) {
    int const segment = i / (sum_order::segment / 4);
    int const q = i % (sum_order::segment / 4);
    index_t const c = static_cast<index_t>(segment) * sum_order::segment + q * 4;
    float* const place = x + segment * layout::x_pitch + (q ^ layout::swapped(segment)) * 4;
    if constexpr (sizeof(X) == 4) {
      if (a.aligned_x && c + 4 <= a.cols) {
        ptx::copy_16(place, vector + c);
        continue;
      }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) { place[k] = c + k < a.cols ? static_cast<float>(vector[c + k]) : 0.0f; }
  }
  ptx::close_copies();
  ptx::wait_for_all_but<0>();
  __syncthreads();

  int const unit = lane / parts;
  int const part = lane % parts;
  int const row_lane = unit >> shift;
  float total = 0.0f;
  [[maybe_unused]] row_residual residual;  // of this thread's row
  float sum[each];
#pragma unroll
  for (int v = 0; v < each; ++v) { sum[v] = 0.0f; }
  int stage = 0;
  vector_place now{first_group};
  while (now.group < all_groups) {
    start_next(stage == 0 ? Stages - 1 : stage - 1);
    int const segment = now.round * units + (unit & (per_row - 1));
    int const row_here = __shfl_sync(0xFFFFFFFFu, here.row, row_lane);
    int steps = row_here >= 0 && segment < segments ? a.steps(segment) - now.piece * layout::piece_steps : 0;
    if (steps > layout::piece_steps) { steps = layout::piece_steps; }
    index_t const first_column = static_cast<index_t>(segment) * sum_order::segment + now.piece * coded_piece;
    [[maybe_unused]] coded_words coded;
    if constexpr (Coded) {
      if (now.piece == 0 && now.round == 0) {
        auto const code = static_cast<residual_code>(__shfl_sync(0xFFFFFFFFu, static_cast<int>(here.code), row_lane));
        auto const scale = __shfl_sync(0xFFFFFFFFu, here.scale, row_lane);
        auto const plane = __shfl_sync(0xFFFFFFFFu, static_cast<unsigned long long>(here.plane), row_lane);
        residual = row_residual(a.coded, row_here < 0 ? residual_code::none : code, static_cast<std::int64_t>(plane), scale);
      }
      // While the piece is still on its way.
      if (residual.code != residual_code::none && steps > 0) { coded = coded_words(residual, first_column); }
    }
    ptx::wait_for_all_but<Stages - 1>();
    __syncwarp();
    std::byte* const from = ring + stage * layout::stage;
    std::byte const* const w = from + unit * layout::pitch + part * 16;
    float const* const xs = x + (segment < segments ? segment : 0) * layout::x_pitch + now.piece * layout::piece_steps * sum_order::lanes + part * each;
    int const swapped = layout::swapped(segment);
    auto const add = [&](int k) {
      four_words words = *reinterpret_cast<four_words const*>(w + k * (parts * 16));
      if constexpr (Coded) {
        index_t const c = first_column + k * sum_order::lanes + part * each;
        if (residual.code != residual_code::none && c < a.cols) {
          words = with_residual<T>(a.coded, residual, coded.columns(residual.code, k, part * each), c, a.cols, words);
        }
      }
#pragma unroll
      for (int q = 0; q < each / 4; ++q) {
        four_floats const v = *reinterpret_cast<four_floats const*>(xs + k * sum_order::lanes + (q ^ swapped) * 4);
        constexpr int per_word = word_codec<T>::elements;
#pragma unroll
        for (int i = 0; i < 4 / per_word; ++i) {
          float e[per_word];
          word_codec<T>::widen(words.word[q * (4 / per_word) + i], e);
#pragma unroll
          for (int j = 0; j < per_word; ++j) {
            int const at = q * 4 + i * per_word + j;
            sum[at] = sum[at] + e[j] * v.value[i * per_word + j];
          }
        }
      }
    };
    if (Coded || steps == layout::piece_steps) {
#pragma unroll
      for (int k = 0; k < layout::piece_steps; ++k) {
        if (!Coded || k < steps) { add(k); }
      }
    } else {
      for (int k = 0; k < steps; ++k) { add(k); }
    }
    if (now.piece == layout::pieces - 1) {
      // The tree over lanes: l with l + 8, + 4, + 2, + 1.
      constexpr int halves = each < 8 ? each : 8;
      float eight[halves];
#pragma unroll
      for (int v = 0; v < halves; ++v) {
        if constexpr (parts == 1) {
          eight[v] = sum[v] + sum[v + 8];
        } else {
          eight[v] = sum[v] + __shfl_xor_sync(0xFFFFFFFFu, sum[v], parts / 2);
        }
      }
      float four[4];
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        if constexpr (parts <= 2) {
          four[v] = eight[v] + eight[v + 4];
        } else {
          four[v] = eight[v] + __shfl_xor_sync(0xFFFFFFFFu, eight[v], 1);
        }
      }
      float const segment_sum = (four[0] + four[2]) + (four[1] + four[3]);
      if (now.round == 0) { total = 0.0f; }
#pragma unroll
      for (int s = 0; s < units; ++s) {
        float const next = __shfl_sync(0xFFFFFFFFu, segment_sum, ((row_lane << shift) + s) * parts % 32);
        if (s < per_row && now.round * units + s < segments) { total = total + next; }
      }
      int const channel = __shfl_sync(0xFFFFFFFFu, here.channel, row_lane);
      if (now.round == rounds - 1 && row_here >= 0 && (unit & (per_row - 1)) == 0 && part == 0) { a.y[channel] = total; }
#pragma unroll
      for (int v = 0; v < each; ++v) { sum[v] = 0.0f; }
    }
    __syncwarp();  // all have read the stage before copies overwrite it
    stage = stage == Stages - 1 ? 0 : stage + 1;
    if (now.advance<layout::pieces>(rounds, step)) { here = started; }
  }
  ptx::wait_for_all_but<0>();
}

// ---- several vectors ----

template <class T, int Inputs>
struct product_tile_layout {
  static constexpr int threads = 256;
  static constexpr int inputs = 2 * Inputs;
  static constexpr int columns = sum_order::segment / 2;  // at a time, so that two blocks fit a processor
  static constexpr int row_bytes = columns * static_cast<int>(sizeof(T));
  static constexpr int x_pitch = columns + 16;  // floats; two vectors side by side share no bank
  static constexpr int x_bytes = inputs * x_pitch * 4;
  static constexpr int stage = tile_tasks * row_bytes + x_bytes;
  static constexpr int bytes = 2 * stage;
};

/// A tile: up to 32 tasks times up to 2 * Inputs vectors, by a block of 256 threads. A thread is one lane of the order, and
/// has 4 rows times `Inputs` vectors of it.
template <class T, int Inputs, bool Coded>
BRAID_KERNEL void __launch_bounds__(product_tile_layout<T, Inputs>::threads, 2) row_tile_kernel(product_arguments const a) {
  using layout = product_tile_layout<T, Inputs>;
  using codec = word_codec<T>;
  using raw = typename codec::raw;
  constexpr int sums = 4 * Inputs;
  constexpr int folded = sums < 16 ? sums : 16;
  constexpr int folds = sums / folded;
  BRAID_BLOCK_MEMORY(memory);
  task_tile const tile = a.tiles[blockIdx.x];
  row_task const* const tasks = a.tasks + tile.first;
  std::int32_t const* const inputs = a.inputs + tile.first_input;
  int const pieces = static_cast<int>((a.cols + layout::columns - 1) / layout::columns);
  int const thread = static_cast<int>(threadIdx.x);
  int const lane = thread % sum_order::lanes;
  int const half = thread / sum_order::lanes % 2;
  int const first_row = thread / 32 * 4;

  // A thread copies the same places of all pieces: 16 bytes of every few rows.
  constexpr int row_chunks = layout::row_bytes / 16;
  constexpr int rows_at_once = layout::threads / row_chunks;
  std::byte const* row_from[tile_tasks / rows_at_once];
#pragma unroll
  for (int i = 0; i < tile_tasks / rows_at_once; ++i) {
    int const r = i * rows_at_once + thread / row_chunks;
    row_from[i] = r < tile.tasks ? a.pool + static_cast<index_t>(tasks[r].row) * a.stride : nullptr;
  }
  constexpr int x_chunks = layout::columns / 4;
  auto const start_rows = [&](int piece) {
    std::byte* const to = memory + piece % 2 * layout::stage;
    index_t const offset = static_cast<index_t>(piece) * layout::row_bytes + thread % row_chunks * 16;
#pragma unroll
    for (int i = 0; i < tile_tasks / rows_at_once; ++i) {
      if (row_from[i] == nullptr || piece >= pieces || offset >= a.stride) { continue; }
      ptx::copy_16(to + (i * rows_at_once + thread / row_chunks) * layout::row_bytes + thread % row_chunks * 16, row_from[i] + offset);
    }
  };
  auto const start_inputs = [&](int piece) {
    auto* const x_to = reinterpret_cast<float*>(memory + piece % 2 * layout::stage + tile_tasks * layout::row_bytes);
    for (int i = thread; i < layout::inputs * x_chunks && piece < pieces; i += layout::threads) {
      int const b = i / x_chunks;
      index_t const c = static_cast<index_t>(piece) * layout::columns + i % x_chunks * 4;
      float* const place = x_to + b * layout::x_pitch + i % x_chunks * 4;
      float const* const from = b < tile.inputs ? a.x + static_cast<index_t>(inputs[b]) * a.x_stride : nullptr;
      if (from != nullptr && a.aligned_x && c + 4 <= a.cols) {
        ptx::copy_16(place, from + c);
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) { place[k] = from != nullptr && c + k < a.cols ? from[c + k] : 0.0f; }
      }
    }
    ptx::close_copies();
  };

  float total[folds];
#pragma unroll
  for (int f = 0; f < folds; ++f) { total[f] = 0.0f; }
  float sum[sums];
#pragma unroll
  for (int s = 0; s < sums; ++s) { sum[s] = 0.0f; }
  start_rows(0);
  start_inputs(0);
  for (int piece = 0; piece < pieces; ++piece) {
    start_rows(piece + 1);
    start_inputs(piece + 1);
    ptx::wait_for_all_but<1>();
    __syncthreads();
    std::byte* const from = memory + piece % 2 * layout::stage;
    index_t const first_column = static_cast<index_t>(piece) * layout::columns;
    if constexpr (Coded) {
      for (int i = thread; i < tile.tasks * row_chunks; i += layout::threads) {
        index_t const c = first_column + i % row_chunks * (16 / static_cast<int>(sizeof(T)));
        add_residual<T>(a.coded, tasks[i / row_chunks], c, a.cols, from + i * 16);
      }
      __syncthreads();
    }
    auto const* const w = reinterpret_cast<raw const*>(from) + first_row * layout::columns + lane;
    auto const* const x = reinterpret_cast<float const*>(from + tile_tasks * layout::row_bytes) + half * layout::x_pitch + lane;
    constexpr int most_steps = layout::columns / sum_order::lanes;
    index_t const left = (a.cols - first_column + sum_order::lanes - 1) / sum_order::lanes;
    int const steps = left < most_steps ? static_cast<int>(left) : most_steps;
    if (first_row < tile.tasks) {
#pragma unroll 4
      for (int k = 0; k < steps; ++k) {
        float row[4];
        float v[Inputs];
#pragma unroll
        for (int r = 0; r < 4; ++r) { row[r] = codec::widen_one(w[r * layout::columns + k * sum_order::lanes]); }
#pragma unroll
        for (int b = 0; b < Inputs; ++b) { v[b] = x[2 * b * layout::x_pitch + k * sum_order::lanes]; }
#pragma unroll
        for (int r = 0; r < 4; ++r) {
#pragma unroll
          for (int b = 0; b < Inputs; ++b) { sum[r * Inputs + b] = sum[r * Inputs + b] + row[r] * v[b]; }
        }
      }
    }
    if (piece % 2 == 1 || piece == pieces - 1) {  // the end of a segment
#pragma unroll
      for (int f = 0; f < folds; ++f) {
        float part[folded];
#pragma unroll
        for (int s = 0; s < folded; ++s) { part[s] = sum[f * folded + s]; }
        total[f] = total[f] + fold_sums<folded>(part, lane);
      }
#pragma unroll
      for (int s = 0; s < sums; ++s) { sum[s] = 0.0f; }
    }
    __syncthreads();  // all have read the stage before copies overwrite it
  }
  ptx::wait_for_all_but<0>();
  int const number = folded_number(lane);
  if (number >= folded) { return; }
#pragma unroll
  for (int f = 0; f < folds; ++f) {
    int const s = f * folded + number;
    int const row = first_row + s / Inputs;
    int const b = s % Inputs * 2 + half;
    if (row < tile.tasks && b < tile.inputs) { a.y[static_cast<index_t>(inputs[b]) * a.y_stride + tasks[row].channel] = total[f]; }
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
