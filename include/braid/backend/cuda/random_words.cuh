#pragma once

/// Random numbers of a tile's elements (core/philox.hpp): the one place that knows how elements share Philox blocks.

#include <braid/backend/cuda/element_tile.cuh>
#include <braid/core/philox.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Elements whose blocks are theirs alone, and those of a warp's tiles: rows of whole numbers of these let tiles use whole blocks.
inline constexpr index_t random_group = 128;
inline constexpr index_t random_warp = 256;

/// The keys of Philox's ten rounds: as kernel arguments they are operands of instructions, not instructions.
struct random_keys {
  static constexpr int rounds = 10;
  std::uint32_t low[rounds] = {};
  std::uint32_t high[rounds] = {};

  random_keys() = default;
  explicit random_keys(std::uint64_t seed) noexcept {
    for (std::uint32_t r = 0; r < rounds; ++r) {
      low[r] = static_cast<std::uint32_t>(seed) + r * 0x9E3779B9u;
      high[r] = static_cast<std::uint32_t>(seed >> 32) + r * 0xBB67AE85u;
    }
  }

  /// `philox4x32` of core/philox.hpp.
  __device__ philox_block block(std::uint64_t number, std::uint64_t stream) const noexcept {
    std::uint32_t c0 = static_cast<std::uint32_t>(number);
    std::uint32_t c1 = static_cast<std::uint32_t>(number >> 32);
    std::uint32_t c2 = static_cast<std::uint32_t>(stream);
    std::uint32_t c3 = static_cast<std::uint32_t>(stream >> 32);
#pragma unroll
    for (int r = 0; r < rounds; ++r) {
      std::uint64_t const product0 = std::uint64_t{0xD2511F53u} * c0;
      std::uint64_t const product1 = std::uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ low[r];
      c1 = static_cast<std::uint32_t>(product1);
      c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ high[r];
      c3 = static_cast<std::uint32_t>(product0);
    }
    return {{c0, c1, c2, c3}};
  }
};

/// Where the threads of a warp give each other the words of their blocks: for 256 elements, two groups. A group's four times 16
/// words lie 16 words apart from the next one's, so that threads meet different banks.
struct random_room {
  static constexpr int group_words = 64 + 16;
  alignas(16) std::uint32_t word[2 * group_words];
};
struct random_rooms {
  random_room of_warp[8];
};

/// The words of a warp's tiles of eight neighbours, as `with_word` of a plan takes them: an element's number in the upper half.
/// All threads of the warp call, and theirs are 256 elements in a row from the beginning of a group on.
/// @param element  number of the tile's first element
__device__ inline void random_words_together(random_keys const& keys, std::uint64_t stream, std::uint64_t element, random_room& room,
                                             std::uint32_t (&word)[tile_elements]) noexcept {
  std::uint32_t const lane = threadIdx.x % 32;
  std::uint32_t* const group = room.word + lane / 16 * random_room::group_words;
  philox_block const block = keys.block((element >> 7 << 4) + lane % 16, stream);
  __syncwarp();  // the words before are read
#pragma unroll
  for (int w = 0; w < 4; ++w) { group[w * 16 + static_cast<int>(lane % 16)] = block.word[w]; }
  __syncwarp();
  // Sixteen elements in a row have the same half of the same word of sixteen blocks.
  struct alignas(16) four {
    std::uint32_t word[4];
  };
  std::uint32_t const number = lane % 16 / 2;
  std::uint32_t const factor = number % 2 == 0 ? 65536u : 1u;  // the units that shift have more to do than those that multiply
  auto const* const from = reinterpret_cast<four const*>(group + number / 2 * 16 + lane % 2 * 8);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    four const words = from[k];
#pragma unroll
    for (int j = 0; j < 4; ++j) { word[4 * k + j] = words.word[j] * factor; }
  }
}

/// The same for a spread tile, by itself.
__device__ inline void random_words_spread(random_keys const& keys, std::uint64_t stream, std::uint64_t element,
                                           std::uint32_t (&word)[tile_elements]) noexcept {
  bool const later = (element & 64u) != 0;  // the later half of the group: words 2 and 3 of both blocks
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    philox_block const block = keys.block((element >> 7 << 4) + (element & 15u) + static_cast<std::uint64_t>(n), stream);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      std::uint32_t const both = later ? block.word[2 + k / 2] : block.word[k / 2];
      word[2 * k + n] = k % 2 == 0 ? both << 16 : both;
    }
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
