#pragma once

/// Random pruning by rank in a row, without sorting: what a row keeps, and with which probability, in 16 bits an element.
///
/// Magnitudes fall in bins by the upper 16 bits of their float32, 2048 of them down from the row's largest. Differences of
/// 16-bit numbers mostly end there: all of a bin's elements are equal, and share a rank. The elements with lower bits, which rank
/// above those of their bin that have none, are compared with each other, bin by bin.

#include <braid/backend/cuda/element_inputs.cuh>
#include <braid/backend/cuda/random_words.cuh>

#include <optional>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A plan that decides by twice an element's rank and a random word.
template <class Plan>
concept plan_of_ranks = requires(Plan const plan, float x, std::uint32_t twice) {
  { plan.threshold(twice) } noexcept -> std::same_as<std::uint32_t>;
  { plan.survivor(x, twice) } noexcept -> std::same_as<float>;
  { plan.rescale } -> std::convertible_to<bool>;
  plan.seed;
  plan.stream;
};

/// A plan whose decisions are known: of each element 0, or, if it is kept, the number of 65536 below which its rank is kept,
/// less `offset`: 1 where no rank's number is 1, so that 65536 has room.
template <class Plan>
struct coded_plan {
  std::uint16_t const* codes;  // of the elements from `begin` on
  index_t begin;
  index_t cols;
  std::uint32_t offset;
  bool rescale;

  BRAID_HD float operator()(float x, index_t row, index_t col) const noexcept {
    std::uint32_t const code = codes[row * cols + col - begin];
    float const p = static_cast<float>(static_cast<std::int32_t>(code + offset)) * 0x1p-16f;
    return code == 0 ? 0.0f : rescale ? x / p : x;
  }

  /// The same for a tile whose codes are pairs in words. False where an element asks for the operator above.
  /// A quotient by an integer d < 2^17 is that of x and the reciprocal of d, which one Newton step rounds correctly, corrected by
  /// its exact remainder (Markstein, "IA-64 and Elementary Functions", 2000, theorem 8.1); a power of two commutes with that.
  __device__ bool decode(std::uint32_t const (&pairs)[tile_elements / 2], float (&x)[tile_elements]) const noexcept {
    bool usual = true;
    float const less = 8388608.0f - static_cast<float>(static_cast<std::int32_t>(offset));
    float result[tile_elements];
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) {
      std::uint32_t const code = j % 2 == 0 ? pairs[j / 2] & 0xFFFFu : pairs[j / 2] >> 16;
      float kept = x[j];
      if (rescale) {
        float const d = __uint_as_float(0x4B000000u | code) - less;
        float r = ptx::reciprocal(d);
        r = ptx::fused(ptx::fused(-d, r, 1.0f), r, r);
        float const q = x[j] * r;
        kept = ptx::fused(ptx::fused(-d, q, x[j]), r, q) * 65536.0f;
        constexpr std::uint32_t least = (127u - 70u) << 23;
        constexpr std::uint32_t most = (127u + 100u) << 23;
        usual = usual && (code == 0 || (__float_as_uint(x[j]) & 0x7FFFFFFFu) - least < most - least);
      }
      result[j] = code == 0 ? 0.0f : kept;
    }
    if (usual) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { x[j] = result[j]; }
    }
    return usual;
  }
};

/// The offset of a plan's codes in rows of `cols`; none where its numbers don't fit 16 bits.
template <class Plan>
std::optional<std::uint32_t> code_offset(Plan const& plan, index_t cols) noexcept {
  if (plan.threshold(0) > 1) { return 1u; }
  if (plan.threshold(static_cast<std::uint32_t>(2 * (cols - 1))) < 65536) { return 0u; }
  return std::nullopt;
}

inline constexpr int coded_models = 4;  // of a launch
inline constexpr int code_bins = 2048;
inline constexpr std::uint32_t most_tiny = 256;
inline constexpr std::uint32_t most_uneven = 1024;  // of a bin

