#pragma once

/// Codes the residuals of merged channels in device memory: what detail::residual_group does on the CPU (there it is
/// explained), a block a channel. Sums stay in the one order, so the bytes are the CPU's.

#include <braid/backend/cuda/device_merged.cuh>
#include <braid/backend/cuda/residual_trellis.cuh>
#include <braid/core/concepts.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Where residuals go in device memory: room for every expert of every channel.
struct device_residuals {
  std::byte* planes = nullptr;      // [channels, experts, plane_bytes]
  bfloat16* scales = nullptr;       // [channels, experts, scale_count]
  residual_code* code = nullptr;    // [channels, experts]
  index_t plane_bytes = 0;
  int scale_count = 0;
};

struct residual_arguments {
  any_rows const* models = nullptr;  // the base first
  int experts = 0;
  index_t channels = 0;
  int sweeps = 0;
  bool allow_nonfinite = false;
  dtype type = dtype::f32;  // of the merged rows
  residual_shape shape;
  device_merged merged;
  device_residuals out;
  residual_code const* chosen = nullptr;  // [channels], or null: all of this kernel's code
  float const* column = nullptr;          // [cols], or null: scales of the columns
  float const* coded_weight = nullptr;    // [cols], or null: what an error in what is coded counts
  float const* column_weight = nullptr;   // [cols], or null: what an error in a residual counts
  float const* table = nullptr;           // [256]: values of a trellis' states
  std::byte* room = nullptr;              // of all blocks; null: shared memory
  std::size_t room_bytes = 0;             // of a block
};

/// A block's room: rows of floats, sums of segments, codes of the members and a spare one, decisions.
struct residual_room {
  float* sum;
  float* target;
  float* coded;  // what is coded: the target, or the target over the columns' scales
  float* value;
  float* part;
  std::uint32_t* decisions;
  std::byte* states;
  std::size_t states_bytes;  // of a member
  float const* table = nullptr;

  template <class Coder>
  BRAID_HD static constexpr std::size_t state_bytes_of(residual_shape const& s) noexcept {
    return static_cast<std::size_t>(s.chunks() * s.threads) * Coder::state_bytes;
  }
  template <class Coder>
  BRAID_HD static constexpr std::size_t bytes(residual_shape const& s, int experts, bool divides) noexcept {
    auto const row = static_cast<std::size_t>(s.slots()) * sizeof(float);
    auto const parts = static_cast<std::size_t>(2 * most_residual_sums * s.segments() + 3) / 4 * 4 * sizeof(float);
    return (2 + (divides ? 1u : 0u) + (Coder::searches ? 1u : 0u)) * row + parts + (Coder::searches ? trellis_decisions_bytes(s.cols) : 0) +
           static_cast<std::size_t>(experts + 1) * state_bytes_of<Coder>(s);
  }
  template <class Coder>
  __device__ static residual_room make(std::byte* memory, residual_arguments const& a) noexcept {
    residual_shape const& s = a.shape;
    residual_room r;
    auto* next = reinterpret_cast<float*>(memory);
    auto const take = [&](int floats) {
      float* const p = next;
      next += floats;
      return p;
    };
    r.sum = take(s.slots());
    r.target = take(s.slots());
    r.coded = a.column != nullptr ? take(s.slots()) : r.target;
    r.value = Coder::searches ? take(s.slots()) : nullptr;
    r.part = take((2 * most_residual_sums * s.segments() + 3) / 4 * 4);
    r.decisions = reinterpret_cast<std::uint32_t*>(next);
    r.states = reinterpret_cast<std::byte*>(next) + (Coder::searches ? trellis_decisions_bytes(s.cols) : 0);
    r.states_bytes = state_bytes_of<Coder>(s);
    r.table = a.table;
    return r;
  }
};

/// What a block's threads share of the channel.
struct residual_members {
  int count;
  int expert[max_experts];         // of each distinct row of a group
  int weight[max_experts];         // how many have it
  std::uint8_t first[max_experts];  // of each expert: the first expert with the same row
  std::uint8_t place[max_experts];  // by expert: number of its distinct row in the group
  float scale[max_experts][3];
};

/// largest_finite of a storage type.
__device__ inline float largest_of(dtype type) noexcept {
  switch (type) {
    case dtype::bf16: return 0x1.fep127f;
    case dtype::f16: return 65504.0f;
    case dtype::f8_e4m3: return 448.0f;
    case dtype::f8_e5m2: return 57344.0f;
    default: return 0x1.fffffep127f;
  }
}

/// One channel, by a block.
template <class Coder>
class residual_channel {
 public:
  __device__ residual_channel(residual_arguments const& a, residual_room const& room, residual_members& members, index_t channel)
      : a_(a), room_(room), members_(members), channel_(channel), row_(a.shape, room.part) {}

