#pragma once

/// Random pruning by rank in a row in one pass, and the merge: a block takes a row of the base and its models into shared memory.
///
/// Magnitudes of a model's deltas fall in bins by the upper half of their float32, which for differences of bfloat16 numbers is
/// nearly always all of it: a bin's elements are equal, share a rank, a threshold and a quotient. So a row is counted, the bins'
/// counts become ranks, and what each bin's elements become is looked up. The few elements with lower bits, or far below the
/// row's largest, are listed, each with an entry of its own behind the bins.

#include <braid/backend/cuda/async_copy.cuh>
#include <braid/backend/cuda/ranked_room.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What the kernel does for one row after the other. Threads have tiles of their own, from the copy to the result.
template <int N, class Plan, class Out>
struct ranked_row {
  ranked_arguments<N, Plan, Out> const& a;
  ranked_room<N> const room;
  std::uint32_t const tiles;

  __device__ ranked_row(ranked_arguments<N, Plan, Out> const& arguments, std::byte* memory) noexcept
      : a(arguments),
        room(memory, static_cast<std::uint32_t>(arguments.cols)),
        tiles(static_cast<std::uint32_t>(arguments.cols) / tile_elements) {}

  __device__ four_words words(int input, std::uint32_t t) const noexcept {
    return *reinterpret_cast<four_words const*>(room.tile(input, t));
  }

  __device__ void fetch(index_t row, std::uint32_t t) const noexcept {
    ptx::copy_16(room.tile(0, t), a.base.data + row * a.base.stride + t * 16u);
#pragma unroll
    for (int m = 0; m < N; ++m) { ptx::copy_16(room.tile(m + 1, t), a.models[m].data + row * a.models[m].stride + t * 16u); }
  }

  /// The largest magnitudes and the least ones that aren't zero, rounded to bfloat16.
  __device__ void measure(row_counters& of) const noexcept {
    std::uint32_t most[N] = {};
    std::uint32_t least[N];
#pragma unroll
    for (int m = 0; m < N; ++m) { least[m] = 0xFFFFFFFFu; }
    for (std::uint32_t t = threadIdx.x; t < tiles; t += blockDim.x) {
      four_words const base = words(0, t);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        four_words const model = words(m + 1, t);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          std::uint32_t const d = ptx::bf16_distances(model.word[k], base.word[k]);
          most[m] = ptx::larger_halves(most[m], d);
          least[m] = ptx::less_one_or_smaller(d, least[m]);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < N; ++m) {
      std::uint32_t const span = ~least[m];
      std::uint32_t const high = most[m] >> 16 > (most[m] & 0xFFFFu) ? most[m] >> 16 : most[m] & 0xFFFFu;
      std::uint32_t const wide = span >> 16 > (span & 0xFFFFu) ? span >> 16 : span & 0xFFFFu;
      std::uint32_t const of_warp = __reduce_max_sync(0xFFFFFFFFu, high);
      std::uint32_t const wide_of_warp = __reduce_max_sync(0xFFFFFFFFu, wide);
      if (threadIdx.x % 32 == 0) {
        atomicMax(&of.most[m], of_warp);
        atomicMax(&of.span[m], wide_of_warp);
      }
    }
  }

  __device__ void clear_bins() const noexcept {
    static_assert(bin_words % 4 == 0);
    for (std::uint32_t i = threadIdx.x; i < N * bin_words / 4; i += blockDim.x) {
      reinterpret_cast<four_words*>(room.tables)[i] = four_words{};
      reinterpret_cast<four_words*>(room.tables + room.table_words)[i] = four_words{};
    }
  }