template <class Plan>
struct code_arguments {
  device_input base;
  device_input models[coded_models];
  Plan plans[coded_models];
  std::uint32_t offset[coded_models];
  int count;
  random_keys keys;
  index_t rows;
  index_t cols;            // a multiple of random_group
  index_t first;           // channel of the first row
  std::uint16_t* codes[coded_models];  // [rows, cols]
  std::uint32_t* left;     // how many rows the kernel leaves to a sort, and which: row * models + model
};

/// Where a bin's words lie: one is left out after 32, as small multiples of powers of two would meet in one bank.
BRAID_HD constexpr std::uint32_t code_word(std::uint32_t bin) noexcept { return bin + bin / 32; }
inline constexpr int code_words = code_bins / 32 * 33;

/// Bytes of shared memory that a block takes; `Items` elements a thread.
template <int Warps, int Items>
constexpr std::size_t code_memory() noexcept {
  return static_cast<std::size_t>(Warps) * 32 * Items * 4 + code_words * 12 + most_tiny * 6 + 64 * 4;
}

template <class Plan>
__device__ std::uint32_t code_of(Plan const& plan, std::uint32_t offset, std::uint32_t word, std::uint32_t twice) noexcept {
  std::uint32_t const below = plan.threshold(twice);
  return word < below ? below - offset : 0u;
}

/// Codes of one row from its ranks, an element at a time.
template <class Plan>
struct code_writer {
  Plan plan;
  std::uint32_t offset;
  std::uint16_t* codes;  // [rows, cols]
  index_t cols;
  index_t first;
  std::uint32_t const* left;  // as the kernel leaves it
  std::uint32_t count;
  std::uint32_t model;

  __device__ std::uint32_t rows() const noexcept { return *left; }
  /// The row that is number `i` of the list, or -1.
  __device__ index_t row(std::uint32_t i) const noexcept {
    return left[1 + i] % count == model ? static_cast<index_t>(left[1 + i] / count) : index_t{-1};
  }
  __device__ void operator()(index_t row, index_t col, std::uint32_t twice) const noexcept {
    auto const element = static_cast<std::uint64_t>((first + row) * cols + col);
    codes[row * cols + col] = static_cast<std::uint16_t>(code_of(plan, offset, philox_element(plan.seed, plan.stream, element), twice));
  }
};

