#pragma once

/// Random numbers of a tile's elements (core/philox.hpp): the one place that knows how elements share Philox blocks.

#include <braid/backend/cuda/element_tile.cuh>
#include <braid/core/philox.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Elements whose blocks are theirs alone; rows that begin where such a group does let tiles use whole blocks.
inline constexpr index_t random_group = 64;

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

/// The words of a spread tile in whole groups, as `with_word` of a plan takes them.
/// @param element  number of the tile's first element
/// @param paired   the next half-warp's eighth of threads holds the tile 64 elements on; all of them call
__device__ inline void random_words(random_keys const& keys, std::uint64_t stream, std::uint64_t element, [[maybe_unused]] bool paired,
                                    std::uint32_t (&word)[tile_elements]) noexcept {
  std::uint64_t const first = (element >> 6 << 4) + (element & 15u);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    philox_block const block = keys.block(first + static_cast<std::uint64_t>(n), stream);
#pragma unroll
    for (int k = 0; k < 4; ++k) { word[2 * k + n] = block.word[k]; }
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
