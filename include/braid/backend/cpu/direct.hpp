#pragma once

/// The common case in registers: few experts that share one storage type. Rows go from storage to the Gram matrix, and
/// from storage to the merged row, without a float32 copy in between. The same bits as the general kernels.

#include <braid/backend/cpu/gram.hpp>

#include <cstring>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Most rows that the kernels below take.
inline constexpr int most_direct = 4;

/// Reads a row in groups of columns, W of them in a vector, `parts` vectors from the same bytes. Position p of part h
/// of the group that starts at column c is column c + position(h, p).
template <class T, int W>
struct lane_group {
  static constexpr bool supported = lane_codec<T, W>::vectorised;
  static constexpr int parts = 1;
  using raw = typename wide<W>::f32;
  BRAID_ALWAYS_INLINE static void read(T const* p, raw& out) noexcept { lane_codec<T, W>::load(p, out); }
  template <int Part>
  BRAID_ALWAYS_INLINE static void part(raw const& r, typename wide<W>::f32& out) noexcept {
    out = r;
  }
  BRAID_ALWAYS_INLINE static void write(typename wide<W>::f32 const (&x)[1], T* p) noexcept { lane_codec<T, W>::store(x[0], p); }
  static constexpr int position(int, int p) noexcept { return p; }
};

/// Two bfloat16 side by side are one 32-bit word, whose halves become floats by a shift and a mask: no shuffles.
/// Only where the group isn't longer than the 16 lanes of a sum.
template <int W>
  requires(2 * W <= sum_order::lanes)
struct lane_group<bfloat16, W> {
  static constexpr bool supported = true;
  static constexpr int parts = 2;
  using raw = typename wide<W>::u32;
  using f32 = typename wide<W>::f32;
  BRAID_ALWAYS_INLINE static void read(bfloat16 const* p, raw& out) noexcept {
    out = *reinterpret_cast<typename wide<W>::u32_memory const*>(p);
  }
  template <int Part>
  BRAID_ALWAYS_INLINE static void part(raw const& r, f32& out) noexcept {
    out = Part == 0 ? (f32)(r << 16) : (f32)(r & 0xFFFF0000u);
  }
  BRAID_ALWAYS_INLINE static void write(f32 const (&x)[2], bfloat16* p) noexcept {
    raw even;
    raw odd;
    round(x[0], even);
    round(x[1], odd);
    *reinterpret_cast<typename wide<W>::u32_memory*>(p) = (even >> 16) | (odd & 0xFFFF0000u);
  }
  static constexpr int position(int h, int p) noexcept { return 2 * p + h; }

 private:
  /// Nearest even in the upper half, as in bfloat16's own constructor. NaN needs no care here: what arithmetic makes of
  /// bfloat16 operands is quiet and has nothing in its lower half, so rounding leaves it alone.
  BRAID_ALWAYS_INLINE static void round(f32 const& x, raw& out) noexcept {
    raw const u = (raw)x;
    out = u + 0x7FFFu + ((u >> 16) & 1u);
  }
};

/// Adds one group's products to the accumulators of one part.
template <class T, int W, int N, int Part>
BRAID_ALWAYS_INLINE void direct_products(T const* const* rows, index_t c, typename wide<W>::f32* sum) noexcept {
  using f32 = typename wide<W>::f32;
  using group = lane_group<T, W>;
  typename group::raw r;
  f32 base;
  f32 x[static_cast<std::size_t>(N)];
  group::read(rows[0] + c, r);
  group::template part<Part>(r, base);
  BRAID_UNROLL
  for (int i = 0; i < N; ++i) {
    group::read(rows[i + 1] + c, r);
    group::template part<Part>(r, x[i]);
    x[i] = x[i] - base;
  }
  BRAID_UNROLL
  for (int i = 0; i < N; ++i) {
    BRAID_UNROLL
    for (int j = 0; j <= i; ++j) { sum[triangle(i, j)] = sum[triangle(i, j)] + x[i] * x[j]; }
  }
}

