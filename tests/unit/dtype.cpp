#include "support/catch.hpp"

#include <braid/core/dtype.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

// Conversions are compared with arithmetic in double that knows nothing of bit tricks: a value is
// (-1)^sign * mantissa * 2^exponent, and the nearest representable one is found by searching all of them.

namespace {
using braid::bfloat16;
using braid::dtype;
using braid::float16;
using braid::float8_e4m3;
using braid::float8_e5m2;

struct layout {
  int exponent_bits;
  int mantissa_bits;
  bool has_infinity;
};
template <class T>
constexpr layout layout_of{};
template <>
constexpr layout layout_of<float16>{5, 10, true};
template <>
constexpr layout layout_of<bfloat16>{8, 7, true};
template <>
constexpr layout layout_of<float8_e4m3>{4, 3, false};
template <>
constexpr layout layout_of<float8_e5m2>{5, 2, true};

template <class T>
constexpr std::uint32_t pattern_count =
    std::uint32_t{1} << (1 + layout_of<T>.exponent_bits + layout_of<T>.mantissa_bits);

template <class T>
T from_bits(std::uint32_t bits) {
  return T::from_bits(static_cast<decltype(T::bits)>(bits));
}

/// The value of a bit pattern, infinity and NaN included.
double reference_value(layout f, std::uint32_t bits) {
  int const mantissa_size = 1 << f.mantissa_bits;
  int const exponent_size = 1 << f.exponent_bits;
  int const mantissa = static_cast<int>(bits) % mantissa_size;
  int const exponent = static_cast<int>(bits) / mantissa_size % exponent_size;
  double const sign = static_cast<int>(bits) / mantissa_size / exponent_size == 0 ? 1.0 : -1.0;
  int const bias = exponent_size / 2 - 1;
  if (exponent == exponent_size - 1) {
    if (f.has_infinity && mantissa == 0) { return sign * std::numeric_limits<double>::infinity(); }
    if (f.has_infinity || mantissa == mantissa_size - 1) { return std::numeric_limits<double>::quiet_NaN(); }
  }
  if (exponent == 0) { return sign * std::ldexp(mantissa, 1 - bias - f.mantissa_bits); }
  return sign * std::ldexp(mantissa_size + mantissa, exponent - bias - f.mantissa_bits);
}

/// Finds the nearest representable number by looking at both neighbours.
struct rounding_reference {
  layout f;
  std::vector<double> values;  // finite, not negative, ascending: the index is the bit pattern; then one too large
  std::uint32_t largest;       // bits
  std::uint32_t sign_bit;

  explicit rounding_reference(layout l)
      : f(l), largest(0), sign_bit(std::uint32_t{1} << (l.exponent_bits + l.mantissa_bits)) {
    for (std::uint32_t bits = 0; std::isfinite(reference_value(f, bits)); ++bits) {
      values.push_back(reference_value(f, bits));
      largest = bits;
    }
    // Where the next number would be, had the format one: halfway to it, rounding overflows.
    values.push_back(2 * values[largest] - values[largest - 1]);
  }

  /// @param x  not NaN
  std::uint32_t operator()(float x, bool saturate) const {
    double const a = std::fabs(static_cast<double>(x));
    auto const above = static_cast<std::uint32_t>(std::lower_bound(values.begin(), values.end(), a) - values.begin());
    std::uint32_t nearest = above;
    if (above > largest + 1) {
      nearest = largest + 1;
    } else if (above > 0) {
      double const up = values[above] - a;
      double const down = a - values[above - 1];
      if (down < up || (down == up && above % 2 == 1)) { nearest = above - 1; }
    }
    if (nearest > largest) {
      nearest = saturate ? largest : sign_bit - (f.has_infinity ? std::uint32_t{1} << f.mantissa_bits : 1);
    }
    return nearest + (std::signbit(x) ? sign_bit : 0);
  }
};

template <class T>
std::uint32_t saturated(float x) {
  if constexpr (requires { T::saturate(x); }) {
    return T::saturate(x).bits;
  } else {
    return T(x).bits;
  }
}

/// Compares both ways of narrowing with the reference; remembers the first difference.
template <class T>
struct narrowing_check {
  rounding_reference reference{layout_of<T>};
  static constexpr bool saturates = requires(float x) { T::saturate(x); };
  std::string first_difference;