  __device__ void code() {
    find_distinct_rows();
    std::uint8_t const* const label = a_.merged.label + channel_ * a_.experts;
    int seen = 0;
    for (int g = 0; seen < a_.experts; ++g) {
      int in_group = 0;
      for (int e = 0; e < a_.experts; ++e) { in_group += label[e] == g ? 1 : 0; }
      seen += in_group;
      __syncthreads();  // the group before is done with
      if (threadIdx.x == 0) { list_members(label, g); }
      __syncthreads();
      if (members_.count < 2) { continue; }
      index_t const element = a_.type == dtype::f32 ? 4 : a_.type == dtype::f16 || a_.type == dtype::bf16 ? 2 : 1;
      index_t const bytes = a_.shape.cols * element;
      shared_ = g == 0 ? a_.merged.group_zero + channel_ * bytes : a_.merged.extra + (channel_ * a_.merged.most_extra + g - 1) * bytes;
      element_ = element;
      code_group();
      write_group(label, g);
    }
  }

 private:
  enum class coding { first, first_of_pair, again };  // as in residual_group

  /// Experts are compared with those before them that have the same label and another row than those before them.
  __device__ void find_distinct_rows() {
    std::uint8_t const* const label = a_.merged.label + channel_ * a_.experts;
    for (int e = 0; e < a_.experts; ++e) {
      int first = e;
      for (int d = 0; d < e; ++d) {
        if (label[d] != label[e] || members_.first[d] != d) { continue; }
        if (same_rows(d, e)) {
          first = d;
          break;
        }
      }
      __syncthreads();
      if (threadIdx.x == 0) { members_.first[e] = static_cast<std::uint8_t>(first); }
      __syncthreads();
    }
  }

  /// By all threads; rows that differ usually do so at once.
  __device__ bool same_rows(int x, int y) {
    any_rows const& of_x = a_.models[1 + x];
    any_rows const& of_y = a_.models[1 + y];
    std::byte const* const x_row = of_x.row(channel_);
    std::byte const* const y_row = of_y.row(channel_);
    int const cols = a_.shape.cols;
    int const threads = a_.shape.threads;
    auto const differs = [&](int c) { return __float_as_uint(of_x.at(x_row, c)) != __float_as_uint(of_y.at(y_row, c)); };
    int c = residual_row::thread();
    if (__syncthreads_or(c < cols && differs(c)) != 0) { return false; }
    bool differ = false;
    for (c += threads; c < cols; c += threads) { differ = differ || differs(c); }
    return __syncthreads_or(differ) == 0;
  }

  __device__ void list_members(std::uint8_t const* label, int g) {
    int n = 0;
    for (int e = 0; e < a_.experts; ++e) {
      if (label[e] != g) { continue; }
      int const first = members_.first[e];
      if (first == e) {
        members_.expert[n] = e;
        members_.weight[n] = 0;
        members_.place[e] = static_cast<std::uint8_t>(n++);
      } else {
        members_.place[e] = members_.place[first];
      }
      ++members_.weight[members_.place[e]];
    }
    members_.count = n;
  }

  /// Round 0 codes against the merged row, or, of a pair that will be refined, nothing; the last one codes against the refined
  /// row; sweeps lie between.
  __device__ void code_group() {
    int const n = members_.count;
    bool const refines = a_.sweeps > 0;
    bool const pair = n == 2 && refines;
    int const last = refines ? a_.sweeps + 1 : 0;
    if (pair) {
      for (int i = 0; i < n; ++i) { clear(i); }
      __syncthreads();
    }
    float total = 0.0f;
    for (int i = 0; i < n; ++i) { total = total + static_cast<float>(members_.weight[i]); }
    for (int round = pair ? 1 : 0; round <= last; ++round) {
      bool const against = round == 0 || round == last;
      if (round == 1 || (round == last && refines)) { sum_left(); }
      if (round == last && refines) { store_mean(total); }
      for (int i = 0; i < n; ++i) {
        coding const what = round == 0                 ? coding::first
                            : pair && round == 1 ? (i == 0 ? coding::first_of_pair : coding::first)
                                                       : coding::again;
        auto const times = static_cast<float>(members_.weight[i]);
        encode(i, what, against, times, total);
        if (!against) { add_left(i, times); }
      }
    }
  }

  /// The mean of what is left becomes the shared row.
  __device__ void store_mean(float total) {
    float const most = largest_of(a_.type);
    row_.each([&](int q, int first) {
#pragma unroll 1
      for (int i = 0; i < chunk_columns; ++i) {
        int const c = first + sum_order::lanes * i;
        if (c >= a_.shape.cols) { break; }
        float const x = room_.sum[row_.slot(q, i)] / total;
        bool const finite = is_finite(x);
        narrow_any(a_.type, finite && x > most ? most : finite && x < -most ? -most : x, shared_ + c * element_);
      }
    });
  }

