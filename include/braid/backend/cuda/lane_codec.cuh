#pragma once

/// Storage types in registers: 32-bit words of one or two elements, to float32 and back.

#include <braid/backend/cuda/kernel.cuh>
#include <braid/core/sum_order.hpp>

#include <type_traits>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The elements of a 32-bit word, the lower address first. Finite values as the storage types of core/float_types.hpp
/// round them; a NaN stays one.
template <class T>
struct word_codec;

template <>
struct word_codec<float> {
  static constexpr int elements = 1;
  using raw = float;
  __device__ static void widen(std::uint32_t word, float (&x)[1]) noexcept { x[0] = __uint_as_float(word); }
  __device__ static std::uint32_t narrow(float const (&x)[1]) noexcept { return __float_as_uint(x[0]); }
  __device__ static float widen_one(float x) noexcept { return x; }
};

template <>
struct word_codec<bfloat16> {
  static constexpr int elements = 2;
  using raw = std::uint16_t;
  __device__ static void widen(std::uint32_t word, float (&x)[2]) noexcept {
    x[0] = __uint_as_float(word << 16);
    x[1] = __uint_as_float(word & 0xFFFF0000u);
  }
  __device__ static std::uint32_t narrow(float const (&x)[2]) noexcept {
    return ptx::to_bf16_pair(x[0], x[1]);
  }
  __device__ static float widen_one(std::uint16_t x) noexcept { return __uint_as_float(std::uint32_t{x} << 16); }
};

template <>
struct word_codec<float16> {
  static constexpr int elements = 2;
  using raw = std::uint16_t;
  __device__ static void widen(std::uint32_t word, float (&x)[2]) noexcept {
    x[0] = widen_one(static_cast<std::uint16_t>(word));
    x[1] = widen_one(static_cast<std::uint16_t>(word >> 16));
  }
  __device__ static std::uint32_t narrow(float const (&x)[2]) noexcept {
    return ptx::to_f16_pair(x[0], x[1]);
  }
  __device__ static float widen_one(std::uint16_t x) noexcept {
    return ptx::from_f16(x);
  }
};

/// f8 is narrowed as core/float_types.hpp does it, bit by bit: no kernel that hurries stores it.
template <class T>
struct f8_word_codec {
  static constexpr int elements = 4;
  using raw = std::uint8_t;
  __device__ static void widen(std::uint32_t word, float (&x)[4]) noexcept {
#pragma unroll
    for (int i = 0; i < 4; ++i) { x[i] = widen_one(static_cast<std::uint8_t>(word >> 8 * i)); }
  }
  __device__ static std::uint32_t narrow(float const (&x)[4]) noexcept {
    std::uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) { word |= std::uint32_t{T(x[i]).bits} << 8 * i; }
    return word;
  }
  __device__ static float widen_one(std::uint8_t x) noexcept {
    if constexpr (std::is_same_v<T, float8_e5m2>) {
      return ptx::from_f16(static_cast<std::uint16_t>(x << 8));
    } else {
      // The exponents of e4m3 at the place of float32's, and what their biases differ by: exact, the smallest numbers included.
      std::uint32_t const size = x & 0x7Fu;
      std::uint32_t const wide = size == 0x7Fu ? 0x7FC00000u : __float_as_uint(__uint_as_float(size << 20) * 0x1p120f);
      return __uint_as_float(wide | (x & 0x80u) << 24);
    }
  }
};
template <>
struct word_codec<float8_e4m3> : f8_word_codec<float8_e4m3> {};
template <>
struct word_codec<float8_e5m2> : f8_word_codec<float8_e5m2> {};

/// What a thread loads or stores at once.
struct alignas(16) four_words {
  std::uint32_t word[4];
};

/// Whether a word holds a NaN or an infinity.
template <class T>
__device__ bool word_is_finite(std::uint32_t word) noexcept {
  constexpr std::uint32_t exponent = sizeof(T) == 4 ? 0x7F800000u : std::is_same_v<T, float16> ? 0x7C00u : 0x7F80u;
  if constexpr (sizeof(T) == 4) {
    return (word & exponent) != exponent;
  } else {
    return (word & exponent) != exponent && (word >> 16 & exponent) != exponent;
  }
}

/// -1, 0 or +1; NaN counts as 0.
__device__ inline float sign_of(float x) noexcept { return (x > 0.0f ? 1.0f : 0.0f) - (x < 0.0f ? 1.0f : 0.0f); }

/// Entry (i, j <= i) of a lower triangle that is stored row by row.
__host__ __device__ constexpr int tile_pair(int i, int j) noexcept { return i * (i + 1) / 2 + j; }

}  // namespace detail
BRAID_NAMESPACE_END
