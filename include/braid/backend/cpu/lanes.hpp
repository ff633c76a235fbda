#pragma once

/// Rows of float32 in vectors of W lanes: maps, and several sums in one pass. A row's last columns are filled up with
/// zeros to a whole group of 16, so that every kernel is vectors only, whatever its instruction set.

#include <braid/backend/cpu/convert.hpp>
#include <braid/core/sum_order.hpp>

#include <cstddef>
#include <type_traits>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

template <int W>
BRAID_ALWAYS_INLINE void load_lanes(float const* p, typename wide<W>::f32& out) noexcept {
  out = *reinterpret_cast<typename wide<W>::f32_memory const*>(p);
}

template <int W>
BRAID_ALWAYS_INLINE void store_lanes(typename wide<W>::f32 const& x, float* p) noexcept {
  *reinterpret_cast<typename wide<W>::f32_memory*>(p) = x;
}

/// x in all lanes. A parameter, since nvcc's front end crashes where it could fold a constant.
template <int W>
BRAID_ALWAYS_INLINE void fill_lanes(float x, typename wide<W>::f32& out) noexcept {
  out = typename wide<W>::f32{} + x;
}

/// W numbers below 256 as bytes.
template <int W>
BRAID_ALWAYS_INLINE void store_bytes(typename wide<W>::u32 const& x, std::uint8_t* p) noexcept {
  typedef std::uint8_t u8 __attribute__((vector_size(W)));
  typedef std::uint8_t u8_memory __attribute__((vector_size(W), aligned(1), may_alias));
  *reinterpret_cast<u8_memory*>(p) = __builtin_convertvector(x, u8);
}

template <int W>
BRAID_ALWAYS_INLINE void magnitude(typename wide<W>::f32 const& x, typename wide<W>::f32& out) noexcept {
  out = (typename wide<W>::f32)((typename wide<W>::u32)x & 0x7FFFFFFFu);
}

/// x where the mask says so, else 0.
template <int W>
BRAID_ALWAYS_INLINE void keep_where(typename wide<W>::u32 const& mask, typename wide<W>::f32 const& x,
                                    typename wide<W>::f32& out) noexcept {
  out = (typename wide<W>::f32)(mask & (typename wide<W>::u32)x);
}

/// a where the mask says so, else b.
template <int W>
BRAID_ALWAYS_INLINE void choose(typename wide<W>::u32 const& mask, typename wide<W>::f32 const& a,
                                typename wide<W>::f32 const& b, typename wide<W>::f32& out) noexcept {
  using u32 = typename wide<W>::u32;
  out = (typename wide<W>::f32)((mask & (u32)a) | (~mask & (u32)b));
}

/// x, but 0 for NaN and infinity.
template <int W>
BRAID_ALWAYS_INLINE void keep_finite(typename wide<W>::f32 const& x, typename wide<W>::f32& out) noexcept {
  using u32 = typename wide<W>::u32;
  keep_where<W>((u32)(((u32)x & 0x7F800000u) != 0x7F800000u), x, out);
}

/// The last columns of some rows, from `whole` on, filled up with zeros.
template <std::size_t Rows>
struct row_tails {
  alignas(64) float value[Rows][static_cast<std::size_t>(sum_order::lanes)];

  BRAID_ALWAYS_INLINE row_tails(float const* const* rows, index_t whole, index_t cols) noexcept {
    for (std::size_t r = 0; r < Rows; ++r) {
      for (int l = 0; l < sum_order::lanes; ++l) { value[r][l] = whole + l < cols ? rows[r][whole + l] : 0.0f; }
    }
  }
};

/// Calls `f(x, y)` for all columns, W at a time: x [Inputs] are vectors of the input rows, y [Outputs] become those of
/// the output rows. An output may be an input.
template <int W, std::size_t Inputs, std::size_t Outputs, class F>
BRAID_ALWAYS_INLINE void map_columns(float const* const (&in)[Inputs], float* const (&out)[Outputs], index_t cols,
                                     F const& f) noexcept {
  using f32 = typename wide<W>::f32;
  f32 x[Inputs];
  f32 y[Outputs];
  index_t const whole = cols / sum_order::lanes * sum_order::lanes;
  for (index_t c = 0; c < whole; c += W) {
    BRAID_UNROLL
    for (std::size_t i = 0; i < Inputs; ++i) { load_lanes<W>(in[i] + c, x[i]); }
    f(static_cast<f32 const*>(x), static_cast<f32*>(y));
    BRAID_UNROLL
    for (std::size_t o = 0; o < Outputs; ++o) { store_lanes<W>(y[o], out[o] + c); }
  }
  if (whole == cols) { return; }
  row_tails<Inputs> const tail(in, whole, cols);
  for (int l = 0; whole + l < cols; l += W) {
    BRAID_UNROLL
    for (std::size_t i = 0; i < Inputs; ++i) { load_lanes<W>(tail.value[i] + l, x[i]); }
    f(static_cast<f32 const*>(x), static_cast<f32*>(y));
    float last[static_cast<std::size_t>(W)];
    for (std::size_t o = 0; o < Outputs; ++o) {
      store_lanes<W>(y[o], last);
      for (int i = 0; i < W && whole + l + i < cols; ++i) { out[o][whole + l + i] = last[i]; }
    }
  }
}