  /// No code yet: all that is coded is zero.
  __device__ void clear(int i) {
    typename Coder::chunk none;
    none.clear();
    row_.each([&](int q, int) { none.store(states(i), row_, q); });
    if (threadIdx.x < 3) { members_.scale[i][threadIdx.x] = 0.0f; }
  }

  [[nodiscard]] __device__ std::byte* states(int i) const noexcept { return room_.states + static_cast<std::size_t>(i) * room_.states_bytes; }

  /// Decoded residuals of a chunk.
  __device__ void decode(typename Coder::chunk const& from, float const* scale, int first, float (&x)[chunk_columns]) const noexcept {
#pragma unroll
    for (int i = 0; i < chunk_columns; ++i) {
      int const c = first + sum_order::lanes * i;
      x[i] = Coder::value(room_, from, i, scale);
      if (a_.column != nullptr && c < a_.shape.cols) { x[i] = a_.column[c] * x[i]; }
    }
  }

  /// A member's row less what is coded of it, times how often it counts.
  struct left_over {
    float x[chunk_columns];
    float left[chunk_columns];
  };
  __device__ left_over what_is_left(int i, int q, int first, float times) const {
    left_over l;
    any_rows const& model = a_.models[1 + members_.expert[i]];
    load_chunk(model.type, model.row(channel_), model.step, first, a_.shape.cols, l.x);
    typename Coder::chunk chunk;
    chunk.load(states(i), row_, q);
    float coded[chunk_columns];
    decode(chunk, members_.scale[i], first, coded);
#pragma unroll
    for (int k = 0; k < chunk_columns; ++k) { l.left[k] = times * (l.x[k] - coded[k]); }
    return l;
  }

  /// Into `sum`, over the members in their order.
  __device__ void sum_left() {
    int const n = members_.count;
    row_.each([&](int q, int first) {
      float sum[chunk_columns];
#pragma unroll
      for (int k = 0; k < chunk_columns; ++k) { sum[k] = 0.0f; }
      for (int i = 0; i < n; ++i) {
        left_over const l = what_is_left(i, q, first, static_cast<float>(members_.weight[i]));
#pragma unroll
        for (int k = 0; k < chunk_columns; ++k) { sum[k] = sum[k] + l.left[k]; }
      }
#pragma unroll
      for (int k = 0; k < chunk_columns; ++k) { room_.sum[row_.slot(q, k)] = sum[k]; }
    });
  }

  __device__ void add_left(int i, float times) {
    row_.each([&](int q, int first) {
      left_over const l = what_is_left(i, q, first, times);
#pragma unroll
      for (int k = 0; k < chunk_columns; ++k) {
        float& sum = room_.sum[row_.slot(q, k)];
        sum = sum + l.left[k];
      }
    });
  }

  /// What a member has to code: its distance from the shared row, or from the mean of what the others leave, which stays in
  /// `sum`. Zero where that isn't finite.
  __device__ void aim(int member, bool against, float times, float share, int q, int first, float (&target)[chunk_columns]) {
    if (against) {
      any_rows const& model = a_.models[1 + members_.expert[member]];
      load_chunk(model.type, model.row(channel_), model.step, first, a_.shape.cols, target);
      float shared[chunk_columns];
      load_chunk(a_.type, shared_, element_, first, a_.shape.cols, shared);
#pragma unroll
      for (int k = 0; k < chunk_columns; ++k) { target[k] = target[k] - shared[k]; }
    } else {
      left_over const l = what_is_left(member, q, first, times);
#pragma unroll
      for (int k = 0; k < chunk_columns; ++k) {
        float& sum = room_.sum[row_.slot(q, k)];
        float const others = sum - l.left[k];
        sum = others;
        target[k] = l.x[k] - others * share;
      }
    }
#pragma unroll
    for (int k = 0; k < chunk_columns; ++k) { target[k] = is_finite(target[k]) ? target[k] : 0.0f; }
  }