/// A block takes a row of a model, a warp up to 32 * Items columns of it, one a thread at a time. Zeros are dropped.
template <int Warps, int Items, class Plan>
BRAID_KERNEL void __launch_bounds__(Warps * 32, Warps == 16 ? 2 : 4) code_kernel(__grid_constant__ code_arguments<Plan> const a) {
  static_assert(Items % 4 == 0 && Warps * 32 * Items <= 65534 && code_bins % (Warps * 32) == 0);
  constexpr std::uint32_t threads = Warps * 32;
  BRAID_BLOCK_MEMORY(memory);
  auto* const list = reinterpret_cast<std::uint32_t*>(memory);  // of elements with lower bits, bin by bin: those << 16 | column
  auto* const even = list + threads * Items;                    // [bin]: how many without lower bits, then twice their rank
  auto* const uneven = even + code_words;                       // [bin]: how many with lower bits, then where they are in the list
  auto* const below = uneven + code_words;                      // [bin]: elements below those
  auto* const tiny_key = below + code_words;
  auto* const of_warps = tiny_key + most_tiny;
  auto* const totals = of_warps + 32;  // tiny elements; a bin is too full
  auto* const tiny_col = reinterpret_cast<std::uint16_t*>(totals + 32);

  std::uint32_t const lane = threadIdx.x % 32;
  auto const warp = threadIdx.x / 32;
  auto const model = static_cast<int>(blockIdx.x % static_cast<unsigned>(a.count));
  index_t const row = blockIdx.x / static_cast<unsigned>(a.count);
  Plan const& plan = a.plans[model];
  device_input const& input = a.models[model];
  std::byte const* const from = input.data + row * input.stride;
  std::byte const* const from_base = a.base.data + row * a.base.stride;
  std::uint16_t* const codes = a.codes[model] + row * a.cols;
  auto const cols = static_cast<std::uint32_t>(a.cols);
  auto const magnitude = [&](std::uint32_t col) {
    index_t const c = col;
    float const x = widen_element(from + c * bytes_of(input.type), input.type);
    return __float_as_uint(x - widen_element(from_base + c * bytes_of(a.base.type), a.base.type)) & 0x7FFFFFFFu;
  };
  // Whole groups of random numbers to each warp.
  std::uint32_t const chunk = (cols + Warps * 128 - 1) / (Warps * 128) * 128;
  std::uint32_t const begin = warp * chunk;
  std::uint32_t const end = begin + chunk < cols ? begin + chunk : cols;

  std::uint32_t item[Items];
  std::uint32_t most = 0;
#pragma unroll
  for (int k = 0; k < Items; ++k) {
    std::uint32_t const col = begin + static_cast<std::uint32_t>(k) * 32 + lane;
    item[k] = col < end ? magnitude(col) : 0u;
    most = item[k] > most ? item[k] : most;
  }
  for (std::uint32_t i = threadIdx.x; i < 2 * code_words; i += threads) { even[i] = 0; }
  if (threadIdx.x < 32) { totals[threadIdx.x] = 0; }
  most = __reduce_max_sync(0xFFFFFFFFu, most);
  if (lane == 0) { of_warps[warp] = most; }
  __syncthreads();
  for (int w = 0; w < Warps; ++w) { most = of_warps[w] > most ? of_warps[w] : most; }
  std::uint32_t const bin_of_zero = (most >> 16) + 1u - code_bins;  // may wrap: bins are differences
  auto const bin_of = [bin_of_zero](std::uint32_t key) {
    auto const b = static_cast<std::int32_t>((key >> 16) - bin_of_zero);
    return static_cast<std::uint32_t>(b > 0 ? b : 0);
  };

#pragma unroll
  for (int k = 0; k < Items; ++k) {
    std::uint32_t const key = item[k];
    std::uint32_t const bin = bin_of(key);
    if (key == 0) { continue; }
    if (bin != 0) {
      std::uint32_t* const counts = (key & 0xFFFFu) == 0 ? even : uneven;
      atomicAdd(counts + code_word(bin), 1u);
    } else {
      std::uint32_t const slot = atomicAdd(&totals[0], 1u);
      if (slot < most_tiny) {
        tiny_key[slot] = key;
        tiny_col[slot] = static_cast<std::uint16_t>(begin + static_cast<std::uint32_t>(k) * 32 + lane);
      }
    }
  }
  __syncthreads();

  // Counts become ranks. A thread has some bins in a row.
  constexpr std::uint32_t each = code_bins / threads;
  std::uint32_t sum = 0;  // uneven ones << 16 | all
#pragma unroll
  for (std::uint32_t j = 0; j < each; ++j) {
    std::uint32_t const at = code_word(threadIdx.x * each + j);
    std::uint32_t const odd = uneven[at];
    if (odd > most_uneven) { totals[1] = 1; }
    sum += (odd << 16) + odd + even[at];
  }
  std::uint32_t up_to = sum;
#pragma unroll
  for (unsigned step = 1; step < 32; step *= 2) {
    std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, up_to, step);
    if (lane >= step) { up_to += lower; }
  }
  if (lane == 31) { of_warps[warp] = up_to; }
  __syncthreads();
  std::uint32_t before = up_to - sum;
  std::uint32_t total = 0;
  for (std::uint32_t w = 0; w < Warps; ++w) {
    before += w < warp ? of_warps[w] : 0u;
    total += of_warps[w];
  }
  std::uint32_t const tiny = totals[0];
  if (totals[1] != 0 || tiny > most_tiny) {  // for all threads
    if (threadIdx.x == 0) { a.left[1 + atomicAdd(a.left, 1u)] = blockIdx.x; }
    return;
  }
  before += cols - (total & 0xFFFFu);