/// Several sums over the columns of some rows, each in the one order of sums. `term(x, y)` makes of vectors of the rows,
/// x [Rows], the terms of the sums, y [Sums]; those of zeros must be zero. A weight a column, `weight` [cols] or null for
/// all one, multiplies each term and is rounded.
template <int W, int Sums, std::size_t Rows, class Term>
BRAID_ALWAYS_INLINE void sum_columns(float const* const (&rows)[Rows], float const* weight, index_t cols, Term const& term,
                                     float* total) noexcept {
  using f32 = typename wide<W>::f32;
  constexpr int lanes = sum_order::lanes;
  float const* all[Rows + 1];
  for (std::size_t r = 0; r < Rows; ++r) { all[r] = rows[r]; }
  bool const weighted = weight != nullptr;
  all[Rows] = weighted ? weight : rows[0];
  index_t const whole = cols / lanes * lanes;
  row_tails<Rows + 1> const tail(all, whole, cols);
  for (int s = 0; s < Sums; ++s) { total[s] = 0.0f; }

  auto const add = [&](auto by_weight, float const* const* from, index_t c, f32* sum) {
    f32 x[Rows];
    f32 y[static_cast<std::size_t>(Sums)];
    BRAID_UNROLL
    for (std::size_t r = 0; r < Rows; ++r) { load_lanes<W>(from[r] + c, x[r]); }
    term(static_cast<f32 const*>(x), static_cast<f32*>(y));
    if constexpr (by_weight) {
      f32 h;
      load_lanes<W>(from[Rows] + c, h);
      BRAID_UNROLL
      for (int s = 0; s < Sums; ++s) { y[s] = h * y[s]; }
    }
    BRAID_UNROLL
    for (int s = 0; s < Sums; ++s) { sum[s] = sum[s] + y[s]; }
  };
  auto const segments = [&](auto by_weight) {
    for (index_t first = 0; first < cols; first += sum_order::segment) {
      index_t const last = first + sum_order::segment < whole ? first + sum_order::segment : whole;
      alignas(64) float lane[static_cast<std::size_t>(Sums)][static_cast<std::size_t>(lanes)];
      for (int at = 0; at < lanes; at += W) {
        f32 sum[static_cast<std::size_t>(Sums)];
        BRAID_UNROLL
        for (int s = 0; s < Sums; ++s) { sum[s] = f32{}; }
        for (index_t c = first + at; c < last; c += lanes) { add(by_weight, all, c, sum); }
        if (whole != cols && first + sum_order::segment > whole) {
          float const* ends[Rows + 1];
          for (std::size_t r = 0; r <= Rows; ++r) { ends[r] = tail.value[r]; }
          add(by_weight, ends, at, sum);
        }
        BRAID_UNROLL
        for (int s = 0; s < Sums; ++s) { store_lanes<W>(sum[s], lane[s] + at); }
      }
      for (int s = 0; s < Sums; ++s) { total[s] = total[s] + sum_order::fold(lane[s]); }
    }
  };
  if (weighted) {
    segments(std::true_type{});
  } else {
    segments(std::false_type{});
  }
}

/// to = x / by.
struct divide_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float by, index_t cols, float* to) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const in[] = {x};
    float* const out[] = {to};
    map_columns<W>(in, out, cols, [by](f32 const* v, f32* y) { y[0] = v[0] / by; });
  }
};

/// `Chunk` numbers of a row from `from` on: where `count` are left, a copy in `last` that zeros fill up.
template <int Chunk>
BRAID_ALWAYS_INLINE float const* whole_chunk(float const* from, index_t count, float (&last)[static_cast<std::size_t>(Chunk)]) noexcept {
  if (count >= Chunk) { return from; }
  for (index_t i = 0; i < Chunk; ++i) { last[i] = i < count ? from[i] : 0.0f; }
  return last;
}

/// Finite numbers between -most and most; NaN and infinity as they are.
template <int W>
BRAID_ALWAYS_INLINE void clamp_finite(typename wide<W>::f32 const& x, float most, typename wide<W>::f32& out) noexcept {
  using f32 = typename wide<W>::f32;
  using u32 = typename wide<W>::u32;
  f32 limit;
  f32 top;
  f32 size;
  fill_lanes<W>(most, limit);
  fill_lanes<W>(0x1.FFFFFEp127f, top);
  magnitude<W>(x, size);
  f32 const signed_limit = (f32)((u32)limit | ((u32)x & 0x80000000u));
  choose<W>((u32)(size > limit) & (u32)(size <= top), signed_limit, x, out);
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
