#pragma once

/// The best path through the trellis for a row: the Viterbi algorithm over 256 states.

#include <braid/backend/cpu/lanes.hpp>
#include <braid/residual/detail/trellis_table.hpp>

#include <cstddef>
#include <utility>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int trellis_states = 256;

/// Values of the states as floats.
template <int B>
struct trellis_values {
  alignas(64) float of[static_cast<std::size_t>(trellis_states)];
  constexpr trellis_values() noexcept : of{} {
    for (unsigned s = 0; s < 256; ++s) { of[s] = trellis_value<B>(s); }
  }
};
template <int B>
inline constexpr trellis_values<B> trellis_floats{};

/// Bytes of decisions a column: B bits for each of the 256 / 2^B shifted registers, 16 bytes of 8 bits, 8 of 16 or 4 of 32.
inline constexpr index_t trellis_decision_bytes = 16;

/// Forward: the cost of the best path to each state, and where it came from. State n is reached from the states
/// (n >> B) + k * (256 / 2^B): they share all but the oldest bits, so that the best predecessors are minima of
/// neighbouring vectors. Of equal costs the lowest k wins. Costs are weight * (x - value)^2, products and sums rounded;
/// every 128 columns the least is taken off all of them, so that sums keep their digits however long a row is.
/// @param x        [cols], mean square about 1
/// @param weight   [cols], mean about 1, or null for all one
/// @param decision [cols, trellis_decision_bytes]
/// @param last     out: [256], costs after the last column
template <int B>
struct trellis_forward_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float const* weight, index_t cols, std::uint8_t* decision,
                                      float* last) noexcept {
    if (weight == nullptr) {
      search<W, false>(x, weight, cols, decision, last);
    } else {
      search<W, true>(x, weight, cols, decision, last);
    }
  }

 private:
  static constexpr int branches = 1 << B;

  template <int W, bool Weighted>
  BRAID_ALWAYS_INLINE static void search(float const* x, float const* weight, index_t cols, std::uint8_t* decision,
                                         float* last) noexcept {
    using f32 = typename wide<W>::f32;
    using u32 = typename wide<W>::u32;
    constexpr int vectors = trellis_states / W;
    constexpr int shifted = vectors / branches;
    f32 cost[static_cast<std::size_t>(vectors)];
    BRAID_UNROLL
    for (int v = 0; v < vectors; ++v) { fill_lanes<W>(1e30f, cost[v]); }
    cost[0][0] = 0.0f;  // the register starts empty; not infinity elsewhere: differences are taken
    for (index_t c = 0; c < cols; ++c) {
      f32 best[static_cast<std::size_t>(shifted)];
      u32 chosen{};
      BRAID_UNROLL
      for (int p = 0; p < shifted; ++p) {
        if constexpr (B == 1) {
          f32 const other = cost[p + shifted];
          u32 const less = (u32)(other < cost[p]);
          best[p] = other < cost[p] ? other : cost[p];
          chosen |= less & (1u << p);
        } else {
          f32 const first = cost[p];
          f32 const second = cost[p + shifted];
          f32 const third = cost[p + 2 * shifted];
          f32 const fourth = cost[p + 3 * shifted];
          u32 const low = (u32)(second < first);
          u32 const high = (u32)(fourth < third);
          f32 const one = second < first ? second : first;
          f32 const two = fourth < third ? fourth : third;
          u32 const upper = (u32)(two < one);
          best[p] = two < one ? two : one;
          u32 const odd = (upper & high) | (~upper & low);
          chosen |= (odd & (1u << (2 * p))) | (upper & (2u << (2 * p)));
        }
      }
      store_chosen<W>(chosen, decision + c * trellis_decision_bytes);
      f32 value;
      f32 h;
      fill_lanes<W>(x[c], value);
      if constexpr (Weighted) { fill_lanes<W>(weight[c], h); }
      BRAID_UNROLL
      for (int v = 0; v < vectors; ++v) {
        f32 from;
        spread<W>(best[v / branches], v % branches, from);
        f32 table;
        load_lanes<W>(trellis_floats<B>.of + v * W, table);
        f32 const e = value - table;
        f32 square = e * e;
        if constexpr (Weighted) { square = h * square; }
        cost[v] = from + square;
      }
      if ((c & 127) == 127) {
        f32 least = best[0];
        for (int p = 1; p < shifted; ++p) { least = best[p] < least ? best[p] : least; }
        float floor = least[0];
        for (int l = 1; l < W; ++l) { floor = least[l] < floor ? least[l] : floor; }
        BRAID_UNROLL
        for (int v = 0; v < vectors; ++v) { cost[v] = cost[v] - floor; }
      }
    }
    BRAID_UNROLL
    for (int v = 0; v < vectors; ++v) { store_lanes<W>(cost[v], last + v * W); }
  }

  /// Lanes part * W / branches ... of `best`, each `branches` times.
  template <int W>
  BRAID_ALWAYS_INLINE static void spread(typename wide<W>::f32 const& best, int part, typename wide<W>::f32& out) noexcept {
    lanes<W>(best, part, out, std::make_index_sequence<static_cast<std::size_t>(W)>{});
  }
  template <int W, std::size_t... L>
  BRAID_ALWAYS_INLINE static void lanes(typename wide<W>::f32 const& best, int part, typename wide<W>::f32& out,
                                        std::index_sequence<L...>) noexcept {
    int const first = part * (W / branches);
    out = typename wide<W>::f32{best[first + static_cast<int>(L) / branches]...};
  }

  template <int W>
  BRAID_ALWAYS_INLINE static void store_chosen(typename wide<W>::u32 const& chosen, std::uint8_t* to) noexcept {
    if constexpr (W == 16) {
      store_bytes<W>(chosen, to);
    } else if constexpr (W == 8) {
      *reinterpret_cast<typename wide<W>::u16_memory*>(to) = __builtin_convertvector(chosen, typename wide<W>::u16);
    } else {
      *reinterpret_cast<typename wide<W>::u32_memory*>(to) = chosen;
    }
  }
};

/// Back from the best last state: the bits of the path, and the values of its states.
/// @param plane [ceil(cols * B / 8)] @param value out: [cols]
template <int B>
struct trellis_backward_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* last, std::uint8_t const* decision, index_t cols, std::byte* plane,
                                      float* value) noexcept {
    constexpr unsigned mask = (1u << B) - 1u;
    unsigned state = 0;
    for (unsigned n = 1; n < trellis_states; ++n) { state = last[n] < last[state] ? n : state; }
    unsigned byte = 0;
    for (index_t c = cols; c-- > 0;) {
      index_t const at = c * B;
      value[c] = trellis_floats<B>.of[state];
      byte |= (state & mask) << (at & 7);
      if ((at & 7) == 0) {
        plane[at >> 3] = static_cast<std::byte>(byte);
        byte = 0;
      }
      unsigned const p = state >> B;
      std::uint8_t const* const chosen = decision + c * trellis_decision_bytes;
      unsigned word;
      if constexpr (W == 16) {
        word = chosen[p % W];
      } else if constexpr (W == 8) {
        std::uint16_t half;
        std::memcpy(&half, chosen + 2 * (p % W), sizeof half);
        word = half;
      } else {
        std::memcpy(&word, chosen + 4 * (p % W), sizeof word);
      }
      state = p | (word >> (p / W * B) & mask) << (8 - B);
    }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
