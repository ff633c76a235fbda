#pragma once

/// The dot products of channels that stream through a ring, in the one order of sums (core/sum_order.hpp). In one way a thread has
/// a lane of a segment; in the other, two neighbours, so that a word in shared memory is read once for both: fewer instructions,
/// but a channel's sums come later.

#include <braid/backend/cuda/lane_gram.cuh>
#include <braid/backend/cuda/ring_state.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A unit's rows in its slot.
template <class T, class Arguments>
__device__ row_tile<T> unit_tile(Arguments const& a, std::byte* shared, ring_walk const& at) noexcept {
  int const first = at.unit * ring_plan::unit_segments;
  int const left = a.ring.whole.segments - first;
  return {shared + static_cast<std::uint32_t>(at.slot) * a.ring.unit_bytes, a.ring.unit, a.cols, first,
          left < ring_plan::unit_segments ? left : ring_plan::unit_segments};
}

/// The products of two whole segments. Those of one lie behind those of the other at a multiple of the banks, so half of the threads
/// is one step behind the other; what isn't there adds zeros, which changes no sum.
template <class T, int N>
__device__ void whole_products(row_tile<T> const& tile, int s, int lane, float (&sum)[N * (N + 1) / 2]) {
  using codec = word_codec<T>;
  using raw = typename codec::raw;
  raw const* from[N + 1];
#pragma unroll
  for (int i = 0; i <= N; ++i) { from[i] = reinterpret_cast<raw const*>(tile.segment(i, s)) + (lane - s * sum_order::lanes); }
  auto const add = [&](int k, bool there) {
    int const at = k * sum_order::lanes;
    float const p = codec::widen_one(from[0][at]);
    float x[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float const d = codec::widen_one(from[i + 1][at]) - p;
      x[i] = there ? d : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int j = 0; j <= i; ++j) { sum[tile_pair(i, j)] = sum[tile_pair(i, j)] + x[i] * x[j]; }
    }
  };
  add(0, s == 0);
  constexpr int together = 8;
#pragma unroll 1
  for (int k = 1; k <= segment_steps; k += together) {
#pragma unroll
    for (int i = 0; i < together - 1; ++i) { add(k + i, true); }
    add(k + together - 1, s == 1 || k + together <= segment_steps);
  }
}

/// The dot products of a unit's pairs of N experts, by one warp: thread l of it has lane l mod 16 of
/// segment l / 16.
template <class T, int N>
__device__ void multiply_unit(row_tile<T> const& tile, int thread, float* sums) {
  constexpr int pairs = N * (N + 1) / 2;
  int const s = thread / sum_order::lanes;
  int const lane = thread % sum_order::lanes;
  float sum[pairs];
#pragma unroll
  for (int k = 0; k < pairs; ++k) { sum[k] = 0.0f; }
  int const steps = s < tile.own ? tile.width(s) / sum_order::lanes : 0;
  if (__all_sync(0xFFFFFFFFu, steps == segment_steps)) {
    whole_products<T, N>(tile, s, lane, sum);
  } else {
    int row[N];
#pragma unroll
    for (int i = 0; i < N; ++i) { row[i] = 1 + i; }
#pragma unroll 1
    for (int k = 0; k < steps; ++k) { lane_products<T, N, true, false>(tile, s, lane + k * sum_order::lanes, row, gram_terms{}, sum, 1); }
  }
  float const total = fold_sums<pairs>(sum, lane);
  int const pair = folded_number(lane);
  if (pair < pairs && s < tile.own) { sums[pair * ring_plan::unit_segments + s] = total; }
}

/// A warp takes a unit at a time: the sums are there soon after the last of a channel's units.
template <class T, class Arguments>
__device__ void multiply_units(Arguments const& a, std::byte* shared, int warp, int lane, ring_state& state) {
  ring_walk at(a.ring, warp, a.ring.warps.gram);
  float* const sums = reinterpret_cast<float*>(shared + a.ring.sums_at);
  for (;;) {
    // The use before is over before this one begins, so that there's no doubt which one is full.
    if (at.use > 0 && !wait_unless_stopped(&state.empty[at.slot], at.use - 1, at.channel, state)) { return; }
    if (!wait_unless_stopped(&state.full[at.slot], at.use, at.channel, state)) { return; }
    row_tile<T> const tile = unit_tile<T>(a, shared, at);
    float* const here = sums + static_cast<std::uint32_t>(at.slot) * a.ring.pairs * ring_plan::unit_segments;
    if (a.experts == 3) {
      multiply_unit<T, 3>(tile, lane, here);
    } else {
      multiply_unit<T, 4>(tile, lane, here);
    }
    __syncwarp();
    if (lane == 0) { ptx::arrive(&state.summed[at.channel % ring_state::places]); }
    at.advance(a.ring);
  }
}

/// Two neighbours of a row.
template <class T>
__device__ void load_pair(std::byte const* from, float (&x)[2]) noexcept {
  if constexpr (sizeof(T) == 4) {
    struct alignas(8) two {
      float first;
      float second;
    };
    two const both = *reinterpret_cast<two const*>(from);
    x[0] = both.first;
    x[1] = both.second;
  } else {
    word_codec<T>::widen(*reinterpret_cast<std::uint32_t const*>(from), x);
  }
}

/// Products of pairs (i, j <= i) of N experts, in the order of a segment's steps of 16 columns, for two lanes.
template <class T, int N>
struct pair_sums {
  static constexpr int pairs = N * (N + 1) / 2;
  static constexpr int step_bytes = sum_order::lanes * static_cast<int>(sizeof(T));