  /// Codes what a member lacks.
  /// @param against  the shared row; else what the others leave
  __device__ void encode(int member, coding what, bool against, float times, float total) {
    float const share = 1.0f / (total - times);
    residual_weight const weight{a_.coded_weight, what == coding::first_of_pair && Coder::has_gaps};
    bool const spread = weight.spread;
    int const cols = a_.shape.cols;
    float all[2];
    row_.template sums<2>([&](int q, int first, float (&sum)[2]) {
      float target[chunk_columns];
      aim(member, against, times, share, q, first, target);
#pragma unroll
      for (int k = 0; k < chunk_columns; ++k) {
        int const c = first + sum_order::lanes * k;
        if (c >= cols) { continue; }
        float x = target[k];
        room_.target[row_.slot(q, k)] = x;
        if (a_.column != nullptr) {
          x = x / a_.column[c];
          x = is_finite(x) ? x : 0.0f;
          room_.coded[row_.slot(q, k)] = x;
        }
        float const h = weight(c, x);
        sum[0] = sum[0] + h * Coder::first_term(x);
        sum[1] = sum[1] + h;
      }
    }, all);
    if (a_.coded_weight == nullptr && !spread) { all[1] = static_cast<float>(cols); }

    std::byte* const old = states(member);
    std::byte* const to = what == coding::again ? states(members_.count) : old;
    found_scales found{};
    Coder::find(row_, room_, room_.coded, weight, all, to, found);

    auto const code_chunk = [&](int q, int first) {
      typename Coder::chunk made{};
      if constexpr (Coder::searches) {
        made.load(to, row_, q);
      } else {
#pragma unroll
        for (int k = 0; k < chunk_columns; ++k) {
          if (first + sum_order::lanes * k < cols) { Coder::code(room_.coded[row_.slot(q, k)], k, found, made); }
        }
        made.store(to, row_, q);
      }
      return made;
    };
    bool better = true;
    if (what == coding::again) {
      float error[2];
      row_.template sums<2>([&](int q, int first, float (&sum)[2]) {
        float now[chunk_columns];
        float before[chunk_columns];
        decode(code_chunk(q, first), found.scale, first, now);
        typename Coder::chunk was;
        was.load(old, row_, q);
        decode(was, members_.scale[member], first, before);
#pragma unroll
        for (int k = 0; k < chunk_columns; ++k) {
          int const c = first + sum_order::lanes * k;
          if (c >= cols) { continue; }
          float const target = room_.target[row_.slot(q, k)];
          float const x = target - now[k];
          float const y = target - before[k];
          float const h = a_.column_weight == nullptr ? 1.0f : a_.column_weight[c];
          sum[0] = sum[0] + h * (x * x);
          sum[1] = sum[1] + h * (y * y);
        }
      }, error);
      better = error[0] < error[1];
      if (better) {
        row_.each([&](int q, int) {
          typename Coder::chunk made;
          made.load(to, row_, q);
          made.store(old, row_, q);
        });
      }
    } else {
      row_.each([&](int q, int first) { (void)code_chunk(q, first); });
      __syncthreads();  // scales of before have been read
    }
    if (better && threadIdx.x == 0) {
      for (int s = 0; s < Coder::scales; ++s) { members_.scale[member][s] = found.scale[s]; }
    }
    __syncthreads();
  }

  /// Planes, scales and codes of a group's experts.
  __device__ void write_group(std::uint8_t const* label, int g) {
    for (int e = 0; e < a_.experts; ++e) {
      if (label[e] != g) { continue; }
      index_t const at = channel_ * a_.experts + e;
      int const i = members_.place[e];
      Coder::write(row_, states(i), a_.out.planes + at * a_.out.plane_bytes, reinterpret_cast<std::byte*>(room_.target));
      if (threadIdx.x < static_cast<unsigned>(Coder::scales)) {
        a_.out.scales[at * a_.out.scale_count + static_cast<index_t>(threadIdx.x)] = bfloat16(members_.scale[i][threadIdx.x]);
      }
      if (threadIdx.x == 0) { a_.out.code[at] = Coder::code_number; }
    }
  }

  residual_arguments const& a_;
  residual_room const& room_;
  residual_members& members_;
  index_t channel_;
  residual_row row_;
  std::byte* shared_ = nullptr;
  index_t element_ = 0;
};

/// Blocks take channels in turn. Behind a merge that found something not finite, and mustn't, nothing is done.
template <class Coder>
BRAID_KERNEL void __launch_bounds__(512, 1) code_residuals_kernel(__grid_constant__ residual_arguments const a) {
  BRAID_BLOCK_MEMORY(memory);
  BRAID_BLOCK_OBJECT(residual_members, members);
  if (!a.allow_nonfinite && a.merged.totals->first_bad != ~0ull) { return; }
  residual_room const room = residual_room::make<Coder>(a.room == nullptr ? memory : a.room + static_cast<index_t>(blockIdx.x) * static_cast<index_t>(a.room_bytes), a);
  for (index_t channel = blockIdx.x; channel < a.channels; channel += gridDim.x) {
    if (a.chosen != nullptr && a.chosen[channel] != Coder::code_number) { continue; }
    residual_channel<Coder>(a, room, members, channel).code();
    __syncthreads();
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
