#pragma once

/// The trellis codes on a device: the Viterbi algorithm by one warp, eight of the 256 states a lane.

#include <braid/backend/cuda/residual_codes.cuh>
#include <braid/residual/detail/trellis_table.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A thread's chunk: eight states.
struct chunk_states {
  std::uint32_t word[2];

  __device__ static std::uint32_t* place(std::byte* states, residual_row const& row, int chunk, int half) noexcept {
    return reinterpret_cast<std::uint32_t*>(states) + (chunk * 2 + half) * row.shape.threads + residual_row::thread();
  }
  __device__ void load(std::byte* states, residual_row const& row, int chunk) noexcept {
    word[0] = *place(states, row, chunk, 0);
    word[1] = *place(states, row, chunk, 1);
  }
  __device__ void store(std::byte* states, residual_row const& row, int chunk) const noexcept {
    *place(states, row, chunk, 0) = word[0];
    *place(states, row, chunk, 1) = word[1];
  }
  /// Before there is a code, all elements are in a state whose value isn't below zero.
  __device__ void clear() noexcept { word[0] = word[1] = 0x01010101u; }
  __device__ unsigned get(int i) const noexcept { return word[i / 4] >> (8 * (i % 4)) & 255u; }
};
static_assert(trellis_table<1>[1] > 0 && trellis_table<2>[1] > 0);

/// Costs of a path's last states, of which lane L has 8 L to 8 L + 7. State n is reached from the states p + k (256 / 2^B),
/// p = n >> B; of equal costs the lowest k wins.
template <int B>
struct trellis_lanes {
  static constexpr int bests = B == 1 ? 4 : 2;  // of these, a lane finds so many
  float cost[8];

  __device__ static int lane() noexcept { return static_cast<int>(threadIdx.x % 32u); }

  /// The best predecessors of p = `first_best(lane) + e`. @return four bits: which they are
  __device__ unsigned step(float (&best)[bests]) const {
    if constexpr (B == 1) {
      // p and p + 128 are 16 lanes apart: the lower lane takes the first four of its eight, the upper one the others.
      bool const upper = lane() >= 16;
      unsigned chosen = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float const there = __shfl_xor_sync(0xFFFFFFFFu, upper ? cost[e] : cost[e + 4], 16);
        float const first = upper ? there : cost[e];
        float const second = upper ? cost[e + 4] : there;
        bool const less = second < first;
        best[e] = less ? second : first;
        chosen |= (less ? 1u : 0u) << e;
      }
      return chosen;
    } else {
      // The four are 8 lanes apart: lane m + 8 h takes elements 2 h and 2 h + 1.
      int const h = lane() / 8;
      bool const odd = (h & 1) != 0;
      bool const high = (h & 2) != 0;
      float pair[8];  // pair x: what lane h ^ x wants
      exchange(cost, odd, high, pair);
      float mine[8];
      mine[0] = pair[0];
      mine[1] = pair[1];
#pragma unroll
      for (int x = 1; x < 4; ++x) {
        mine[2 * x] = __shfl_xor_sync(0xFFFFFFFFu, pair[2 * x], 8 * x);
        mine[2 * x + 1] = __shfl_xor_sync(0xFFFFFFFFu, pair[2 * x + 1], 8 * x);
      }
      float of[8];  // pair k: from k
      exchange(mine, odd, high, of);
      unsigned chosen = 0;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        bool const low = of[2 + e] < of[e];
        bool const last = of[6 + e] < of[4 + e];
        float const one = low ? of[2 + e] : of[e];
        float const two = last ? of[6 + e] : of[4 + e];
        bool const upper = two < one;
        best[e] = upper ? two : one;
        chosen |= (upper ? (last ? 3u : 2u) : (low ? 1u : 0u)) << (2 * e);
      }
      return chosen;
    }
  }

  /// Gives each state the cost of its best predecessor.
  __device__ static void spread(float const (&best)[bests], float (&from)[8]) {
    int const source = B == 1 ? lane() / 2 + lane() % 2 * 16 : lane() / 4 + lane() % 4 * 8;
#pragma unroll
    for (int e = 0; e < bests; ++e) {
      float const x = __shfl_sync(0xFFFFFFFFu, best[e], source);
#pragma unroll
      for (int i = 0; i < 8 / bests; ++i) { from[e * (8 / bests) + i] = x; }
    }
  }

  /// The k of the best predecessor of p, from the words of the lanes, whose bits of the column begin at `shift`.
  __device__ static unsigned decision(unsigned word, unsigned p, int shift) {
    unsigned const r = p % 8;
    if constexpr (B == 1) {
      unsigned const there = __shfl_sync(0xFFFFFFFFu, word, static_cast<int>(p / 8 + (r >= 4 ? 16 : 0)));
      return there >> (shift + static_cast<int>(r & 3u)) & 1u;
    } else {
      unsigned const there = __shfl_sync(0xFFFFFFFFu, word, static_cast<int>(p / 8 + r / 2 * 8));
      return there >> (shift + static_cast<int>(2 * (r & 1u))) & 3u;
    }
  }

 private:
  /// Pair x of `to` is pair x ^ h of `from`.
  __device__ static void exchange(float const (&from)[8], bool odd, bool high, float (&to)[8]) {
    float half[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) { half[i] = odd ? from[i ^ 2] : from[i]; }
#pragma unroll
    for (int i = 0; i < 8; ++i) { to[i] = high ? half[i ^ 4] : half[i]; }
  }
};

