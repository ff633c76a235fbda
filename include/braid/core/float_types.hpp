#pragma once

/// Storage types for checkpoints: IEEE half, bfloat16 and the two 8-bit floats of the OCP FP8 specification.
/// They hold bits and convert; arithmetic is always in float32. All conversions to float are exact; those from
/// float round to nearest, ties to even. They use integer operations only, so every backend gives the same bits.

#include <braid/core/types.hpp>

#include <bit>
#include <type_traits>

BRAID_NAMESPACE_BEGIN

namespace detail {

template <class To, class From>
BRAID_HD constexpr To bits_as(From from) noexcept {
  return __builtin_bit_cast(To, from);
}

/// A small float of 1 sign bit, E exponent bits and M mantissa bits, widened exactly.
/// `Finite`: no infinity, and only all ones is NaN (e4m3 of the OCP specification).
template <int E, int M, bool Finite>
BRAID_HD constexpr float widen_small(std::uint32_t bits) noexcept {
  constexpr std::uint32_t exponent_mask = (1u << E) - 1u;
  constexpr std::uint32_t mantissa_mask = (1u << M) - 1u;
  constexpr std::uint32_t bias = (1u << (E - 1)) - 1u;
  std::uint32_t const sign = (bits >> (E + M)) << 31;
  std::uint32_t exponent = (bits >> M) & exponent_mask;
  std::uint32_t mantissa = bits & mantissa_mask;
  if (exponent == exponent_mask && (!Finite || mantissa == mantissa_mask)) {
    // Payloads move up and stay as they are: widening and narrowing a NaN gives back its bits.
    return bits_as<float>(sign | 0x7F800000u | (mantissa << (23 - M)));
  }
  if (exponent == 0) {
    // Subnormal: mantissa * 2^(1 - bias - M). Both factors and the product are exact in float.
    float const unit = bits_as<float>((127u + 1u - bias - static_cast<std::uint32_t>(M)) << 23);
    float const magnitude = static_cast<float>(mantissa) * unit;
    return bits_as<float>(bits_as<std::uint32_t>(magnitude) | sign);
  }
  return bits_as<float>(sign | ((exponent + 127u - bias) << 23) | (mantissa << (23 - M)));
}

/// The nearest small float, ties to even. Too large: infinity, or NaN where the format has none; with `Saturate`
/// the largest finite number instead (infinity too). NaN keeps its sign and upper payload, and stays NaN.
template <int E, int M, bool Finite, bool Saturate>
BRAID_HD constexpr std::uint32_t narrow_small(float value) noexcept {
  constexpr std::uint32_t exponent_mask = (1u << E) - 1u;
  constexpr std::uint32_t mantissa_mask = (1u << M) - 1u;
  constexpr std::uint32_t bias = (1u << (E - 1)) - 1u;
  constexpr std::uint32_t top = exponent_mask << M;
  constexpr std::uint32_t largest = Finite ? (top | (mantissa_mask - 1u)) : top - 1u;
  constexpr std::uint32_t overflow = Saturate ? largest : (Finite ? (top | mantissa_mask) : top);
  constexpr std::uint32_t lowest_normal = 127u + 1u - bias;  // float exponent of the smallest normal

  std::uint32_t const u = bits_as<std::uint32_t>(value);
  std::uint32_t const sign = (u >> 31) << (E + M);
  std::uint32_t const a = u & 0x7FFFFFFFu;
  if (a > 0x7F800000u) {
    if (Finite) { return sign | top | mantissa_mask; }
    std::uint32_t const payload = (a >> (23 - M)) & mantissa_mask;
    return sign | top | (payload == 0 ? 1u << (M - 1) : payload);
  }
  std::uint32_t const exponent = a >> 23;
  std::uint32_t result = 0;
  if (exponent >= lowest_normal) {
    if (exponent > lowest_normal + exponent_mask) { return sign | overflow; }
    std::uint32_t const rounded = a + ((1u << (22 - M)) - 1u) + ((a >> (23 - M)) & 1u);
    result = (rounded >> (23 - M)) - ((127u - bias) << M);
    if (result > largest) { result = overflow; }
  } else {
    // Subnormal or zero: shift the full mantissa down, rounding to even.
    std::uint32_t const shift = lowest_normal - exponent + (23u - static_cast<std::uint32_t>(M));
    if (shift <= 24u) {
      std::uint32_t const full = (a & 0x7FFFFFu) | (exponent == 0 ? 0u : 0x800000u);
      std::uint32_t const kept = full >> shift;
      std::uint32_t const rest = full & ((1u << shift) - 1u);
      std::uint32_t const half = 1u << (shift - 1u);
      result = kept + ((rest > half || (rest == half && (kept & 1u) != 0u)) ? 1u : 0u);
    }
  }
  return sign | result;
}

}  // namespace detail