  void operator()(float x) {
    if (std::isnan(x)) {
      note(x, std::isnan(static_cast<float>(T(x))) && std::signbit(static_cast<float>(T(x))) == std::signbit(x));
      if constexpr (saturates) { note(x, std::isnan(static_cast<float>(T::saturate(x)))); }
      return;
    }
    note(x, T(x).bits == reference(x, false));
    if constexpr (saturates) { note(x, T::saturate(x).bits == reference(x, true)); }
  }
  void note(float x, bool equal) {
    if (!equal && first_difference.empty()) {
      first_difference = std::to_string(x) + " (float bits " + std::to_string(std::bit_cast<std::uint32_t>(x)) +
                         ") becomes " + std::to_string(T(x).bits) + ", saturated " + std::to_string(saturated<T>(x));
    }
  }
};
}  // namespace

TEMPLATE_TEST_CASE("every bit pattern widens to its exact value", "[dtype]", float16, bfloat16, float8_e4m3,
                   float8_e5m2) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < pattern_count<TestType>; ++bits) {
    double const expected = reference_value(layout_of<TestType>, bits);
    auto const widened = static_cast<float>(from_bits<TestType>(bits));
    bool const equal = std::isnan(expected) ? std::isnan(widened)
                                            : static_cast<double>(widened) == expected &&
                                                  std::signbit(widened) == std::signbit(expected);
    wrong += equal ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("every bit pattern, NaNs included, survives widening and narrowing", "[dtype]", float16, bfloat16,
                   float8_e4m3, float8_e5m2) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < pattern_count<TestType>; ++bits) {
    auto const widened = static_cast<float>(from_bits<TestType>(bits));
    wrong += TestType(widened).bits == bits ? 0 : 1;
    if (!std::isinf(widened)) { wrong += saturated<TestType>(widened) == bits ? 0 : 1; }
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("halfway between neighbours narrowing goes to the even one, a step beside it to the nearer",
                   "[dtype]", float16, bfloat16, float8_e4m3, float8_e5m2) {
  narrowing_check<TestType> check;
  std::vector<double> const& values = check.reference.values;
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    double const middle = values[i] + (values[i + 1] - values[i]) / 2;
    auto const x = static_cast<float>(middle);
    REQUIRE(static_cast<double>(x) == middle);
    for (float const near : {x, std::nextafterf(x, 0.0f), std::nextafterf(x, std::numeric_limits<float>::infinity())}) {
      check(near);
      check(-near);
    }
  }
  CHECK(check.first_difference == "");
}

TEMPLATE_TEST_CASE("random floats narrow to the nearest representable number", "[dtype]", float16, bfloat16,
                   float8_e4m3, float8_e5m2) {
  narrowing_check<TestType> check;
  constexpr layout f = layout_of<TestType>;
  // All bit patterns alike, and as many around the format's own exponents, where most of the cases are.
  constexpr std::uint32_t bias = (1u << (f.exponent_bits - 1)) - 1u;
  constexpr auto low = static_cast<std::uint32_t>(std::max(0, 127 + 1 - static_cast<int>(bias) - f.mantissa_bits - 3));
  constexpr std::uint32_t high = std::min(255u, 127u + bias + 2u);
  std::mt19937 bits(2412);
  for (int i = 0; i < 500000; ++i) {
    auto const any = static_cast<std::uint32_t>(bits());
    check(std::bit_cast<float>(any));
    std::uint32_t const exponent = low + (any >> 23 & 0xFFu) % (high - low + 1u);
    check(std::bit_cast<float>((static_cast<std::uint32_t>(bits()) & 0x807FFFFFu) | exponent << 23));
  }
  CHECK(check.first_difference == "");
}

