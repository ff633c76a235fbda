#pragma once

/// exp and log in float64 from additions, multiplications and one division alone. The system's own choose their code by the
/// machine's instructions, so that their last bits differ from machine to machine; these are the same everywhere. Errors stay
/// below 2 units in the last place.

#include <braid/core/float_types.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// e^x for x <= 0; 0 where that is below the smallest normal number.
BRAID_HD BRAID_ALWAYS_INLINE double exp_negative(double x) noexcept {
  constexpr double log2_e = 1.4426950408889634;
  constexpr double ln2_high = 0x1.62e42fee00000p-1;  // 32 bits, so that products with a whole number are exact
  constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  // Chosen by masks: with a branch round the conversion to a whole number, compilers don't make vectors of it.
  std::uint64_t const normal = x > -708.0 ? ~std::uint64_t{0} : 0u;
  double const y = bits_as<double>(bits_as<std::uint64_t>(x) & normal);
  auto const k = static_cast<std::int32_t>(y * log2_e - 0.5);  // the nearest whole number, for y <= 0
  auto const kd = static_cast<double>(k);
  double const r = (y - kd * ln2_high) - kd * ln2_low;
  double p = 1.0 / 6227020800.0;  // Taylor, to r^13 / 13!
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  auto const exponent = static_cast<std::uint64_t>(static_cast<std::int64_t>(1023 + k));
  return bits_as<double>(bits_as<std::uint64_t>(p * bits_as<double>(exponent << 52)) & normal);
}

/// The natural logarithm of a positive normal number.
BRAID_HD BRAID_ALWAYS_INLINE double log_positive(double x) noexcept {
  constexpr double ln2_high = 0x1.62e42fee00000p-1;
  constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  constexpr double root_half = 0.70710678118654752;
  std::uint64_t const bits = bits_as<std::uint64_t>(x);
  double mantissa = bits_as<double>((bits & 0x000FFFFFFFFFFFFFu) | 0x3FE0000000000000u);  // in [1/2, 1)
  auto exponent = static_cast<std::int32_t>(bits >> 52) - 1022;
  bool const below = mantissa < root_half;
  mantissa = below ? mantissa * 2.0 : mantissa;
  exponent -= below ? 1 : 0;
  double const s = (mantissa - 1.0) / (mantissa + 1.0);
  double const z = s * s;
  double p = 1.0 / 21.0;  // 2 artanh(s), to s^21 / 21
  p = p * z + 1.0 / 19.0;
  p = p * z + 1.0 / 17.0;
  p = p * z + 1.0 / 15.0;
  p = p * z + 1.0 / 13.0;
  p = p * z + 1.0 / 11.0;
  p = p * z + 1.0 / 9.0;
  p = p * z + 1.0 / 7.0;
  p = p * z + 1.0 / 5.0;
  p = p * z + 1.0 / 3.0;
  double const series = 2.0 * s + 2.0 * s * (z * p);
  auto const e = static_cast<double>(exponent);
  return e * ln2_high + (series + e * ln2_low);
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