/// Bytes of decisions: a word a lane for eight columns.
BRAID_HD constexpr std::size_t trellis_decisions_bytes(int cols) noexcept {
  return static_cast<std::size_t>((cols + 7) / 8) * 128;
}

template <int B>
struct trellis_coder {
  static constexpr residual_code code_number = B == 1 ? residual_code::trellis1 : residual_code::trellis2;
  static constexpr int scales = 1;
  static constexpr int state_bytes = 8;
  static constexpr bool searches = true;
  static constexpr bool has_gaps = false;
  using chunk = chunk_states;

  __device__ static float first_term(float x) noexcept { return x * x; }

  /// @param states  out: the best path's
  template <class Arguments>
  __device__ static void find(residual_row& row, Arguments const& a, float const* x, residual_weight const& weight, float const (&all)[2],
                              std::byte* states, found_scales& found) {
    float const s = all[1] > 0.0f ? ::sqrtf(all[0] / all[1]) : 0.0f;
    found.scale[0] = 0.0f;
    if (!(s > 0.0f) || !is_finite(s)) {
      row.each([&](int q, int) { chunk{{0, 0}}.store(states, row, q); });
      return;
    }
    row.each([&](int q, int first) {
      chunk{{0, 0}}.store(states, row, q);  // also behind the last column, where the search writes nothing
#pragma unroll
      for (int i = 0; i < chunk_columns; ++i) {
        if (first + sum_order::lanes * i < row.shape.cols) { a.value[row.slot(q, i)] = x[row.slot(q, i)] / s; }
      }
    });
    __syncthreads();
    if (threadIdx.x < 32) { search(row, a, weight.of_column, all[1] / static_cast<float>(row.shape.cols), states); }
    __syncthreads();
    // The scale that is best for this path.
    float sums[2];
    row.sums<2>([&](int q, int first, float (&sum)[2]) {
      chunk path;
      path.load(states, row, q);
#pragma unroll
      for (int i = 0; i < chunk_columns; ++i) {
        int const c = first + sum_order::lanes * i;
        if (c >= row.shape.cols) { continue; }
        float const v = x[row.slot(q, i)];
        float const y = a.table[path.get(i)];
        float const h = weight(c, v);
        sum[0] = sum[0] + h * (v * y);
        sum[1] = sum[1] + h * (y * y);
      }
    }, sums);
    found.scale[0] = static_cast<float>(stored_scale(sums[1] > 0.0f ? sums[0] / sums[1] : 0.0f));
  }

  template <class Arguments>
  __device__ static float value(Arguments const& a, chunk const& from, int i, float const* scale) noexcept {
    return scale[0] * a.table[from.get(i)];
  }

  __device__ static void write(residual_row const& row, std::byte* states, std::byte* plane, std::byte*) {
    auto const bits = [&](int q, int of_state) {
      chunk c;
      c.load(states, row, q);
      unsigned all = 0;
#pragma unroll
      for (int i = 0; i < chunk_columns; ++i) {
        bool const there = row.first_column(q) + sum_order::lanes * i < row.shape.cols;
        all |= (there ? c.get(i) >> of_state & 1u : 0u) << i;
      }
      return all;
    };
    if constexpr (B == 1) {
      write_plane(row, [&](int q) { return bits(q, 0); }, plane);
    } else {
      int const bytes = (row.shape.cols + 3) / 4;
      int const lane = residual_row::lane();
      for (int q = 0; q < row.shape.chunks(); ++q) {
        int const first = row.first_column(q);
        bool const there = first < row.shape.cols;
        unsigned const low = there ? bits(q, 0) : 0u;
        unsigned const high = there ? bits(q, 1) : 0u;
        unsigned even = 0;
        unsigned odd = 0;
#pragma unroll
        for (int i = 0; i < chunk_columns; ++i) {
          unsigned const votes = __ballot_sync(0xFFFFFFFFu, (low >> i & 1u) != 0);
          unsigned const more = __ballot_sync(0xFFFFFFFFu, (high >> i & 1u) != 0);
          bool const upper = (threadIdx.x & 16u) != 0;
          if (lane == i) {
            even = upper ? votes >> 16 : votes & 0xFFFFu;
            odd = upper ? more >> 16 : more & 0xFFFFu;
          }
        }
        if (lane >= chunk_columns) { continue; }
        unsigned const word = apart(even) | apart(odd) << 1;
        int const at = (first - lane + sum_order::lanes * lane) / 4;
        for (int i = 0; i < 4; ++i) {
          if (at + i < bytes) { plane[at + i] = static_cast<std::byte>(word >> (8 * i) & 255u); }
        }
      }
    }
  }

