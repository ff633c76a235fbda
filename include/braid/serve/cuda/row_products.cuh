#pragma once

/// Products of rows of a pool with vectors in the one order of sums (core/sum_order.hpp). Rows come to shared memory 16 bytes
/// a copy and lane by lane out of it, so that the order costs no uncoalesced read.

#include <braid/backend/cuda/async_copy.cuh>
#include <braid/backend/cuda/lane_gram.cuh>
#include <braid/serve/detail/row_tasks.hpp>

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
  std::byte const* planes = nullptr;
  bfloat16 const* scales = nullptr;
  bfloat16 const* columns = nullptr;
  float const* x = nullptr;
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

struct alignas(16) four_words {
  std::uint32_t word[4];
};
struct alignas(16) four_floats {
  float value[4];
};

template <class T>
inline constexpr float device_largest = 0x1.fffffep127f;
template <>
inline constexpr float device_largest<bfloat16> = 0x1.fep127f;
template <>
inline constexpr float device_largest<float16> = 65504.0f;

/// 16 bytes of a row, from column `c` on, which it has, become round(row + column scale * sum of signed scales): what `apply_residual` does.
template <class T>
__device__ void add_signs(product_arguments const& a, row_task const& t, index_t c, std::byte* at) {
  using codec = word_codec<T>;
  constexpr int elements = codec::elements;
  auto* const words = reinterpret_cast<four_words*>(at);
  four_words out = *words;
  index_t const plane_bytes = (a.cols + 7) / 8;
  std::uint32_t bits[3]{};
  float scale[3]{};
#pragma unroll
  for (std::uint32_t p = 0; p < 3; ++p) {
    if (p >= t.planes) { break; }
    bits[p] = static_cast<std::uint32_t>(a.planes[t.plane + static_cast<index_t>(p) * plane_bytes + c / 8]) >> (c & 7);
    scale[p] = static_cast<float>(a.scales[t.scale + p]);
  }
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    float v[elements];
    codec::widen(out.word[w], v);
#pragma unroll
    for (int i = 0; i < elements; ++i) {
      int const k = w * elements + i;
      if (c + k >= a.cols) { continue; }
      float more = 0.0f;
#pragma unroll
      for (std::uint32_t p = 0; p < 3; ++p) {
        if (p >= t.planes) { break; }
        float const term = __uint_as_float(__float_as_uint(scale[p]) ^ ((bits[p] >> k & 1u) << 31));
        more = p == 0 ? term : more + term;
      }
      if (a.columns != nullptr) { more = static_cast<float>(a.columns[c + k]) * more; }
      float sum = v[i] + more;
      constexpr float top = device_largest<T>;
      if ((__float_as_uint(v[i]) & 0x7F800000u) != 0x7F800000u) { sum = sum > top ? top : sum < -top ? -top : sum; }
      v[i] = sum;
    }
    out.word[w] = codec::narrow(v);
  }
  *words = out;
}

// ---- one vector ----

/// How a warp reads rows for one vector: a unit is a segment, `parts` threads share one, each with 16 bytes of every 16
/// columns. A round is as many units as a warp has: segments of one row, or of several short ones.
template <class T>
struct vector_layout {
  static constexpr int each = 16 / static_cast<int>(sizeof(T));  // elements a thread reads at a time
  static constexpr int parts = sum_order::lanes / each;
  static constexpr int units = 32 / parts;
  static constexpr int segment_bytes = sum_order::segment * static_cast<int>(sizeof(T));
  static constexpr int pitch = segment_bytes + 16 * parts;  // eight threads read eight different 16 bytes of the banks
  static constexpr int warps = 4;
  static constexpr int threads = 32 * warps;
  static constexpr int stage = units * pitch;
  static constexpr int x_pitch = sum_order::segment + 16;  // floats

  /// Bytes of shared memory.
  static std::size_t bytes(index_t cols, int stages) noexcept {
    auto const segments = static_cast<std::size_t>((cols + sum_order::segment - 1) / sum_order::segment);
    return segments * x_pitch * sizeof(float) + static_cast<std::size_t>(warps * stages * stage);
  }
};