#pragma unroll
  for (std::uint32_t j = 0; j < each; ++j) {
    std::uint32_t const at = code_word(threadIdx.x * each + j);
    std::uint32_t const odd = uneven[at];
    std::uint32_t const equals = even[at];
    even[at] = 2 * (before & 0xFFFFu) + equals - 1u;
    before += equals;
    below[at] = before & 0xFFFFu;
    uneven[at] = before >> 16;
    before += (odd << 16) + odd;
  }
  __syncthreads();

  // Sixteen blocks of random numbers serve 128 columns: half a warp's.
  auto const number = static_cast<std::uint64_t>((a.first + row) * a.cols + begin) >> 7 << 4;
  std::uint32_t const shift = lane < 16 ? 0u : 16u;
#pragma unroll
  for (int k = 0; k < Items; k += 8) {
    if (begin + static_cast<std::uint32_t>(k) * 32 >= end) { break; }
    philox_block const block = a.keys.block(number + static_cast<std::uint64_t>(k) * 4 + lane, plan.stream);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (k + j >= Items) { break; }
      std::uint32_t const col = begin + static_cast<std::uint32_t>(k + j) * 32 + lane;
      std::uint32_t const word = __shfl_sync(0xFFFFFFFFu, block.word[j % 4], static_cast<int>(lane % 16) + j / 4 * 16) >> shift & 0xFFFFu;
      std::uint32_t const key = item[k + j];
      std::uint32_t const bin = bin_of(key);
      if (col >= end || (key & 0xFFFFu) != 0 || (key != 0 && bin == 0)) { continue; }
      codes[col] = static_cast<std::uint16_t>(key != 0 ? code_of(plan, a.offset[model], word, even[code_word(bin)]) : 0u);
    }
  }

  std::uint32_t const others = total >> 16;
  if (others == 0 && tiny == 0) { return; }
  code_writer<Plan> const write{plan, a.offset[model], a.codes[model], a.cols, a.first, nullptr, 0, 0};
#pragma unroll
  for (int k = 0; k < Items; ++k) {
    std::uint32_t const bin = bin_of(item[k]);
    if ((item[k] & 0xFFFFu) == 0 || bin == 0) { continue; }
    std::uint32_t const col = begin + static_cast<std::uint32_t>(k) * 32 + lane;
    list[atomicAdd(&uneven[code_word(bin)], 1u)] = item[k] << 16 | col;
  }
  __syncthreads();
  // Now a bin's elements end where the next one's begin.
  for (std::uint32_t i = threadIdx.x; i < others; i += threads) {
    std::uint32_t const mine = list[i] >> 16;
    std::uint32_t const col = list[i] & 0xFFFFu;
    std::uint32_t const bin = bin_of(magnitude(col));
    std::uint32_t const last = uneven[code_word(bin)];
    std::uint32_t twice = 2 * below[code_word(bin)] - 1u;
    for (std::uint32_t k = uneven[code_word(bin - 1)]; k < last; ++k) {
      std::uint32_t const other = list[k] >> 16;
      twice += (other < mine ? 1u : 0u) + (other <= mine ? 1u : 0u);
    }
    write(row, col, twice);
  }
  std::uint32_t const zeros = cols - (total & 0xFFFFu) - tiny;
  for (std::uint32_t i = threadIdx.x; i < tiny; i += threads) {
    std::uint32_t twice = 2 * zeros - 1u;
    for (std::uint32_t k = 0; k < tiny; ++k) { twice += (tiny_key[k] < tiny_key[i] ? 1u : 0u) + (tiny_key[k] <= tiny_key[i] ? 1u : 0u); }
    write(row, tiny_col[i], twice);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