/// IEEE 754 binary16: 5 exponent bits, 10 mantissa bits. Too large becomes infinity.
struct float16 {
  std::uint16_t bits = 0;
  float16() = default;
  BRAID_HD constexpr explicit float16(float x) noexcept
      : bits(static_cast<std::uint16_t>(detail::narrow_small<5, 10, false, false>(x))) {}
  BRAID_HD constexpr explicit operator float() const noexcept { return detail::widen_small<5, 10, false>(bits); }
  BRAID_HD static constexpr float16 from_bits(std::uint16_t b) noexcept {
    float16 r;
    r.bits = b;
    return r;
  }
};

/// bfloat16: the upper half of a float32. Too large becomes infinity.
struct bfloat16 {
  std::uint16_t bits = 0;
  bfloat16() = default;
  BRAID_HD constexpr explicit bfloat16(float x) noexcept {
    std::uint32_t const u = detail::bits_as<std::uint32_t>(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) {
      std::uint32_t const upper = u >> 16;
      bits = static_cast<std::uint16_t>((upper & 0x7Fu) == 0 ? upper | 0x40u : upper);
    } else {
      bits = static_cast<std::uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
    }
  }
  BRAID_HD constexpr explicit operator float() const noexcept {
    return detail::bits_as<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  BRAID_HD static constexpr bfloat16 from_bits(std::uint16_t b) noexcept {
    bfloat16 r;
    r.bits = b;
    return r;
  }
};

/// OCP FP8 E4M3 ("e4m3fn"): largest 448, no infinity, NaN is 0x7F and 0xFF. Too large becomes NaN;
/// `saturate(x)` gives the largest finite number instead.
struct float8_e4m3 {
  std::uint8_t bits = 0;
  float8_e4m3() = default;
  BRAID_HD constexpr explicit float8_e4m3(float x) noexcept
      : bits(static_cast<std::uint8_t>(detail::narrow_small<4, 3, true, false>(x))) {}
  BRAID_HD constexpr explicit operator float() const noexcept { return detail::widen_small<4, 3, true>(bits); }
  BRAID_HD static constexpr float8_e4m3 saturate(float x) noexcept {
    return from_bits(static_cast<std::uint8_t>(detail::narrow_small<4, 3, true, true>(x)));
  }
  BRAID_HD static constexpr float8_e4m3 from_bits(std::uint8_t b) noexcept {
    float8_e4m3 r;
    r.bits = b;
    return r;
  }
};

/// OCP FP8 E5M2: largest 57344, with infinities. Too large becomes infinity, as in IEEE formats;
/// `saturate(x)` gives the largest finite number instead.
struct float8_e5m2 {
  std::uint8_t bits = 0;
  float8_e5m2() = default;
  BRAID_HD constexpr explicit float8_e5m2(float x) noexcept
      : bits(static_cast<std::uint8_t>(detail::narrow_small<5, 2, false, false>(x))) {}
  BRAID_HD constexpr explicit operator float() const noexcept { return detail::widen_small<5, 2, false>(bits); }
  BRAID_HD static constexpr float8_e5m2 saturate(float x) noexcept {
    return from_bits(static_cast<std::uint8_t>(detail::narrow_small<5, 2, false, true>(x)));
  }
  BRAID_HD static constexpr float8_e5m2 from_bits(std::uint8_t b) noexcept {
    float8_e5m2 r;
    r.bits = b;
    return r;
  }
};

BRAID_NAMESPACE_END