 private:
  /// Sixteen bits with a zero behind each.
  __device__ static unsigned apart(unsigned x) noexcept {
    x = (x | x << 8) & 0x00FF00FFu;
    x = (x | x << 4) & 0x0F0F0F0Fu;
    x = (x | x << 2) & 0x33333333u;
    return (x | x << 1) & 0x55555555u;
  }

  /// There and back, by the first warp. Every 128 columns the least cost is taken off all of them.
  /// @param mean  of the weights
  template <class Arguments>
  __device__ static void search(residual_row const& row, Arguments const& a, float const* weight, float mean, std::byte* states) {
    using lanes = trellis_lanes<B>;
    int const lane = lanes::lane();
    int const cols = row.shape.cols;
    lanes path;
    float of_state[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      path.cost[i] = 1e30f;
      of_state[i] = a.table[8 * lane + i];
    }
    if (lane == 0) { path.cost[0] = 0.0f; }
    unsigned word = 0;
    for (int first = 0; first < cols; first += 32) {
      int const count = cols - first < 32 ? cols - first : 32;
      bool const there = lane < count;
      float const value = there ? a.value[row.shape.slot_of(first + lane)] : 0.0f;
      float const unit = there && weight != nullptr ? weight[first + lane] / mean : 1.0f;
      for (int t = 0; t < count; ++t) {
        float const x = __shfl_sync(0xFFFFFFFFu, value, t);
        float best[lanes::bests];
        word |= path.step(best) << (4 * (t & 7));
        float from[8];
        lanes::spread(best, from);
        float h = 1.0f;
        if (weight != nullptr) { h = __shfl_sync(0xFFFFFFFFu, unit, t); }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          float const e = x - of_state[i];
          path.cost[i] = from[i] + h * (e * e);
        }
        int const c = first + t;
        if ((c & 127) == 127) {
          float least = best[0];
#pragma unroll
          for (int e = 1; e < lanes::bests; ++e) { least = best[e] < least ? best[e] : least; }
          for (int width = 16; width > 0; width /= 2) {
            float const other = __shfl_xor_sync(0xFFFFFFFFu, least, width);
            least = other < least ? other : least;
          }
#pragma unroll
          for (int i = 0; i < 8; ++i) { path.cost[i] = path.cost[i] - least; }
        }
        if ((t & 7) == 7 || t + 1 == count) {
          a.decisions[c / 8 * 32 + lane] = word;
          word = 0;
        }
      }
    }
    // The best last state, of equals the lowest; state 0 where its own cost is NaN, as nothing is less.
    bool const none_is_less = __shfl_sync(0xFFFFFFFFu, path.cost[0] != path.cost[0] ? 1u : 0u, 0) != 0;
    float least = __uint_as_float(0x7F800000u);
    unsigned state = static_cast<unsigned>(8 * lane);
#pragma unroll
    for (unsigned i = 0; i < 8; ++i) {
      if (path.cost[i] < least) {
        least = path.cost[i];
        state = static_cast<unsigned>(8 * lane) + i;
      }
    }
    for (int width = 16; width > 0; width /= 2) {
      float const other = __shfl_xor_sync(0xFFFFFFFFu, least, width);
      unsigned const there = __shfl_xor_sync(0xFFFFFFFFu, state, width);
      if (other < least || (other == least && there < state)) {
        least = other;
        state = there;
      }
    }
    if (none_is_less) { state = 0; }
    for (int first = (cols - 1) / 32 * 32; first >= 0; first -= 32) {
      unsigned of_lane[4];  // a word for eight columns
#pragma unroll
      for (int o = 0; o < 4; ++o) { of_lane[o] = first + 8 * o < cols ? a.decisions[(first / 8 + o) * 32 + lane] : 0u; }
      unsigned mine = 0;
#pragma unroll
      for (int o = 3; o >= 0; --o) {
        for (int t = 7; t >= 0; --t) {
          int const at = 8 * o + t;
          if (first + at >= cols) { continue; }
          if (lane == at) { mine = state; }
          unsigned const p = state >> B;
          state = p | lanes::decision(of_lane[o], p, 4 * t) << (8 - B);
        }
      }
      int const c = first + lane;
      if (c < cols) {
        // Where chunk_states has this column's byte.
        int const slot = row.shape.slot_of(c);
        int const step = slot / row.shape.threads;  // chunk * 8 + i
        int const place = (step / 4 * row.shape.threads + slot % row.shape.threads) * 4 + step % 4;
        states[place] = static_cast<std::byte>(mine);
      }
    }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