  float first[pairs];
  float second[pairs];

  /// @param from   the two lanes' first column of the base
  /// @param steps  that the row has of this segment
  __device__ pair_sums(std::byte const* from, int steps) noexcept {
    // A short loop: what many warps run must fit the instruction caches together.
    constexpr int together = 4;
#pragma unroll
    for (int k = 0; k < pairs; ++k) { first[k] = second[k] = 0.0f; }
    int left = steps;
#pragma unroll 1
    for (; left >= together; left -= together) {
#pragma unroll
      for (int i = 0; i < together; ++i) { add(from + i * step_bytes); }
      from += together * step_bytes;
    }
#pragma unroll 1
    for (; left > 0; --left) {
      add(from);
      from += step_bytes;
    }
  }

  /// The fixed tree over the lanes of eight threads, several sums at once: at each level a thread keeps half of the sums.
  /// @param place   of this thread among the eight
  /// @param totals  the whole sums number `number(place)` and that plus 8
  __device__ void fold(int place, float (&totals)[(pairs + 7) / 8]) const noexcept {
    constexpr int of_4 = (pairs + 1) / 2;
    constexpr int of_2 = (of_4 + 1) / 2;
    float a[of_4];
    float b[of_4];
    fold_level<pairs>(first, place, 4, a);
    fold_level<pairs>(second, place, 4, b);
    float c[of_2];
    float d[of_2];
    fold_level<of_4>(a, place, 2, c);
    fold_level<of_4>(b, place, 2, d);
    float e[(of_2 + 1) / 2];
    float f[(of_2 + 1) / 2];
    fold_level<of_2>(c, place, 1, e);
    fold_level<of_2>(d, place, 1, f);
#pragma unroll
    for (int k = 0; k < (of_2 + 1) / 2; ++k) { totals[k] = e[k] + f[k]; }
  }
  __device__ static int number(int place) noexcept { return (place >> 2 & 1) | (place & 2) | (place & 1) << 2; }

 private:
  __device__ void add(std::byte const* from) noexcept {
    constexpr int model_bytes = ring_plan::unit_segments * sum_order::segment * static_cast<int>(sizeof(T));
    float p[2];
    load_pair<T>(from, p);
    float x[N][2];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      load_pair<T>(from + (i + 1) * model_bytes, x[i]);
      x[i][0] = x[i][0] - p[0];
      x[i][1] = x[i][1] - p[1];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int j = 0; j <= i; ++j) {
        first[tile_pair(i, j)] = first[tile_pair(i, j)] + x[i][0] * x[j][0];
        second[tile_pair(i, j)] = second[tile_pair(i, j)] + x[i][1] * x[j][1];
      }
    }
  }
};

/// The dot products of one segment of each of four units by one warp, eight threads each.
/// @param place of this thread among the eight
/// @param sums  float [pairs, 2] of this thread's unit
template <class T, int N>
__device__ void multiply_segments(std::byte const* unit, int segment, int place, int steps, float* sums) noexcept {
  using all = pair_sums<T, N>;
  all const mine(unit + segment * sum_order::segment * static_cast<int>(sizeof(T)) + place * 2 * static_cast<int>(sizeof(T)), steps);
  float totals[(all::pairs + 7) / 8];
  mine.fold(place, totals);
  if (steps > 0) {
#pragma unroll
    for (int k = 0; k < (all::pairs + 7) / 8; ++k) {
      int const pair = all::number(place) + 8 * k;
      if (pair < all::pairs) { sums[pair * ring_plan::unit_segments + segment] = totals[k]; }
    }
  }
}

/// Two warps take four units at a time, the first segments and the second ones. Units lie so that all threads of a warp meet
/// different banks.
template <class T, class Arguments>
__device__ void multiply_fours(Arguments const& a, std::byte* shared, int warp, int lane, ring_state& state) {
  int const quarter = lane / 8;
  int const place = lane % 8;
  int const segment = warp % ring_plan::unit_segments;
  ring_walk at(a.ring, warp / ring_plan::unit_segments * ring_plan::gram_units + quarter,
               a.ring.warps.gram / ring_plan::unit_segments * ring_plan::gram_units);
  float* const sums = reinterpret_cast<float*>(shared + a.ring.sums_at);
  for (;;) {
    // The use before is over before this one begins, so that there's no doubt which one is full.
    bool there = at.use == 0 || wait_unless_stopped(&state.empty[at.slot], at.use - 1, at.channel, state);
    there = there && wait_unless_stopped(&state.full[at.slot], at.use, at.channel, state);
    if (!__any_sync(0xFFFFFFFFu, there)) { return; }
    int const left = static_cast<int>(a.cols) - (at.unit * ring_plan::unit_segments + segment) * sum_order::segment;
    int const columns = left < sum_order::segment ? left : sum_order::segment;
    int const steps = there && columns > 0 ? columns / sum_order::lanes : 0;
    std::byte const* const unit = shared + static_cast<std::uint32_t>(at.slot) * a.ring.unit_bytes;
    float* const here = sums + static_cast<std::uint32_t>(at.slot) * a.ring.pairs * ring_plan::unit_segments;
    if (a.experts == 3) {
      multiply_segments<T, 3>(unit, segment, place, steps, here);
    } else {
      multiply_segments<T, 4>(unit, segment, place, steps, here);
    }
    __syncwarp();
    if (there && place == 0) { ptx::arrive(&state.summed[at.channel % ring_state::places]); }
    if (!__all_sync(0xFFFFFFFFu, there)) { return; }
    at.advance(a.ring);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
