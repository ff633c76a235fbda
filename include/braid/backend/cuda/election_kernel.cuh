#pragma once

/// TIES at full speed where its numbers allow it: bfloat16 inputs and result, deltas cut by magnitude, and weights of ordinary
/// size. Gives the bytes of consensus::elected_sum: what is kept, and who agrees, are factors of 0 and 1, which change
/// nothing where they multiply exactly, and the few possible sums of weights are divided by with their reciprocals.

#include <braid/backend/cuda/block_inputs.cuh>
#include <braid/consensus/weighted.hpp>

#include <algorithm>
#include <optional>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Ordinary numbers: magnitudes that survive, weights, and sums of weights. Products and quotients of these stay far from both
/// ends of float32, where the remainders of a division would be rounded.
inline constexpr float least_ordinary_delta = 0x1p-60f;
inline constexpr float least_ordinary_sum = 0x1p-80f;
inline constexpr float most_ordinary_delta = 0x1p+65f;
inline constexpr float least_ordinary_weight = 0x1p-20f;
inline constexpr float most_ordinary_weight = 0x1p+20f;

/// x / divisor, correctly rounded, of ordinary numbers and zero. A correctly rounded reciprocal and one correction leave less than
/// a unit in the last place; then the second correction rounds correctly (Markstein, IBM Journal of R&D 34, 1990).
/// @param reciprocal  1 / divisor
__device__ inline float divide_by_known(float x, float divisor, float reciprocal) noexcept {
  float quotient = x * reciprocal;
  quotient = ptx::fused(ptx::fused(-quotient, divisor, x), reciprocal, quotient);
  return ptx::fused(ptx::fused(-quotient, divisor, x), reciprocal, quotient);
}

/// A sum of weights and its reciprocal.
struct known_divisor {
  float sum;
  float reciprocal;
};

/// What the kernel is told, by value. All elements are one row, of whole tiles.
template <int Most>
struct election_arguments {
  element_inputs<Most> in;
  std::uint32_t tiles;
  std::byte* out;
  magnitude_cut cut[Most];      // of elements of the tensor
  std::uint32_t bits[Most];     // magnitudes that survive, up to tile number `before`
  std::uint32_t before[Most];
  std::uint32_t straddled[Most];  // the tile whose equals of the cut survive in part; or none
  float weight[Most];
  float lambda;
  bool normalize;
  bool tiny;                      // whether deltas below the ordinary survive
  known_divisor divisor[1 << Most];  // of each set of models that agree; 1 where nothing is divided
};

/// What the kernel is told of a block whose numbers are ordinary, or nothing.
/// @param cuts    of the tensor, one a model
/// @param weight  one a model
template <int Most>
std::optional<election_arguments<Most>> ordinary_election(channel_block const& block, index_t cols, std::byte* out,
                                                          std::vector<magnitude_cut> const& cuts, std::vector<float> const& weight,
                                                          float lambda, bool normalize) {
  std::size_t const n = block.experts.size();
  if (n < 2 || n > static_cast<std::size_t>(Most) || cuts.size() != n) { return {}; }
  election_arguments<Most> a{};
  a.in = inputs_of<Most>(block, cols, {operand::deltas, true}, out);
  bool ordinary = a.in.has_base && a.in.whole && a.in.rows == 1 && cols % tile_elements == 0 && a.in.cols / tile_elements < index_t{1} << 31 &&
                  block.out == dtype::bf16 && block.base.type == dtype::bf16;
  for (std::size_t i = 0; i < n; ++i) {
    ordinary = ordinary && block.experts[i].type == dtype::bf16 && weight[i] >= least_ordinary_weight && weight[i] <= most_ordinary_weight &&
               cuts[i].bits < bits_as<std::uint32_t>(most_ordinary_delta);
    a.tiny = a.tiny || cuts[i].bits < bits_as<std::uint32_t>(least_ordinary_delta);
  }
  if (!ordinary) { return {}; }
  a.tiles = static_cast<std::uint32_t>(a.in.cols / tile_elements);
  a.out = out;
  a.lambda = lambda;
  a.normalize = normalize;
  for (std::size_t i = 0; i < n; ++i) {
    // Elements of the block that equal the cut and survive come before this one.
    index_t const end = std::clamp<index_t>(cuts[i].last + 1 - a.in.first_col, 0, a.in.cols);
    a.cut[i] = cuts[i];
    a.bits[i] = cuts[i].bits;
    a.before[i] = static_cast<std::uint32_t>(end / tile_elements);
    a.straddled[i] = end % tile_elements != 0 ? a.before[i] : 0xFFFFFFFFu;
    a.weight[i] = weight[i];
  }
  for (unsigned set = 0; set < 1u << n; ++set) {
    float sum = 0.0f;
    for (std::size_t i = 0; i < n; ++i) { sum = sum + ((set >> i & 1u) != 0 ? weight[i] : 0.0f); }
    if (!normalize || set == 0) { sum = 1.0f; }
    a.divisor[set] = {sum, 1.0f / sum};
  }
  return a;
}

