#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/simd_scope.hpp"

#include <braid/backend/cpu/convert.hpp>

using namespace braid_test;

namespace {

constexpr dtype types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2};

std::uint32_t bits_of(float x) { return braid::detail::bits_as<std::uint32_t>(x); }
float float_of(std::uint32_t bits) { return braid::detail::bits_as<float>(bits); }

/// Elements of every bit pattern that a type has; of float, one in each neighbourhood that rounding could tell apart.
std::vector<std::byte> every_pattern(dtype type) {
  std::vector<std::byte> all;
  auto const append = [&](auto value) {
    auto const* const p = reinterpret_cast<std::byte const*>(&value);
    all.insert(all.end(), p, p + sizeof value);
  };
  if (braid::size_of(type) == 4) {
    for (std::uint32_t upper = 0; upper < 0x10000u; ++upper) {
      for (std::uint32_t const lower : {0u, 1u, 0x0FFFu, 0x1000u, 0x1001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
        append(upper << 16 | lower);
      }
    }
  } else if (braid::size_of(type) == 2) {
    for (std::uint32_t b = 0; b < 0x10000u; ++b) { append(static_cast<std::uint16_t>(b)); }
  } else {
    for (std::uint32_t b = 0; b < 0x100u; ++b) { append(static_cast<std::uint8_t>(b)); }
  }
  return all;
}

/// Calls `f(first, count)` for pieces of all lengths, so that vectors start anywhere and every tail comes up.
template <class F>
void in_pieces(index_t size, F const& f) {
  int length = 0;
  for (index_t first = 0; first < size;) {
    auto const count = static_cast<int>(std::min<index_t>(size - first, length));
    f(first, count);
    first += count;
    length = length == 67 ? 480 : length == 480 ? 0 : length + 1;
  }
}

std::byte const* at(std::vector<std::byte> const& memory, dtype type, index_t i) {
  return memory.data() + static_cast<std::size_t>(i) * braid::size_of(type);
}

}  // namespace

TEST_CASE("rows are widened as the scalar types do it, for every bit pattern", "[convert][simd]") {
  for (auto const level : all_simd_levels) {
    simd_scope const scope(level);
    for (dtype const type : types) {
      auto const memory = every_pattern(type);
      auto const size = static_cast<index_t>(memory.size() / braid::size_of(type));
      std::vector<float> wide(static_cast<std::size_t>(size));
      in_pieces(size, [&](index_t first, int count) {
        braid::detail::widen(type, at(memory, type, first), wide.data() + first, count);
      });
      index_t wrong = 0;
      for (index_t i = 0; i < size; ++i) {
        if (bits_of(wide[static_cast<std::size_t>(i)]) != bits_of(load(type, memory.data(), i))) { ++wrong; }
      }
      INFO(braid::name_of(type));
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("deltas are one float32 subtraction, for every bit pattern", "[convert][simd]") {
  random_source random(11);
  for (auto const level : all_simd_levels) {
    simd_scope const scope(level);
    for (dtype const type : types) {
      auto const memory = every_pattern(type);
      auto const size = static_cast<index_t>(memory.size() / braid::size_of(type));
      std::vector<float> base;
      for (index_t i = 0; i < size; ++i) {
        base.push_back(random.chance(0.3) ? load(type, memory.data(), random.below(static_cast<int>(size)))
                                          : static_cast<float>(random.bell()));
      }
      std::vector<float> delta(static_cast<std::size_t>(size));
      in_pieces(size, [&](index_t first, int count) {
        braid::detail::subtract_base(type, at(memory, type, first), base.data() + first, delta.data() + first, count);
      });
      index_t wrong = 0;
      for (index_t i = 0; i < size; ++i) {
        auto const slot = static_cast<std::size_t>(i);
        float const expected = load(type, memory.data(), i) - base[slot];
        bool const both_nan = std::isnan(expected) && std::isnan(delta[slot]);  // of two NaN either may come through
        if (!both_nan && bits_of(delta[slot]) != bits_of(expected)) { ++wrong; }
      }
      INFO(braid::name_of(type));
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("merged rows are rounded once, as the scalar types do it", "[convert][simd]") {
  random_source random(12);
  auto const patterns = every_pattern(dtype::f32);
  auto const size = static_cast<index_t>(patterns.size() / 4);
  std::vector<float> base(static_cast<std::size_t>(size));
  std::vector<float> merged(static_cast<std::size_t>(size));
  std::memcpy(base.data(), patterns.data(), patterns.size());
  for (int round = 0; round < 2; ++round) {
    // First the patterns themselves, then sums of all sizes.
    float const lambda = round == 0 ? 1.0f : 0.37f;
    for (std::size_t i = 0; i < merged.size(); ++i) {
      merged[i] = round == 0 ? -0.0f : static_cast<float>(random.bell() * std::exp2(random.between(-30, 30)));
    }
    for (auto const level : all_simd_levels) {
      simd_scope const scope(level);
      for (dtype const type : types) {
        std::vector<std::byte> out(static_cast<std::size_t>(size) * braid::size_of(type));
        in_pieces(size, [&](index_t first, int count) {
          braid::detail::add_base(type, base.data() + first, merged.data() + first, lambda,
                                  out.data() + static_cast<std::size_t>(first) * braid::size_of(type), count);
        });
        std::vector<std::byte> expected(out.size());
        for (index_t i = 0; i < size; ++i) {
          auto const slot = static_cast<std::size_t>(i);
          store(type, base[slot] + merged[slot] * lambda, expected.data(), i);
        }
        INFO(braid::name_of(type) << ", lambda " << lambda);
        CHECK(out == expected);
      }
    }
  }
}

TEST_CASE("rows change their type with one rounding, and keep their bits where the type stays", "[convert]") {
  for (dtype const from : types) {
    auto const memory = every_pattern(from);
    auto const size = static_cast<index_t>(memory.size() / braid::size_of(from));
    for (dtype const to : types) {
      std::vector<std::byte> out(static_cast<std::size_t>(size) * braid::size_of(to));
      braid::detail::convert(from, memory.data(), to, out.data(), size);
      std::vector<std::byte> expected = memory;
      if (from != to) {
        expected.resize(out.size());
        for (index_t i = 0; i < size; ++i) { store(to, load(from, memory.data(), i), expected.data(), i); }
      }
      INFO(braid::name_of(from) << " to " << braid::name_of(to));
      CHECK(out == expected);
    }
  }
}

TEST_CASE("a kernel writes no element that it wasn't given", "[convert][simd]") {
  for (auto const level : all_simd_levels) {
    simd_scope const scope(level);
    for (dtype const type : types) {
      for (int count = 0; count <= 40; ++count) {
        std::vector<std::byte> const from(static_cast<std::size_t>(count) * braid::size_of(type));
        std::vector<float> const base(static_cast<std::size_t>(count), 1.0f);
        std::vector<float> wide(static_cast<std::size_t>(count) + 1, float_of(0x12345678u));
        braid::detail::widen(type, from.data(), wide.data(), count);
        CHECK(wide.back() == float_of(0x12345678u));
        braid::detail::subtract_base(type, from.data(), base.data(), wide.data(), count);
        CHECK(wide.back() == float_of(0x12345678u));
        std::vector<std::byte> out((static_cast<std::size_t>(count) + 1) * braid::size_of(type), std::byte{0x5A});
        braid::detail::add_base(type, base.data(), base.data(), 1.0f, out.data(), count);
        CHECK(out.back() == std::byte{0x5A});
      }
    }
  }
}
