#pragma once

/// exp and log of our own: a C library's may differ in the last bit from machine to machine, and training would carry
/// such a bit into every weight.

#include <braid/config.hpp>

#include <cmath>
#include <cstdint>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr double ln2_high = 0x1.62e42feep-1;  // few enough bits that multiples are exact
inline constexpr double ln2_low = 0x1.a39ef35793c76p-33;

/// e^x for x <= 0, within a few units in the last place; 0 below -708.
inline double exp_of(double x) noexcept {
  if (!(x >= -708.0)) { return x != x ? x : 0.0; }
  double const k = std::floor(x * 0x1.71547652b82fep0 + 0.5);
  double const r = (x - k * ln2_high) - k * ln2_low;
  // Taylor: |r| is at most ln(2) / 2, so that r^14 / 14! is below a unit in the last place.
  double sum = 1.0;
  for (int i = 13; i >= 1; --i) { sum = 1.0 + sum * r / static_cast<double>(i); }
  auto const power = static_cast<std::uint64_t>(static_cast<std::int64_t>(k) + 1023) << 52;
  return sum * __builtin_bit_cast(double, power);
}

/// ln(x) for finite x >= 1, within a few units in the last place.
inline double log_of(double x) noexcept {
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 0x1.6a09e667f3bcdp-1) {
    m *= 2.0;
    --exponent;
  }
  // 2 artanh(t), |t| is at most 0.172.
  double const t = (m - 1.0) / (m + 1.0);
  double const square = t * t;
  double sum = 0.0;
  for (int i = 23; i >= 1; i -= 2) { sum = 1.0 / static_cast<double>(i) + sum * square; }
  double const k = static_cast<double>(exponent);
  return k * ln2_high + (2.0 * t * sum + k * ln2_low);
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