/// y[channel] = row . x for all tasks, each by one warp. `Stages` rounds of a warp are in shared memory at a time.
/// @tparam Signs whether tasks may have planes
template <class T, int Stages, bool Signs>
BRAID_KERNEL void __launch_bounds__(vector_layout<T>::threads, 1) row_vector_kernel(product_arguments const a, int blocks) {
  using layout = vector_layout<T>;
  constexpr int parts = layout::parts;
  constexpr int units = layout::units;
  constexpr int each = layout::each;
  BRAID_BLOCK_MEMORY(memory);
  int const segments = a.segments();
  auto* const x = reinterpret_cast<float*>(memory);
  int const thread = static_cast<int>(threadIdx.x);
  int const warp = thread / 32;
  int const lane = thread % 32;
  std::byte* const ring = memory + static_cast<std::size_t>(segments) * layout::x_pitch * sizeof(float) + static_cast<std::size_t>(warp * Stages) * layout::stage;

  int per_row = 1;  // units that a row takes in a round
  while (per_row < units && per_row < segments) { per_row *= 2; }
  int const rows = units / per_row;  // of a round
  int const rounds = (segments + units - 1) / units;
  int const first_group = static_cast<int>(blockIdx.x) * layout::warps + warp;
  int const all_groups = (a.count + rows - 1) / rows;
  int const step_groups = blocks * layout::warps;
  int const own_groups = first_group < all_groups ? (all_groups - first_group + step_groups - 1) / step_groups : 0;
  int const items = own_groups * rounds;

  // The task of row `lane` of an item's group.
  auto const task_of = [&](int item) {
    row_task t;
    t.row = -1;
    int const at = (first_group + item / rounds * step_groups) * rows + lane;
    if (item < items && lane < rows && at < a.count) { t = a.tasks[at]; }
    return t;
  };
  auto const start = [&](int item, int row_of_lane) {
    std::byte* const to = ring + static_cast<std::size_t>(item % Stages) * layout::stage;
    int const round = item % rounds;
    constexpr int copies = layout::segment_bytes * units / 512;
#pragma unroll 8
    for (int i = 0; i < copies; ++i) {
      int const chunk = i * 32 + lane;
      int const unit = chunk / (layout::segment_bytes / 16);
      int const within = chunk % (layout::segment_bytes / 16);
      int const row = __shfl_sync(0xFFFFFFFFu, row_of_lane, unit / per_row);
      index_t const offset = static_cast<index_t>(round * units + unit % per_row) * layout::segment_bytes + within * 16;
      if (row >= 0 && offset < a.stride && item < items) {
        ptx::copy_16(to + unit * layout::pitch + within * 16, a.pool + static_cast<index_t>(row) * a.stride + offset);
      }
    }
    ptx::close_copies();
  };

  row_task task[Stages];
#pragma unroll
  for (int s = 0; s < Stages - 1; ++s) {
    task[s] = task_of(s);
    start(s, task[s].row);
  }
  task[Stages - 1] = task_of(Stages - 1);

  // The vector, once. Its groups of four floats change places so that threads of neighbouring segments meet no bank twice.
  for (int i = thread; i < segments * (sum_order::segment / 4); i += layout::threads) {
    int const segment = i / (sum_order::segment / 4);
    int const q = i % (sum_order::segment / 4);
    index_t const c = static_cast<index_t>(segment) * sum_order::segment + q * 4;
    four_floats v;
#pragma unroll
    for (int k = 0; k < 4; ++k) { v.value[k] = 0.0f; }
    if (a.aligned_x && c + 4 <= a.cols) {
      v = *reinterpret_cast<four_floats const*>(a.x + c);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (c + k < a.cols) { v.value[k] = a.x[c + k]; }
      }
    }
    int const place = parts == 2 ? q ^ (segment >> 1 & 1) : q;
    *reinterpret_cast<four_floats*>(x + segment * layout::x_pitch + place * 4) = v;
  }
  __syncthreads();

  int const unit = lane / parts;
  int const part = lane % parts;
  float total = 0.0f;
  for (int item = 0; item < items; ++item) {
    row_task const here = task[0];
    start(item + Stages - 1, task[Stages - 1].row);
#pragma unroll
    for (int s = 0; s + 1 < Stages; ++s) { task[s] = task[s + 1]; }
    task[Stages - 1] = task_of(item + Stages);
    ptx::wait_for_all_but<Stages - 1>();
    __syncwarp();
    int const round = item % rounds;
    std::byte* const from = ring + static_cast<std::size_t>(item % Stages) * layout::stage;
    if constexpr (Signs) {
      constexpr int copies = layout::segment_bytes * units / 512;
      for (int i = 0; i < copies; ++i) {
        int const chunk = i * 32 + lane;
        int const u = chunk / (layout::segment_bytes / 16);
        int const within = chunk % (layout::segment_bytes / 16);
        row_task t;
        t.row = __shfl_sync(0xFFFFFFFFu, here.row, u / per_row);
        t.planes = __shfl_sync(0xFFFFFFFFu, here.planes, u / per_row);
        t.scale = __shfl_sync(0xFFFFFFFFu, here.scale, u / per_row);
        t.plane = static_cast<std::int64_t>(__shfl_sync(0xFFFFFFFFu, static_cast<unsigned long long>(here.plane), u / per_row));
        index_t const c = static_cast<index_t>(round * units + u % per_row) * sum_order::segment + within * each;
        if (t.row >= 0 && t.planes != 0 && c < a.cols) { add_signs<T>(a, t, c, from + u * layout::pitch + within * 16); }
      }
      __syncwarp();
    }
    int const segment = round * units + unit % per_row;
    int const row_here = __shfl_sync(0xFFFFFFFFu, here.row, unit / per_row);
    int const steps = row_here >= 0 && segment < segments ? a.steps(segment) : 0;
    float sum[each];
#pragma unroll
    for (int v = 0; v < each; ++v) { sum[v] = 0.0f; }
    std::byte const* const w = from + unit * layout::pitch + part * 16;
    float const* const xs = x + (steps != 0 ? segment : 0) * layout::x_pitch + part * each;
    int const swapped = parts == 2 ? segment >> 1 & 1 : 0;
#pragma unroll 4
    for (int k = 0; k < steps; ++k) {
      four_words const words = *reinterpret_cast<four_words const*>(w + k * (parts * 16));
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
    }
    // The tree over lanes: l with l + 8, + 4, + 2, + 1.
    float eight[each];
#pragma unroll
    for (int v = 0; v < each; ++v) { eight[v] = sum[v] + __shfl_xor_sync(0xFFFFFFFFu, sum[v], parts / 2); }
    float four[4];
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      if constexpr (parts == 2) {
        four[v] = eight[v] + eight[v + 4];
      } else {
        four[v] = eight[v] + __shfl_xor_sync(0xFFFFFFFFu, eight[v], 1);
      }
    }
    float const segment_sum = (four[0] + four[2]) + (four[1] + four[3]);
    if (round == 0) { total = 0.0f; }
    for (int s = 0; s < per_row; ++s) {
      float const next = __shfl_sync(0xFFFFFFFFu, segment_sum, (unit / per_row * per_row + s) * parts);
      if (round * units + s < segments) { total = total + next; }
    }
    int const channel = __shfl_sync(0xFFFFFFFFu, here.channel, unit / per_row);
    if (round == rounds - 1 && row_here >= 0 && unit % per_row == 0 && part == 0) { a.y[channel] = total; }
    __syncwarp();  // all have read the stage before copies overwrite it
  }
  ptx::wait_for_all_but<0>();
}

