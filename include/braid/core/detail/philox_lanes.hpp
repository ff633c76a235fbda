#pragma once

#include <braid/config.hpp>

#include <cstdint>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Elements in a group that shares its blocks.
inline constexpr int philox_group = 128;

/// Sixteen consecutive Philox4x32-10 blocks, with each of the four words side by side, so that a compiler turns the
/// loops into SIMD. They serve the 128 elements from 8 * `first_block` on (a multiple of 128): element 16 j + b has the lower
/// (j even) or upper half of `word[j / 2][b]`.
BRAID_ALWAYS_INLINE void philox_elements(std::uint64_t seed, std::uint64_t first_block, std::uint64_t stream,
                                         std::uint32_t (&word)[4][16]) noexcept {
  constexpr int blocks = 16;
  BRAID_VECTORISE
  for (int b = 0; b < blocks; ++b) {
    std::uint64_t const block = first_block + static_cast<std::uint64_t>(b);
    word[0][b] = static_cast<std::uint32_t>(block);
    word[1][b] = static_cast<std::uint32_t>(block >> 32);
    word[2][b] = static_cast<std::uint32_t>(stream);
    word[3][b] = static_cast<std::uint32_t>(stream >> 32);
  }
  auto key0 = static_cast<std::uint32_t>(seed);
  auto key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    BRAID_VECTORISE
    for (int b = 0; b < blocks; ++b) {
      std::uint64_t const product0 = std::uint64_t{0xD2511F53u} * word[0][b];
      std::uint64_t const product1 = std::uint64_t{0xCD9E8D57u} * word[2][b];
      std::uint32_t const next0 = static_cast<std::uint32_t>(product1 >> 32) ^ word[1][b] ^ key0;
      std::uint32_t const next2 = static_cast<std::uint32_t>(product0 >> 32) ^ word[3][b] ^ key1;
      word[0][b] = next0;
      word[1][b] = static_cast<std::uint32_t>(product1);
      word[2][b] = next2;
      word[3][b] = static_cast<std::uint32_t>(product0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

/// The words of 16 elements in a row, those from 16 j on of a group, so that each has its own number in the upper half.
BRAID_ALWAYS_INLINE void philox_upper(std::uint32_t const (&word)[4][16], int j, std::uint32_t (&upper)[16]) noexcept {
  int const shift = j % 2 == 0 ? 16 : 0;
  BRAID_VECTORISE
  for (int b = 0; b < 16; ++b) { upper[b] = word[j / 2][b] << shift; }
}

}  // namespace detail
BRAID_NAMESPACE_END