TEMPLATE_TEST_CASE("zeros, subnormals, the largest numbers, infinity and NaN narrow as documented", "[dtype]", float16,
                   bfloat16, float8_e4m3, float8_e5m2) {
  using limits = std::numeric_limits<float>;
  narrowing_check<TestType> check;
  auto const largest = static_cast<float>(check.reference.values[check.reference.largest]);
  auto const smallest = static_cast<float>(check.reference.values[1]);
  for (float const x : {0.0f, limits::denorm_min(), limits::min(), limits::max(), limits::infinity(),
                        limits::quiet_NaN(), limits::signaling_NaN(), smallest, smallest / 2,
                        std::nextafterf(smallest / 2, 1.0f), largest, std::nextafterf(largest, limits::infinity()),
                        largest * 1.5f, std::bit_cast<float>(0x7F800001u), std::bit_cast<float>(0x7FFFFFFFu)}) {
    check(x);
    check(std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) | 0x80000000u));
  }
  CHECK(check.first_difference == "");
  CHECK(TestType(-0.0f).bits == pattern_count<TestType> / 2);
  CHECK(TestType(limits::infinity()).bits == check.reference(limits::infinity(), false));
}

TEST_CASE("the landmarks of the formats are where their specifications put them", "[dtype]") {
  CHECK(static_cast<float>(float16::from_bits(0x7BFF)) == 65504.0f);
  CHECK(static_cast<float>(float16::from_bits(0x0001)) == 0x1p-24f);
  CHECK(static_cast<float>(bfloat16::from_bits(0x7F7F)) == 0x1.FEp127f);
  CHECK(static_cast<float>(float8_e4m3::from_bits(0x7E)) == 448.0f);
  CHECK(static_cast<float>(float8_e4m3::from_bits(0x01)) == 0x1p-9f);
  CHECK(static_cast<float>(float8_e5m2::from_bits(0x7B)) == 57344.0f);
  CHECK(static_cast<float>(float8_e5m2::from_bits(0x01)) == 0x1p-16f);

  CHECK(float8_e4m3(464.0f).bits == 0x7E);  // halfway to 480, which would be odd
  CHECK(float8_e4m3(464.1f).bits == 0x7F);
  CHECK(float8_e4m3(-1e9f).bits == 0xFF);
  CHECK(float8_e4m3::saturate(464.1f).bits == 0x7E);
  CHECK(float8_e4m3::saturate(-std::numeric_limits<float>::infinity()).bits == 0xFE);
  CHECK(float8_e5m2(61440.0f).bits == 0x7C);  // halfway to infinity's place, which is even
  CHECK(float8_e5m2::saturate(61440.0f).bits == 0x7B);
  CHECK(float16(65519.0f).bits == 0x7BFF);
  CHECK(float16(65520.0f).bits == 0x7C00);

  static_assert(bfloat16(1.0f).bits == 0x3F80 && static_cast<float>(float16(0.1f)) == 0x1.998p-4f);
}

TEST_CASE("a dtype has one name, found again, and the size of its type", "[dtype]") {
  for (auto const& row : braid::detail::dtype_table) {
    CHECK(braid::name_of(row.type) == row.name);
    dtype found = row.type == dtype::u8 ? dtype::i8 : dtype::u8;
    CHECK(braid::parse_dtype(row.name, found));
    CHECK(found == row.type);
  }
  dtype untouched = dtype::i16;
  CHECK_FALSE(braid::parse_dtype("bf16", untouched));
  CHECK_FALSE(braid::parse_dtype("", untouched));
  CHECK_FALSE(braid::parse_dtype("F8_E8M0", untouched));
  CHECK(untouched == dtype::i16);

  static_assert(braid::size_of(braid::dtype_of<float>) == sizeof(float));
  static_assert(braid::size_of(braid::dtype_of<float16 const>) == sizeof(float16));
  static_assert(braid::size_of(braid::dtype_of<bfloat16>) == sizeof(bfloat16));
  static_assert(braid::size_of(braid::dtype_of<float8_e4m3>) == sizeof(float8_e4m3));
  static_assert(braid::size_of(braid::dtype_of<float8_e5m2>) == sizeof(float8_e5m2));
  static_assert(braid::is_computable(dtype::bf16) && !braid::is_computable(dtype::f64) &&
                !braid::is_computable(dtype::i32));
}
