#pragma once

/// What the kernel that prunes by rank is told, and where things lie in a block's shared memory.

#include <braid/backend/cuda/element_inputs.cuh>
#include <braid/backend/cuda/packed_halves.cuh>
#include <braid/backend/cuda/random_words.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr std::uint32_t rank_bins = 1280;                  // of 128 an octave
/// A word is left out after 32: small multiples of powers of two are many, and would meet in one bank of shared memory.
inline constexpr std::uint32_t bin_words = rank_bins / 32 * 33;
inline constexpr std::uint32_t most_listed = 376;                 // a model, of a row
inline constexpr std::uint32_t most_noted = 3072;                 // of a row: tiles with such elements; bins that aren't empty

/// What becomes of pruned rows: they are merged by a join_function,
template <class F>
struct ranked_join {
  static constexpr bool merges = true;
  std::byte* to;  // [rows, cols] of bfloat16, packed
  F f;            // of whose pruning nothing is asked
};
/// or what pruning decides of them is written, as a `coded_plan` reads it.
template <int N>
struct ranked_codes {
  static constexpr bool merges = false;
  std::uint16_t* to[N];  // [rows, cols]
  std::uint32_t offset[N];
};

template <int N, class Plan, class Out>
struct ranked_arguments {
  device_input base;
  device_input models[N];
  Plan plans[N];
  random_keys keys;
  index_t rows;
  index_t cols;           // a multiple of random_group
  index_t first;          // channel of the first row
  unsigned long long* first_bad;  // null, or the lowest channel with NaN or infinity
  std::uint32_t* left;    // how many rows the kernel leaves, and which; for codes each model's: row * N + model
  Out out;
};

/// What a block counts of a row, for each model; of two rows in turn.
struct row_counters {
  std::uint32_t most[4];    // upper half of the largest magnitude
  std::uint32_t span[4];    // 65535 less the least one that isn't zero, less one
  std::uint32_t tiles;      // with elements that are listed
  std::uint32_t further;    // such elements of a tile beside its first
  std::uint32_t bins;       // that have elements which aren't listed
  std::uint32_t unused;
};

/// Where things lie in a block's shared memory.
template <int N>
struct ranked_room {
  static constexpr std::uint32_t list_words = N * most_listed;
  static constexpr std::uint32_t table_words = N * bin_words + list_words;
  std::uint32_t* tables;     // [2, table_words]: what a random word may be at most; what is kept becomes. First models' bins, then the list
  row_counters* counters;    // two
  std::uint32_t* of_warps;
  std::uint16_t* notes;      // [most_noted]: tile and model, or a bin's word
  random_room* random;       // of warps
  std::uint32_t* listed;     // [2, list_words], in the same place: magnitudes; the next of the bin, plus one, and above it the model
  std::uint32_t stride;      // tiles of a row
  std::byte* rows;           // [base and models, stride] tiles of 16 bytes; models' become offsets in their tables

  BRAID_HD static constexpr std::uint32_t stride_of(std::uint32_t cols) noexcept { return (cols / tile_elements + 31u) / 32u * 32u; }
  BRAID_HD static constexpr std::size_t shared_bytes(unsigned threads) noexcept {
    std::size_t const words = threads / 32 * sizeof(random_room);
    std::size_t const lists = list_words * std::size_t{8};
    return words > lists ? words : lists;
  }
  static constexpr std::size_t bytes(index_t cols, unsigned threads) noexcept {
    return table_words * std::size_t{8} + 2 * sizeof(row_counters) + 128 + most_noted * 2 + shared_bytes(threads) +
           stride_of(static_cast<std::uint32_t>(cols)) * std::size_t{16} * (N + 1);
  }

  __device__ ranked_room(std::byte* memory, std::uint32_t cols) noexcept
      : tables(reinterpret_cast<std::uint32_t*>(memory)), stride(stride_of(cols)) {
    static_assert(sizeof(row_counters) % 16 == 0);
    counters = reinterpret_cast<row_counters*>(tables + 2 * table_words);
    of_warps = reinterpret_cast<std::uint32_t*>(counters + 2);
    notes = reinterpret_cast<std::uint16_t*>(of_warps + 32);
    listed = reinterpret_cast<std::uint32_t*>(notes + most_noted);
    random = reinterpret_cast<random_room*>(listed);
    rows = reinterpret_cast<std::byte*>(listed) + shared_bytes(blockDim.x);
  }
  __device__ std::uint32_t* limits(int model) const noexcept { return tables + model * static_cast<int>(bin_words); }
  __device__ std::uint32_t* values(int model) const noexcept { return limits(model) + table_words; }
  /// The first listed element's word, from a model's first bin on.
  __device__ static constexpr std::uint32_t list_begin(int model) noexcept { return (N - static_cast<std::uint32_t>(model)) * bin_words; }
  __device__ std::uint32_t* tile(int input, std::uint32_t t) const noexcept {
    return reinterpret_cast<std::uint32_t*>(rows + (static_cast<std::uint32_t>(input) * stride + t) * 16u);
  }
};

__device__ inline std::uint32_t& at_offset(std::uint32_t* table, std::uint32_t bytes) noexcept {
  return *reinterpret_cast<std::uint32_t*>(reinterpret_cast<std::byte*>(table) + bytes);
}

/// Upper half of the magnitudes that bin 0 is for. It has zeros, and whatever is smaller than bin 1's; elsewhere a bin's number
/// is how far its upper half is from here. Negative where all magnitudes have bins.
__device__ inline std::int32_t first_bin(std::uint32_t most) noexcept {
  std::uint32_t const normal = most > 128u ? most : 128u;
  return static_cast<std::int32_t>((normal + 32u) & ~31u) - static_cast<std::int32_t>(rank_bins);
}

/// Where a magnitude's bin lies in its model's, in bytes; `start` is bin 0's. Sign and lower bits may be any.
__device__ inline std::uint32_t bin_offset(std::uint32_t bits, std::int32_t start) noexcept {
  std::int32_t const above = ptx::add_from_zero(static_cast<std::int32_t>(bits & 0x7FFF0000u), -start);
  return static_cast<std::uint32_t>(above + (above >> 5)) >> 14 & ~3u;
}

__device__ inline void widen_words(four_words const& words, float (&x)[tile_elements]) noexcept {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    x[2 * k] = __uint_as_float(words.word[k] << 16);
    x[2 * k + 1] = __uint_as_float(words.word[k] & 0xFFFF0000u);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
