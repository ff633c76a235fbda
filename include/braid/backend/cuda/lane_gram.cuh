#pragma once

/// The Gram matrix of a channel's deltas in the one order of sums (core/sum_order.hpp): a thread is one lane of one
/// segment, so that the order costs nothing.

#include <braid/backend/cuda/row_tile.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What happens to a delta before it is multiplied.
struct gram_terms {
  bool signs = false;
  float const* root_weight = nullptr;  // [cols], or null
};

/// Adds the lane's products to `sum`: pairs (i, j <= i) of N experts, or, with `Block`, of experts i0 + i and j0 + j.
/// @param steps groups of 16 columns; those behind a row's end may be left out, since zeros change no sum
template <class T, int N, bool Plain, bool Block>
__device__ void lane_products(row_tile<T> const& tile, int s, int lane, int const (&row)[Block ? 2 * N : N], gram_terms const& terms,
                              float (&sum)[Block ? N * N : N * (N + 1) / 2], int steps) {
  using codec = word_codec<T>;
  using raw = typename codec::raw;
  constexpr int rows = Block ? 2 * N : N;
  auto const* const base = reinterpret_cast<raw const*>(tile.segment(0, s)) + lane;
  raw const* from[rows];
#pragma unroll
  for (int i = 0; i < rows; ++i) { from[i] = reinterpret_cast<raw const*>(tile.segment(row[i], s)) + lane; }
#pragma unroll 16
  for (int k = 0; k < steps; ++k) {
    int const at = k * sum_order::lanes;
    float const p = codec::widen_one(base[at]);
    float x[rows];
#pragma unroll
    for (int i = 0; i < rows; ++i) { x[i] = codec::widen_one(from[i][at]) - p; }
    if constexpr (!Plain) {
      index_t const c = tile.column(s) + at + lane;
      float const root = terms.root_weight == nullptr || c >= tile.cols ? 1.0f : terms.root_weight[c];
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        if (terms.signs) { x[i] = sign_of(x[i]); }
        if (terms.root_weight != nullptr) { x[i] = root * x[i]; }
      }
    }
    if constexpr (Block) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) { sum[i * N + j] = sum[i * N + j] + x[i] * x[N + j]; }
      }
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
#pragma unroll
        for (int j = 0; j <= i; ++j) { sum[tile_pair(i, j)] = sum[tile_pair(i, j)] + x[i] * x[j]; }
      }
    }
  }
}

/// One level: of `Count` sums half are left.
template <int Count>
__device__ void fold_level(float const (&sum)[Count], int lane, int width, float (&left)[(Count + 1) / 2]) noexcept {
  bool const upper = (lane & width) != 0;
#pragma unroll
  for (int k = 0; k < (Count + 1) / 2; ++k) {
    float const even = sum[2 * k];
    float const odd = 2 * k + 1 < Count ? sum[2 * k + 1 < Count ? 2 * k + 1 : 0] : 0.0f;
    float const kept = upper ? odd : even;
    float const sent = upper ? even : odd;
    left[k] = kept + __shfl_xor_sync(0xFFFFFFFFu, sent, width);
  }
}

/// Which of up to 16 sums a lane has after `fold_sums`.
__device__ inline int folded_number(int lane) noexcept {
  return static_cast<int>(__brev(static_cast<unsigned>(lane)) >> 28);
}

/// The fixed tree over the 16 lanes of half a warp, l with l + 8 first, of up to 16 sums at once: at each level a lane keeps
/// half of the sums and sends the other half. @return the whole sum whose number is `folded_number(lane)`
template <int Count>
__device__ float fold_sums(float const (&sum)[Count], int lane) noexcept {
  static_assert(Count <= sum_order::lanes);
  constexpr int second = (Count + 1) / 2;
  constexpr int third = (second + 1) / 2;
  constexpr int fourth = (third + 1) / 2;
  float of_8[second];
  float of_4[third];
  float of_2[fourth];
  float of_1[1];
  fold_level<Count>(sum, lane, 8, of_8);
  fold_level<second>(of_8, lane, 4, of_4);
  fold_level<third>(of_4, lane, 2, of_2);
  fold_level<fourth>(of_2, lane, 1, of_1);
  return of_1[0];
}

