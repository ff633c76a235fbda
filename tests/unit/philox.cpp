#include "support/catch.hpp"

#include <braid/core/philox.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {
struct known_answer {
  std::uint32_t counter[4];
  std::uint32_t key[2];
  std::uint32_t word[4];
};

std::uint64_t join(std::uint32_t low, std::uint32_t high) { return std::uint64_t{low} | std::uint64_t{high} << 32; }
}  // namespace

TEST_CASE("Philox4x32-10 gives the published known answers", "[philox]") {
  // Random123, kat_vectors.
  known_answer const answers[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}},
      {{0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu},
       {0xFFFFFFFFu, 0xFFFFFFFFu},
       {0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}},
      {{0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u},
       {0xA4093822u, 0x299F31D0u},
       {0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}},
  };
  for (known_answer const& a : answers) {
    auto const block =
        braid::philox4x32(join(a.key[0], a.key[1]), join(a.counter[0], a.counter[1]), join(a.counter[2], a.counter[3]));
    for (int w = 0; w < 4; ++w) { CHECK(block.word[w] == a.word[w]); }
  }
}

TEST_CASE("a hundred and twenty-eight elements of a stream are the eight halves of sixteen blocks", "[philox]") {
  constexpr std::uint64_t seed = 0x0123456789ABCDEFu;
  constexpr std::uint64_t stream = 0xFEDCBA9876543210u;
  for (std::uint64_t const e :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{3}, std::uint64_t{4},
        std::uint64_t{0x3FFFFFFFFu}, std::uint64_t{0x400000000u}, std::numeric_limits<std::uint64_t>::max()}) {
    std::uint32_t const word = braid::philox4x32(seed, e / 128 * 16 + e % 16, stream).word[e % 128 / 32];
    CHECK(braid::philox_element(seed, stream, e) == (e / 16 % 2 == 0 ? word % 65536 : word / 65536));
  }
  // Constant evaluation is the proof that there is no state.
  static_assert(braid::philox_element(0, 0, 0) == 0xE8D5u);
  static_assert(braid::philox_element(0, 0, 16) == 0x6627u);
  static_assert(braid::philox_element(0, 0, 96) == 0xDBD8u);
  static_assert(braid::philox_element(0, 0, 112) == 0x9B00u);
}

TEST_CASE("a draw is two words, the low half first", "[philox]") {
  for (std::uint64_t draw = 0; draw < 9; ++draw) {
    CHECK(braid::philox_draw(7, 11, draw) ==
          join(braid::philox4x32(7, draw / 2, 11).word[draw % 2 * 2], braid::philox4x32(7, draw / 2, 11).word[draw % 2 * 2 + 1]));
  }
}

TEST_CASE("seeds, streams and elements that differ in one bit give unrelated numbers", "[philox]") {
  // Of numbers that have nothing to do with each other, one in 65536 pairs is equal: three of 192 never are.
  std::uint32_t const number = braid::philox_element(1, 2, 3);
  int equal = 0;
  for (int bit = 0; bit < 64; ++bit) {
    std::uint64_t const flip = std::uint64_t{1} << bit;
    equal += braid::philox_element(1 ^ flip, 2, 3) == number ? 1 : 0;
    equal += braid::philox_element(1, 2 ^ flip, 3) == number ? 1 : 0;
    equal += braid::philox_element(1, 2, 3 ^ flip) == number ? 1 : 0;
  }
  CHECK(equal < 3);
}

TEST_CASE("density 1 keeps every element, 0 none, and the threshold is the nearest of 65536", "[philox]") {
  static_assert(braid::keep_threshold(1.0) == 65536);
  static_assert(braid::keep_threshold(0.0) == 0);
  static_assert(braid::keep_threshold(0.5) == 32768);
  CHECK(braid::keep_threshold(0.7) == 45875);  // 45875.2
  CHECK(braid::keep_threshold(0.3) == 19661);  // 19660.8
  CHECK(braid::keep_threshold(0x1p-16) == 1);
  CHECK(braid::keep_threshold(1e-12) == 1);
  CHECK(braid::keep_threshold(1.0 - 0x1p-53) == 65536);
  CHECK(braid::keep_threshold(-0.1) == 0);
  CHECK(braid::keep_threshold(2.0) == 65536);
  CHECK(braid::keep_threshold(std::numeric_limits<double>::quiet_NaN()) == 0);
  CHECK(braid::keep_probability(45875) == 45875.0 / 65536.0);
}

TEST_CASE("the kept fraction is the density", "[philox]") {
  constexpr int count = 100000;
  for (double const density : {0.1, 0.5, 0.7, 0.99}) {
    int kept = 0;
    for (int e = 0; e < count; ++e) {
      kept += braid::philox_element(42, 1, static_cast<std::uint64_t>(e)) < braid::keep_threshold(density) ? 1 : 0;
    }
    // Five standard deviations of a binomial are at most 5 * sqrt(count / 4) = 791.
    CHECK(std::abs(kept - density * count) < 791);
  }
}

TEST_CASE("bounded integers are in range and uniform", "[philox]") {
  for (std::uint32_t const n : {1u, 2u, 3u, 10u, 255u}) {
    std::vector<int> seen(n);
    constexpr int draws = 100000;
    for (int d = 0; d < draws; ++d) {
      std::uint32_t const v = braid::philox_bounded(3, n, static_cast<std::uint64_t>(d), n);
      REQUIRE(v < n);
      ++seen[v];
    }
    double const expected = static_cast<double>(draws) / n;
    double chi_square = 0;
    for (int const s : seen) { chi_square += (s - expected) * (s - expected) / expected; }
    // Mean n - 1, standard deviation sqrt(2 (n - 1)); six of them.
    CHECK(chi_square <= n - 1 + 6 * std::sqrt(2.0 * (n - 1)));
  }
}

TEST_CASE("a bounded integer is the upper part of a 96-bit product", "[philox]") {
  for (std::uint64_t d = 0; d < 1000; ++d) {
    auto const n = static_cast<std::uint32_t>(braid::philox_draw(5, 6, d));
    std::uint64_t const bits = braid::philox_draw(8, 9, d);
    // Schoolbook, one bit of n at a time: (bits * n) >> 64.
    std::uint64_t low = 0;
    std::uint64_t high = 0;
    for (unsigned shift = 0; shift < 32; ++shift) {
      if ((n >> shift & 1u) == 0) { continue; }
      std::uint64_t const part = bits << shift;
      high += shift == 0 ? 0 : bits >> (64 - shift);
      low += part;
      high += low < part ? 1 : 0;
    }
    CHECK(braid::philox_bounded(8, 9, d, n) == high);
  }
  CHECK(braid::philox_bounded(8, 9, 0, 0) == 0);
}

TEST_CASE("unit numbers are at least 0 and below 1", "[philox]") {
  double sum = 0;
  double largest = 0;
  constexpr int count = 100000;
  for (int d = 0; d < count; ++d) {
    double const u = braid::philox_unit(1, 1, static_cast<std::uint64_t>(d));
    REQUIRE((u >= 0.0 && u < 1.0));
    sum += u;
    largest = std::max(largest, u);
  }
  CHECK(std::abs(sum / count - 0.5) < 0.005);
  CHECK(largest > 0.999);
}