/// A tile element by element, as the CPU does it; notes NaN and infinity.
template <int N, consensus::ballot Ballot, int Most>
__device__ __noinline__ void elect_singly(election_arguments<Most> const& a, std::uint32_t tile) {
  index_t const first = static_cast<index_t>(tile) * tile_elements;
  float zero = 0.0f;
  for (int j = 0; j < tile_elements; ++j) {
    index_t const col = first + j;
    float const base = widen_element(a.in.base.data + 2 * col, dtype::bf16);
    float x[N];
    zero = ptx::fused(base, 0.0f, zero);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float const delta = widen_element(a.in.models[i].data + 2 * col, dtype::bf16) - base;
      zero = ptx::fused(delta, 0.0f, zero);
      x[i] = a.cut[i].keeps(delta, col + a.in.first_col) ? delta : 0.0f;
    }
    consensus::elected_sum<Ballot> const elect{};
    float const joined = elect(static_cast<float const*>(x), static_cast<float const*>(a.weight), N, a.normalize);
    narrow_element(base + joined * a.lambda, a.out + 2 * col, dtype::bf16);
  }
  if (zero != zero) { atomicMin(a.in.first_bad, static_cast<unsigned long long>(a.in.first + first / a.in.channel_cols)); }
}

template <int N>
struct election_table {
  known_divisor of[1 << N];
};

/// Tiny: deltas of any size survive, down to zero; a tile whose sums aren't ordinary is taken element by element.
/// Steps: tiles of a thread.
template <int N, consensus::ballot Ballot, bool Tiny, int Steps, int Most>
BRAID_KERNEL void __launch_bounds__(256) election_kernel(__grid_constant__ election_arguments<Most> const a) {
  BRAID_BLOCK_OBJECT(election_table<N>, table);
  if (threadIdx.x < 1u << N) { table.of[threadIdx.x] = a.divisor[threadIdx.x]; }
  __syncthreads();
  constexpr int words = tile_elements / 2;
  // The last tiles first: the pass that counted has left them in the L2 cache.
  std::uint32_t const block = gridDim.x - 1 - blockIdx.x;
#pragma unroll 1
  for (int step = 0; step < Steps; ++step) {
    std::uint32_t const tile = (block * Steps + static_cast<unsigned>(step)) * blockDim.x + threadIdx.x;
    if (tile >= a.tiles) { return; }
    index_t const at = static_cast<index_t>(tile) * (2 * tile_elements);
    std::uint32_t base[words];
    std::uint32_t model[N][words];
#pragma unroll
    for (int i = 0; i < N; ++i) { ptx::load_once(a.in.models[i].data + at, model[i]); }
    ptx::load_once(a.in.base.data + at, base);
    // Large numbers, infinities and NaN leave it infinite or NaN, each half.
    std::uint32_t size = 0;
    float least[N];
    bool straddled = false;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      least[i] = __uint_as_float(a.bits[i] + (tile >= a.before[i] ? 1u : 0u));
      straddled = straddled || tile == a.straddled[i];
#pragma unroll
      for (int k = 0; k < words; ++k) { size = ptx::add_scaled_bf16_pair(model[i][k], size); }
    }
#pragma unroll
    for (int k = 0; k < words; ++k) { size = ptx::add_scaled_bf16_pair(base[k], size); }
    constexpr std::uint32_t infinite = 0x7F80u;
    if (straddled || (size & infinite) == infinite || (size >> 16 & infinite) == infinite) {
      elect_singly<N, Ballot>(a, tile);
      continue;
    }
    std::uint32_t out[words];
    bool odd = false;
#pragma unroll
    for (int k = 0; k < words; ++k) {
      float result[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        auto const widen = [h](std::uint32_t word) { return __uint_as_float(h == 0 ? word << 16 : word & 0xFFFF0000u); };
        float const p = widen(base[k]);
        float voice[N];
        float term[N];
        float vote = 0.0f;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          float const delta = widen(model[i][k]) - p;
          float const kept = delta * ptx::one_if_reaches(delta, least[i]);  // a zero with a sign, at worst
          term[i] = kept * a.weight[i];
          voice[i] = Ballot == consensus::ballot::weighted ? term[i] : kept;
          vote = i == 0 ? voice[i] : vote + voice[i];
        }
        // Voices are zero or ordinary: 2^110 makes them more than 1, and twice that any.
        float const side = __uint_as_float((__float_as_uint(vote) & 0x80000000u) | 0x76800000u);
        float total = 0.0f;
        float which = 0x1p23f;  // who agrees, in its lowest bits: the place of their divisor
#pragma unroll
        for (int i = 0; i < N; ++i) {
          float const agrees = Tiny ? ptx::saturated_product(voice[i] * side, 0x1p110f) : ptx::saturated_product(voice[i], side);
          total = ptx::fused(term[i], agrees, total);
          which = ptx::fused(agrees, static_cast<float>(static_cast<int>(sizeof(known_divisor)) << i), which);
        }
        if constexpr (Tiny) { odd = odd || (total != 0.0f && total < least_ordinary_sum && total > -least_ordinary_sum); }
        constexpr std::uint32_t places = ((1u << N) - 1u) * static_cast<std::uint32_t>(sizeof(known_divisor));
        auto const* const begin = reinterpret_cast<std::byte const*>(table.of);
        known_divisor const d = *reinterpret_cast<known_divisor const*>(begin + (__float_as_uint(which) & places));
        result[h] = p + divide_by_known(total, d.sum, d.reciprocal) * a.lambda;
      }
      out[k] = ptx::to_bf16_pair(result[0], result[1]);
    }
    if (Tiny && odd) {
      elect_singly<N, Ballot>(a, tile);
      continue;
    }
    ptx::store_once(a.out + at, out);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
