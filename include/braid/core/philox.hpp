#pragma once

/// Random numbers from a counter, not a state: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
/// 1, 2, 3", SC 2011). A number is a pure function of (seed, stream, element), so it doesn't depend on threads,
/// tiles, order or device.
///
/// The packing, used everywhere in braid:
///   key      word 0 = low 32 bits of the seed,          word 1 = its high 32 bits
///   counter  word 0 = low 32 bits of the block number,  word 1 = its high 32 bits
///            word 2 = low 32 bits of the stream,        word 3 = its high 32 bits
///   a block is eight numbers of 16 bits: the lower half of word 0, its upper half, the lower half of word 1, ...
///   element e of a stream is number (e >> 4) & 7 of block (e >> 7) * 16 + (e & 15).
/// So 16 consecutive blocks serve 128 consecutive elements, and 16 elements in a row are the same half of the same word of 16
/// blocks in a row: SIMD lanes need no shuffle, and a GPU thread that takes elements 16 apart uses all its words.
/// A stream is the 64-bit hash of a tensor's and an expert's name: `stream_hash` in core/hash.hpp.

#include <braid/config.hpp>

#include <cstdint>

BRAID_NAMESPACE_BEGIN

/// The four words that Philox gives for one counter.
struct philox_block {
  std::uint32_t word[4];
};

/// One block of Philox4x32-10: ten rounds.
/// @param key           64-bit seed
/// @param counter_low   words 0 and 1 of the counter: the block number
/// @param counter_high  words 2 and 3 of the counter: the stream
/// @complexity 20 multiplications of 32 x 32 bits
BRAID_HD constexpr philox_block philox4x32(std::uint64_t key, std::uint64_t counter_low,
                                           std::uint64_t counter_high) noexcept {
  constexpr std::uint64_t multiplier0 = 0xD2511F53u;
  constexpr std::uint64_t multiplier1 = 0xCD9E8D57u;
  constexpr std::uint32_t weyl0 = 0x9E3779B9u;  // golden ratio
  constexpr std::uint32_t weyl1 = 0xBB67AE85u;  // sqrt(3) - 1
  auto key0 = static_cast<std::uint32_t>(key);
  auto key1 = static_cast<std::uint32_t>(key >> 32);
  philox_block c{{static_cast<std::uint32_t>(counter_low), static_cast<std::uint32_t>(counter_low >> 32),
                  static_cast<std::uint32_t>(counter_high), static_cast<std::uint32_t>(counter_high >> 32)}};
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const product0 = multiplier0 * c.word[0];
    std::uint64_t const product1 = multiplier1 * c.word[2];
    c = {{static_cast<std::uint32_t>(product1 >> 32) ^ c.word[1] ^ key0, static_cast<std::uint32_t>(product1),
          static_cast<std::uint32_t>(product0 >> 32) ^ c.word[3] ^ key1, static_cast<std::uint32_t>(product0)}};
    key0 += weyl0;
    key1 += weyl1;
  }
  return c;
}

/// Element `element` of a stream: 16 uniform bits, a number from 0 to 65535.
BRAID_HD constexpr std::uint32_t philox_element(std::uint64_t seed, std::uint64_t stream, std::uint64_t element) noexcept {
  std::uint32_t const word = philox4x32(seed, (element >> 7) << 4 | (element & 15u), stream).word[(element >> 5) & 3u];
  return word >> ((element & 16u) != 0 ? 16 : 0) & 0xFFFFu;
}

/// 64 uniform bits: words 0 and 1 (the low half first) of block draw >> 1 for an even draw, words 2 and 3 for an odd one.
/// Take either elements or draws from one stream, not both: they overlap.
/// @param draw  below 2^63
BRAID_HD constexpr std::uint64_t philox_draw(std::uint64_t seed, std::uint64_t stream, std::uint64_t draw) noexcept {
  philox_block const block = philox4x32(seed, draw >> 1, stream);
  unsigned const first = static_cast<unsigned>(draw & 1u) * 2u;
  return std::uint64_t{block.word[first]} | std::uint64_t{block.word[first + 1u]} << 32;
}

/// A uniform double in [0, 1): the upper 53 bits of a draw, times 2^-53; exact.
BRAID_HD constexpr double philox_unit(std::uint64_t seed, std::uint64_t stream, std::uint64_t draw) noexcept {
  return static_cast<double>(philox_draw(seed, stream, draw) >> 11) * 0x1p-53;
}

/// A uniform integer in [0, n): floor(draw * n / 2^64), so without a loop whose length depends on the numbers.
/// A value's probability differs from 1 / n by less than 2^-64, which no sample could ever show.
/// @param n  number of values; 0 gives 0
BRAID_HD constexpr std::uint32_t philox_bounded(std::uint64_t seed, std::uint64_t stream, std::uint64_t draw,
                                                std::uint32_t n) noexcept {
  std::uint64_t const bits = philox_draw(seed, stream, draw);
  std::uint64_t const carry = ((bits & 0xFFFFFFFFu) * n) >> 32;
  return static_cast<std::uint32_t>(((bits >> 32) * n + carry) >> 32);
}

/// Elements whose number (`philox_element`) is below this are kept: the nearest integer to density * 65536, but at least 1
/// for a density above 0; so 1 keeps all and 0 none. A density outside [0, 1] acts like the nearer end, NaN like 0; options
/// are checked where users set them.
/// @param density  fraction kept
BRAID_HD constexpr std::uint32_t keep_threshold(double density) noexcept {
  if (!(density > 0.0)) { return 0; }
  if (density >= 1.0) { return 65536; }
  auto const nearest = static_cast<std::uint32_t>(density * 65536.0 + 0.5);
  return nearest > 0 ? nearest : 1;
}

/// The probability that an element is really kept: what rescaling divides by, so that expected values are exact.
BRAID_HD constexpr double keep_probability(std::uint32_t threshold) noexcept { return threshold / 65536.0; }

// The library's promise of equal bits, checked wherever it is compiled (Random123's known-answer vectors).
static_assert(philox4x32(0, 0, 0).word[0] == 0x6627E8D5u && philox4x32(0, 0, 0).word[3] == 0x9B00DBD8u);

BRAID_NAMESPACE_END