/// The lower triangle of dot products of N deltas over a whole row. `rows[0]` is the base.
template <class T, int N>
struct direct_gram_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(T const* const* rows, index_t cols, float* totals) noexcept {
    constexpr auto pairs = static_cast<std::size_t>(N * (N + 1) / 2);
    constexpr int lanes = sum_order::lanes;
    for (std::size_t k = 0; k < pairs; ++k) { totals[k] = 0.0f; }
    index_t const whole = cols / lanes * lanes;
    // The last columns, filled up with equal bits in base and experts: zero deltas.
    T tail[static_cast<std::size_t>(N + 1)][static_cast<std::size_t>(lanes)];
    T const* tails[static_cast<std::size_t>(N + 1)];
    if (whole != cols) {
      for (int i = 0; i <= N; ++i) {
        for (int c = 0; c < lanes; ++c) { tail[i][c] = whole + c < cols ? rows[i][whole + c] : T(0.0f); }
        tails[i] = tail[i];
      }
    }
    for (index_t first = 0; first < cols; first += sum_order::segment) {
      index_t const last = first + sum_order::segment < whole ? first + sum_order::segment : whole;
      bool const ends_here = whole != cols && first + sum_order::segment > whole;
      float lane[pairs][static_cast<std::size_t>(lanes)];
      constexpr int width = W * lane_group<T, W>::parts;
      for (int at = 0; at < lanes; at += width) {
        pass<W, 0>(rows, tails, first + at, last, ends_here, at, lane);
        if constexpr (lane_group<T, W>::parts == 2) { pass<W, 1>(rows, tails, first + at, last, ends_here, at, lane); }
      }
      for (std::size_t k = 0; k < pairs; ++k) { totals[k] = totals[k] + sum_order::fold(lane[k]); }
    }
  }

 private:
  /// W lanes of a segment.
  template <int W, int Part>
  BRAID_ALWAYS_INLINE static void pass(T const* const* rows, T const* const* tails, index_t c, index_t last, bool ends_here,
                                       int at, float (*lane)[static_cast<std::size_t>(sum_order::lanes)]) noexcept {
    using f32 = typename wide<W>::f32;
    constexpr auto pairs = static_cast<std::size_t>(N * (N + 1) / 2);
    f32 sum[pairs];
    BRAID_UNROLL
    for (std::size_t k = 0; k < pairs; ++k) { sum[k] = f32{}; }
    for (; c < last; c += sum_order::lanes) { direct_products<T, W, N, Part>(rows, c, sum); }
    if (ends_here) { direct_products<T, W, N, Part>(tails, at, sum); }
    BRAID_UNROLL
    for (std::size_t k = 0; k < pairs; ++k) {
      for (int p = 0; p < W; ++p) { lane[k][at + lane_group<T, W>::position(Part, p)] = sum[k][p]; }
    }
  }
};

/// round(base + lambda * consensus of N deltas) over a whole row, nothing pruned.
template <class T, class Consensus, int N>
struct direct_merge_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(Consensus const* consensus, T const* const* rows, index_t cols, float lambda,
                                      T* out) noexcept {
    using group = lane_group<T, W>;
    using f32 = typename wide<W>::f32;
    constexpr index_t width = W * group::parts;
    index_t c = 0;
    for (; c + width <= cols; c += width) {
      typename group::raw raw[static_cast<std::size_t>(N + 1)];
      BRAID_UNROLL
      for (int i = 0; i <= N; ++i) { group::read(rows[i] + c, raw[i]); }
      f32 merged[static_cast<std::size_t>(group::parts)];
      part<W, 0>(consensus, raw, lambda, merged[0]);
      if constexpr (group::parts == 2) { part<W, 1>(consensus, raw, lambda, merged[1]); }
      group::write(merged, out + c);
    }
    for (; c < cols; ++c) {
      float const base = widen_one(rows[0][c]);
      float delta[static_cast<std::size_t>(N)];
      for (int i = 0; i < N; ++i) { delta[i] = widen_one(rows[i + 1][c]) - base; }
      out[c] = T(base + (*consensus)(static_cast<float const*>(delta), N) * lambda);
    }
  }

 private:
  template <int W, int Part>
  BRAID_ALWAYS_INLINE static void part(Consensus const* consensus, typename lane_group<T, W>::raw const* raw, float lambda,
                                       typename wide<W>::f32& out) noexcept {
    using group = lane_group<T, W>;
    using f32 = typename wide<W>::f32;
    f32 base;
    f32 delta[static_cast<std::size_t>(N)];
    group::template part<Part>(raw[0], base);
    BRAID_UNROLL
    for (int i = 0; i < N; ++i) {
      group::template part<Part>(raw[i + 1], delta[i]);
      delta[i] = delta[i] - base;
    }
    consensus->template lanes<N>(static_cast<f32 const*>(delta), out);
    out = base + out * lambda;
  }
};

/// Whether a consensus merges vectors of lanes: `lanes<N>(V const* member, V& out)`.
template <class Consensus>
concept merges_lanes = requires(Consensus const c, wide<4>::f32 const* member, wide<4>::f32& out) {
  c.template lanes<2>(member, out);
};

/// Calls `f(std::integral_constant<int, n>)` for 2 <= n <= most_direct.
template <class F>
void with_row_count(int n, F const& f) {
  if (n == 2) {
    f(std::integral_constant<int, 2>{});
  } else if (n == 3) {
    f(std::integral_constant<int, 3>{});
  } else {
    f(std::integral_constant<int, 4>{});
  }
}

/// Storage types that the direct kernels are compiled for.
constexpr bool has_direct_kernels(dtype t) noexcept { return t == dtype::bf16 || t == dtype::f16 || t == dtype::f32; }

template <class F>
void visit_direct_dtype(dtype t, F const& f) {
  if (t == dtype::bf16) {
    f(static_cast<bfloat16*>(nullptr));
  } else if (t == dtype::f16) {
    f(static_cast<float16*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr));
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
