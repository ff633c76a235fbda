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
__device__ inline double fused(double x, double y, double z) noexcept { return __fma_rn(x, y, z); }

/// x * y, 0 where that is negative or NaN and 1 where it is larger.
__device__ inline float saturated_product(float x, float y) noexcept {
  float r;
  asm("mul.rn.sat.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
  return r;
}
/// 1 where the magnitude of x is at least `least`, or 0; of NaN 0.
__device__ inline float one_if_reaches(float x, float least) noexcept {
  float r;
  asm("{\n.reg .f32 m;\nabs.f32 m, %1;\nset.ge.f32.f32 %0, m, %2;\n}" : "=f"(r) : "f"(x), "f"(least));
  return r;
}
/// sum + 2^64 word, of two bfloat16 numbers each: finite as long as no number was 2^65 or more, infinite or NaN.
__device__ inline std::uint32_t add_scaled_bf16_pair(std::uint32_t word, std::uint32_t sum) noexcept {
  std::uint32_t r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(word), "r"(0x5F805F80u), "r"(sum));
  return r;
}

/// Where a magnitude lies between `low` and `high`: adds 1 to `equal` where it is `middle`, 1 to `beyond` where it is that or more
/// than `high`, and sets `bit` of `inside` where it is neither and at least `low`.
__device__ inline void place_in_bracket(float x, float low, float middle, float high, float& equal, float& beyond, std::uint32_t& inside,
                                        std::uint32_t bit) noexcept {
  asm("{\n.reg .f32 m;\n.reg .pred e, b, i;\nabs.f32 m, %3;\n"
      "setp.eq.f32 e, m, %5;\nsetp.gt.or.f32 b, m, %6, e;\nsetp.ge.and.f32 i, m, %4, !b;\n"
      "@e add.f32 %0, %0, 0f3F800000;\n@b add.f32 %1, %1, 0f3F800000;\n@i or.b32 %2, %2, %7;\n}"
      : "+f"(equal), "+f"(beyond), "+r"(inside)
      : "f"(x), "f"(low), "f"(middle), "f"(high), "r"(bit));
}

}  // namespace detail::ptx
BRAID_NAMESPACE_END