// ---- several vectors ----

template <class T, int Inputs>
struct tile_layout {
  static constexpr int threads = 256;
  static constexpr int inputs = 2 * Inputs;
  static constexpr int row_bytes = sum_order::segment * static_cast<int>(sizeof(T));
  static constexpr int x_pitch = sum_order::segment + 16;  // floats; two vectors side by side share no bank
  static constexpr int x_bytes = inputs * x_pitch * 4;
  static constexpr int stage = tile_tasks * row_bytes + x_bytes;
  static constexpr int bytes = 2 * stage;
};

/// A tile: up to 32 tasks times up to 2 * Inputs vectors, by a block of 256 threads. A thread is one lane of the order, and
/// has 4 rows times `Inputs` vectors of it.
template <class T, int Inputs, bool Signs>
BRAID_KERNEL void __launch_bounds__(tile_layout<T, Inputs>::threads, 1) row_tile_kernel(product_arguments const a) {
  using layout = tile_layout<T, Inputs>;
  using codec = word_codec<T>;
  using raw = typename codec::raw;
  constexpr int sums = 4 * Inputs;
  constexpr int folded = sums < 16 ? sums : 16;
  constexpr int folds = sums / folded;
  BRAID_BLOCK_MEMORY(memory);
  task_tile const tile = a.tiles[blockIdx.x];
  row_task const* const tasks = a.tasks + tile.first;
  std::int32_t const* const inputs = a.inputs + tile.first_input;
  int const segments = a.segments();
  int const thread = static_cast<int>(threadIdx.x);
  int const lane = thread % sum_order::lanes;
  int const half = thread / sum_order::lanes % 2;
  int const first_row = thread / 32 * 4;

  // A thread copies the same places of all segments: of rows, 16 bytes of every eighth or fourth row.
  constexpr int row_chunks = layout::row_bytes / 16;
  constexpr int rows_at_once = layout::threads / row_chunks;
  std::byte const* row_from[tile_tasks / rows_at_once];
#pragma unroll
  for (int i = 0; i < tile_tasks / rows_at_once; ++i) {
    int const r = i * rows_at_once + thread / row_chunks;
    row_from[i] = r < tile.tasks ? a.pool + static_cast<index_t>(tasks[r].row) * a.stride : nullptr;
  }
  constexpr int x_chunks = sum_order::segment / 4;
  auto const start = [&](int segment) {
    std::byte* const to = memory + segment % 2 * layout::stage;
    index_t const offset = static_cast<index_t>(segment) * layout::row_bytes + thread % row_chunks * 16;
#pragma unroll
    for (int i = 0; i < tile_tasks / rows_at_once; ++i) {
      if (row_from[i] == nullptr || segment >= segments || offset >= a.stride) { continue; }
      ptx::copy_16(to + (i * rows_at_once + thread / row_chunks) * layout::row_bytes + thread % row_chunks * 16, row_from[i] + offset);
    }
    auto* const x_to = reinterpret_cast<float*>(to + tile_tasks * layout::row_bytes);
    for (int i = thread; i < layout::inputs * x_chunks && segment < segments; i += layout::threads) {
      int const b = i / x_chunks;
      index_t const c = static_cast<index_t>(segment) * sum_order::segment + i % x_chunks * 4;
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
  start(0);
  for (int segment = 0; segment < segments; ++segment) {
    start(segment + 1);
    ptx::wait_for_all_but<1>();
    __syncthreads();
    std::byte* const from = memory + segment % 2 * layout::stage;
    if constexpr (Signs) {
      for (int i = thread; i < tile.tasks * row_chunks; i += layout::threads) {
        row_task const t = tasks[i / row_chunks];
        index_t const c = static_cast<index_t>(segment) * sum_order::segment + i % row_chunks * (16 / static_cast<int>(sizeof(T)));
        if (t.planes != 0 && c < a.cols) { add_signs<T>(a, t, c, from + i * 16); }
      }
      __syncthreads();
    }
    auto const* const w = reinterpret_cast<raw const*>(from) + first_row * sum_order::segment + lane;
    auto const* const x = reinterpret_cast<float const*>(from + tile_tasks * layout::row_bytes) + half * layout::x_pitch + lane;
    float sum[sums];
#pragma unroll
    for (int s = 0; s < sums; ++s) { sum[s] = 0.0f; }
    int const steps = a.steps(segment);
    if (first_row < tile.tasks) {
#pragma unroll 4
      for (int k = 0; k < steps; ++k) {
        float row[4];
        float v[Inputs];
#pragma unroll
        for (int r = 0; r < 4; ++r) { row[r] = codec::widen_one(w[r * sum_order::segment + k * sum_order::lanes]); }
#pragma unroll
        for (int b = 0; b < Inputs; ++b) { v[b] = x[2 * b * layout::x_pitch + k * sum_order::lanes]; }
#pragma unroll
        for (int r = 0; r < 4; ++r) {
#pragma unroll
          for (int b = 0; b < Inputs; ++b) { sum[r * Inputs + b] = sum[r * Inputs + b] + row[r] * v[b]; }
        }
      }
    }
#pragma unroll
    for (int f = 0; f < folds; ++f) {
      float part[folded];
#pragma unroll
      for (int s = 0; s < folded; ++s) { part[s] = sum[f * folded + s]; }
      total[f] = total[f] + fold_sums<folded>(part, lane);
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