  /// Signs and offsets of a tile's elements.
  __device__ static four_words codes_of(std::uint32_t const (&bits)[tile_elements], std::uint32_t const (&offset)[tile_elements]) noexcept {
    four_words codes;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      std::uint32_t const signs = __byte_perm(bits[2 * k], bits[2 * k + 1], 0x7632) & 0x80008000u;
      codes.word[k] = (offset[2 * k + 1] * 65536u + offset[2 * k]) | signs;
    }
    return codes;
  }

  /// Counts a row; its elements become signs and offsets of their entries, but for tiles with some that have to be listed.
  __device__ void count(row_counters& of) const noexcept {
    std::int32_t start[N];
    bool far[N];
#pragma unroll
    for (int m = 0; m < N; ++m) {
      std::int32_t const begin = first_bin(of.most[m]);
      far[m] = begin >= 0 && static_cast<std::int32_t>(0xFFFFu - of.span[m]) <= begin;  // the least may be rounded up
      start[m] = begin * 65536;
    }
    for (std::uint32_t t = threadIdx.x; t < tiles; t += blockDim.x) {
      float base[tile_elements];
      widen_words(words(0, t), base);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        float x[tile_elements];
        widen_words(words(m + 1, t), x);
        std::uint32_t bits[tile_elements];
        std::uint32_t offset[tile_elements];
        std::uint32_t some = 0;
#pragma unroll
        for (int j = 0; j < tile_elements; ++j) {
          bits[j] = __float_as_uint(x[j] - base[j]);
          some |= bits[j];
          offset[j] = bin_offset(bits[j], start[m]);
          atomicAdd(&at_offset(room.limits(m), offset[j]), 1u);
        }
        if (far[m]) {
#pragma unroll
          for (int j = 0; j < tile_elements; ++j) { some |= offset[j] == 0 && (bits[j] & 0x7FFFFFFFu) != 0 ? 1u : 0u; }
        }
        if ((some & 0xFFFFu) == 0) {
          *reinterpret_cast<four_words*>(room.tile(m + 1, t)) = codes_of(bits, offset);
        } else {
          std::uint32_t const note = atomicAdd(&of.tiles, 1u);
          if (note < room.list_words) { room.notes[note] = static_cast<std::uint16_t>(t * 4u + static_cast<std::uint32_t>(m)); }
        }
      }
    }
  }

  /// Gives an element that a bin has counted entry number `slot`. Of a bin's word the lower half counts its equals, the upper one the
  /// others; they are linked from its word in the other table on.
  __device__ void link(int m, std::uint32_t magnitude, std::uint32_t offset, std::uint32_t slot) const noexcept {
    std::uint32_t* const limit = &at_offset(room.limits(m), offset);
    atomicAdd(limit, 0xFFFFu);
    room.listed[slot] = magnitude;
    room.listed[room.list_words + slot] = atomicExch(limit + room.table_words, slot + 1u) | static_cast<std::uint32_t>(m) << 16;
  }

  /// Lists elements of the tiles that `count` has noted: a tile's first in the entry of the tile's own number.
  __device__ void list(row_counters& of) const noexcept {
    std::uint32_t const noted = of.tiles <= room.list_words ? of.tiles : 0u;
    for (std::uint32_t i = threadIdx.x; i < noted; i += blockDim.x) {
      auto const m = static_cast<int>(room.notes[i] % 4u);
      std::uint32_t const t = room.notes[i] / 4u;
      std::int32_t const start = first_bin(of.most[m]) * 65536;
      float base[tile_elements];
      float x[tile_elements];
      widen_words(words(0, t), base);
      widen_words(words(m + 1, t), x);
      std::uint32_t bits[tile_elements];
      std::uint32_t offset[tile_elements];
      bool found = false;
      std::uint32_t first = 0;
      std::uint32_t first_offset = 0;
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) {
        bits[j] = __float_as_uint(x[j] - base[j]);
        offset[j] = bin_offset(bits[j], start);
        std::uint32_t const magnitude = bits[j] & 0x7FFFFFFFu;
        bool const below = start >= 0 && offset[j] == 0 && magnitude != 0;
        if ((magnitude & 0xFFFFu) == 0 && !below) { continue; }
        std::uint32_t slot = i;
        if (found) {
          slot = noted + atomicAdd(&of.further, 1u);
          if (slot >= room.list_words) { continue; }
          link(m, magnitude, offset[j], slot);
        } else {
          found = true;
          first = magnitude;
          first_offset = offset[j];
        }
        offset[j] = (room.list_begin(m) + slot) * 4u;
      }
      link(m, first, first_offset, i);
      *reinterpret_cast<four_words*>(room.tile(m + 1, t)) = codes_of(bits, offset);
    }
  }

  /// Counts become the numbers of elements up to a bin's equals, of all models; above them, in the upper half, how many equals those
  /// are. Bins that have some are noted.
  __device__ void add_up(row_counters& of) const noexcept {
    constexpr std::uint32_t words = N * bin_words;
    std::uint32_t const lane = threadIdx.x % 32;
    std::uint32_t const warp = threadIdx.x / 32;
    std::uint32_t const each = (words / 32 + blockDim.x / 32) / (blockDim.x / 32) * 32;  // of a warp
    std::uint32_t const begin = warp * each;
    std::uint32_t const end = begin + each < words ? begin + each : words;
    // Elements of all models, less than 65536; above them, bins that have some.
    auto const value = [](std::uint32_t word) { return (word & 0xFFFFu) + (word >> 16) + ((word & 0xFFFFu) != 0 ? 65536u : 0u); };
    std::uint32_t sum = 0;
    for (std::uint32_t i = begin + lane; i < end; i += 32) { sum += value(room.tables[i]); }
    sum = __reduce_add_sync(0xFFFFFFFFu, sum);
    if (lane == 0) { room.of_warps[warp] = sum; }
    __syncthreads();
    std::uint32_t before = __reduce_add_sync(0xFFFFFFFFu, lane < warp ? room.of_warps[lane] : 0u);
    if (warp == blockDim.x / 32 - 1u && lane == 0) { of.bins = (before + sum) >> 16; }
    for (std::uint32_t i = begin; i < end; i += 32) {
      std::uint32_t const here = i + lane < end ? room.tables[i + lane] : 0u;
      if (__any_sync(0xFFFFFFFFu, here != 0) == 0) { continue; }
      std::uint32_t const mine = value(here);
      std::uint32_t up_to = mine;
#pragma unroll
      for (unsigned step = 1; step < 32; step *= 2) {
        std::uint32_t const lower = __shfl_up_sync(0xFFFFFFFFu, up_to, step);
        if (lane >= step) { up_to += lower; }
      }
      std::uint32_t const until = before + up_to - mine;
      if (here != 0) {
        std::uint32_t const equals = here & 0xFFFFu;
        room.tables[i + lane] = ((until & 0xFFFFu) + equals) | equals << 16;
        if (equals != 0 && until >> 16 < most_noted) { room.notes[until >> 16] = static_cast<std::uint16_t>(i + lane); }
      }
      before += __shfl_sync(0xFFFFFFFFu, up_to, 31);
    }
  }

  /// Twice the ranks of listed elements, above a bin's equals in the order of magnitudes, and these, in place of their entries.
  __device__ void rank_listed(row_counters const& of) const noexcept {
    for (std::uint32_t slot = threadIdx.x; slot < of.tiles + of.further; slot += blockDim.x) {
      auto const m = static_cast<int>(room.listed[room.list_words + slot] >> 16);
      std::uint32_t const magnitude = room.listed[slot];
      std::uint32_t const* const limit = &at_offset(room.limits(m), bin_offset(magnitude, first_bin(of.most[m]) * 65536));
      std::uint32_t twice = 2 * (*limit & 0xFFFFu) - 1u;
      for (std::uint32_t k = limit[room.table_words]; k != 0; k = room.listed[room.list_words + k - 1u] & 0xFFFFu) {
        std::uint32_t const other = room.listed[k - 1u];
        twice += (other < magnitude ? 1u : 0u) + (other <= magnitude ? 1u : 0u);
      }
      room.tables[N * bin_words + slot] = twice;
      room.tables[room.table_words + N * bin_words + slot] = magnitude;
    }
  }

  /// Ranks become entries.
  __device__ void enter(row_counters const& of) const noexcept {
    bool const noted = of.bins <= most_noted;
    std::uint32_t const bins = noted ? of.bins : N * bin_words;
    std::uint32_t const count = bins + of.tiles + of.further;
    auto const cols = static_cast<std::uint32_t>(a.cols);
    for (std::uint32_t k = threadIdx.x; k < count; k += blockDim.x) {
      std::uint32_t const i = k >= bins ? N * bin_words + k - bins : noted ? room.notes[k] : k;
      std::uint32_t* const limit = room.tables + i;
      std::uint32_t m = i / bin_words;
      std::uint32_t twice = *limit;
      std::uint32_t magnitude = 0;
      if (k < bins) {
        std::uint32_t const equals = twice >> 16;
        if (equals == 0) { continue; }
        twice = 2 * (twice & 0xFFFFu) - equals - 1u;
        std::uint32_t const word = i - m * bin_words;
        std::int32_t const begin = first_bin(of.most[m]);
        if (word != 0 || begin < 0) { magnitude = static_cast<std::uint32_t>(begin + static_cast<std::int32_t>(word - word / 33u)) << 16; }
      } else {
        m = room.listed[room.list_words + k - bins] >> 16;
        magnitude = limit[room.table_words];
      }
      twice -= 2 * m * cols;
      *limit = (a.plans[m].threshold(twice) << 16) - 1u;
      if constexpr (Out::merges) {
        float const kept = a.plans[m].survivor(__uint_as_float(magnitude), twice);
        limit[room.table_words] = __float_as_uint(a.out.f.scales ? kept * a.out.f.factor[m] : kept);
      }
    }
  }

  __device__ std::uint64_t element_of(index_t row, std::uint32_t t) const noexcept {
    return static_cast<std::uint64_t>((a.first + row) * a.cols) + t * tile_elements;
  }

  /// Looks elements up, merges them, writes them; fetches row `next`, if there is one.
  __device__ void merge(index_t row, index_t next) const noexcept {
    random_room& random = room.random[threadIdx.x / 32];
    for (std::uint32_t t = threadIdx.x; t < room.stride; t += blockDim.x) {
      bool const inside = t < tiles;
      float x[N][tile_elements];
#pragma unroll
      for (int m = 0; m < N; ++m) {
        std::uint32_t word[tile_elements];
        random_words_together(a.keys, a.plans[m].stream, element_of(row, t), random, word);
        four_words const codes = inside ? words(m + 1, t) : four_words{};
#pragma unroll
        for (int j = 0; j < tile_elements; ++j) {
          std::uint32_t const code = j % 2 == 0 ? codes.word[j / 2] & 0x7FFFu : codes.word[j / 2] >> 16 & 0x7FFFu;
          std::uint32_t const sign = (j % 2 == 0 ? codes.word[j / 2] << 16 : codes.word[j / 2]) & 0x80000000u;
          std::uint32_t const limit = at_offset(room.limits(m), code);
          std::uint32_t kept = 0;
          if (word[j] <= limit) { kept = at_offset(room.values(m), code) | sign; }
          x[m][j] = __uint_as_float(kept);
        }
      }
      if (!inside) { continue; }
      float base[tile_elements];
      widen_words(words(0, t), base);
      float result[tile_elements];
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) {
        float one[N];
#pragma unroll
        for (int m = 0; m < N; ++m) { one[m] = x[m][j]; }
        auto const col = static_cast<index_t>(t * tile_elements + static_cast<std::uint32_t>(j));
        result[j] = a.out.f(base[j], static_cast<float const*>(one), N, a.first + row, col);
      }
      if (next < a.rows) { fetch(next, t); }
      std::uint32_t to[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) { to[k] = ptx::to_bf16_pair(result[2 * k], result[2 * k + 1]); }
      ptx::store_once(a.out.to + (row * a.cols + t * tile_elements) * 2, to);
    }
    ptx::close_copies();
  }

  /// Looks elements up, and writes what is decided of them.
  __device__ void decide(index_t row, index_t next) const noexcept {
    random_room& random = room.random[threadIdx.x / 32];
    for (std::uint32_t t = threadIdx.x; t < room.stride; t += blockDim.x) {
      bool const inside = t < tiles;
#pragma unroll
      for (int m = 0; m < N; ++m) {
        std::uint32_t word[tile_elements];
        random_words_together(a.keys, a.plans[m].stream, element_of(row, t), random, word);
        if (!inside) { continue; }
        four_words const codes = words(m + 1, t);
        std::uint32_t decided[tile_elements];
#pragma unroll
        for (int j = 0; j < tile_elements; ++j) {
          std::uint32_t const code = j % 2 == 0 ? codes.word[j / 2] & 0x7FFFu : codes.word[j / 2] >> 16 & 0x7FFFu;
          std::uint32_t const limit = at_offset(room.limits(m), code);
          decided[j] = word[j] <= limit ? (limit >> 16) + 1u - a.out.offset[m] : 0u;
        }
        std::uint32_t to[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) { to[k] = decided[2 * k] | decided[2 * k + 1] << 16; }
        ptx::store_once(a.out.to[m] + row * a.cols + t * tile_elements, to);
      }
      if (inside && next < a.rows) { fetch(next, t); }
    }
    ptx::close_copies();
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