/// Where the dot products of segments go: [pairs, segments], in every block of the cluster.
struct segment_sums {
  float* at;
  int segments;

  __device__ void put(int pair, int segment, float x) const noexcept { at[pair * segments + segment] = x; }

  /// Gives the sums of segments first .. first + own to the other blocks. Behind a barrier of the block, before one of the
  /// cluster.
  __device__ void share(int pairs, int first, int own, int cluster, std::uint32_t rank) const noexcept {
    for (int i = static_cast<int>(threadIdx.x); i < pairs * own; i += static_cast<int>(blockDim.x)) {
      int const pair = i / own;
      float* const here = at + pair * segments + first + (i - pair * own);
      float const x = *here;
      for (int r = 1; r < cluster; ++r) { ptx::store_in_cluster(here, (rank + static_cast<std::uint32_t>(r)) % static_cast<std::uint32_t>(cluster), x); }
    }
  }
};

inline constexpr int segment_steps = sum_order::segment / sum_order::lanes;

/// All pairs of N <= 4 experts, two segments a warp.
/// @param thread number among those at work on the tile
template <class T, int N>
__device__ void few_products(row_tile<T> const& tile, gram_terms const& terms, segment_sums const& sums, int thread) {
  int const s = thread / sum_order::lanes;
  int const lane = thread % sum_order::lanes;
  constexpr int pairs = N * (N + 1) / 2;
  float sum[pairs];
#pragma unroll
  for (int k = 0; k < pairs; ++k) { sum[k] = 0.0f; }
  int row[N];
#pragma unroll
  for (int i = 0; i < N; ++i) { row[i] = 1 + i; }
  if (s < tile.own) {
    if (terms.signs || terms.root_weight != nullptr) {
      lane_products<T, N, false, false>(tile, s, lane, row, terms, sum, segment_steps);
    } else {
      lane_products<T, N, true, false>(tile, s, lane, row, terms, sum, segment_steps);
    }
  }
  float const total = fold_sums<pairs>(sum, lane);
  int const pair = folded_number(lane);
  if (pair < pairs && s < tile.own) { sums.put(pair, tile.first_segment + s, total); }
}

/// All pairs of more experts: blocks of 4 x 4 pairs.
template <class T>
__device__ void many_products(row_tile<T> const& tile, int experts, gram_terms const& terms, segment_sums const& sums) {
  int const s = static_cast<int>(threadIdx.x) / sum_order::lanes;
  int const lane = static_cast<int>(threadIdx.x) % sum_order::lanes;
  for (int i0 = 0; i0 < experts; i0 += 4) {
    for (int j0 = 0; j0 <= i0; j0 += 4) {
      float sum[16];
      int row[8];
#pragma unroll
      for (int k = 0; k < 16; ++k) { sum[k] = 0.0f; }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        row[i] = 1 + (i0 + i < experts ? i0 + i : experts - 1);
        row[4 + i] = 1 + (j0 + i < experts ? j0 + i : experts - 1);
      }
      if (s < tile.own) { lane_products<T, 4, false, true>(tile, s, lane, row, terms, sum, segment_steps); }
      float const total = fold_sums<16>(sum, lane);
      int const i = i0 + folded_number(lane) / 4;
      int const j = j0 + folded_number(lane) % 4;
      if (s < tile.own && i < experts && j <= i) { sums.put(tile_pair(i, j), tile.first_segment + s, total); }
    }
  }
}

/// @tparam Most experts that there may be: what isn't needed takes no registers
template <class T, int Most>
__device__ void tile_gram(row_tile<T> const& tile, int experts, gram_terms const& terms, segment_sums const& sums) {
  int const thread = static_cast<int>(threadIdx.x);
  if constexpr (Most > 4) {
    many_products<T>(tile, experts, terms, sums);
  } else if (experts == 2) {
    few_products<T, 2>(tile, terms, sums, thread);
  } else if (experts == 3) {
    few_products<T, 3>(tile, terms, sums, thread);
  } else {
    few_products<T, 4>(tile, terms, sums, thread);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
