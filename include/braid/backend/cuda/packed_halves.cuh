#pragma once

/// Instructions on two halves of a word, and an addition with a limit; apart from everything else, so that the host can stand in
/// for them.

#include <braid/backend/cuda/kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

/// Magnitudes of the differences of two pairs of bfloat16 numbers, rounded to nearest.
__device__ inline std::uint32_t bf16_distances(std::uint32_t a, std::uint32_t b) noexcept {
  std::uint32_t d;
  asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d & 0x7FFF7FFFu;
}

/// The larger of two halves, twice.
__device__ inline std::uint32_t larger_halves(std::uint32_t a, std::uint32_t b) noexcept { return __vmaxu2(a, b); }

/// The smaller of `a` less one, modulo 2^16, and `b`, twice.
__device__ inline std::uint32_t less_one_or_smaller(std::uint32_t a, std::uint32_t b) noexcept {
  return __viaddmin_u16x2(a, 0xFFFFFFFFu, b);
}

/// a + b, or 0 if that is negative.
__device__ inline std::int32_t add_from_zero(std::int32_t a, std::int32_t b) noexcept { return __viaddmax_s32(a, b, 0); }

}  // namespace detail::ptx
BRAID_NAMESPACE_END
