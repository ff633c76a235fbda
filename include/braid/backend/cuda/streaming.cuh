#pragma once

/// Loads and stores of memory that is read or written once, and the fused multiply-add; apart from everything else, so that
/// the host can stand in for them.

#include <braid/backend/cuda/kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

/// 16, 8 and 4 bytes that no other thread needs; the address is a multiple of their number.
__device__ inline void load_once(void const* p, std::uint32_t (&word)[4]) noexcept {
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "l"(p));
}
__device__ inline void load_once(void const* p, std::uint32_t (&word)[2]) noexcept {
  asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(word[0]), "=r"(word[1]) : "l"(p));
}
__device__ inline void load_once(void const* p, std::uint32_t (&word)[1]) noexcept {
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(word[0]) : "l"(p));
}

__device__ inline void store_once(void* p, std::uint32_t const (&word)[4]) noexcept {
  asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3]) : "memory");
}
__device__ inline void store_once(void* p, std::uint32_t const (&word)[2]) noexcept {
  asm volatile("st.global.cs.v2.u32 [%0], {%1, %2};" ::"l"(p), "r"(word[0]), "r"(word[1]) : "memory");
}
__device__ inline void store_once(void* p, std::uint32_t const (&word)[1]) noexcept {
  asm volatile("st.global.cs.u32 [%0], %1;" ::"l"(p), "r"(word[0]) : "memory");
}

/// 1 / x to about the last bit.
__device__ inline float reciprocal(float x) noexcept {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

/// x * y + z with one rounding.
__device__ inline float fused(float x, float y, float z) noexcept { return __fmaf_rn(x, y, z); }

}  // namespace detail::ptx
BRAID_NAMESPACE_END
