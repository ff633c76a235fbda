#pragma once

/// Products of small matrices on tensor cores: 16 bits in, float32 sums. A product is exact; in which order the sums of 16
/// products are formed, and how they are rounded, the hardware decides.

#include <braid/backend/cuda/kernel.cuh>

#include <type_traits>

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

/// Four 8 x 8 matrices of 16-bit elements from shared memory: thread t gives the address of row t % 8 of matrix t / 8 (16
/// bytes, on 16 bytes), and gets elements 2 (t % 4) and 2 (t % 4) + 1 of row t / 4 of each.
__device__ inline void load_matrices(std::uint32_t (&out)[4], void const* row) noexcept {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

/// sum += w x: w has 16 rows and 16 columns, as load_matrices gives its upper left, lower left, upper right and lower right
/// quarter; x has 16 rows and 8 columns, the upper half of its transpose and the lower one. Thread t has of the sums those of
/// rows t / 4 and t / 4 + 8, two of each: columns 2 (t % 4) and 2 (t % 4) + 1.
template <class T>
__device__ void multiply_16x8x16(float (&sum)[4], std::uint32_t const (&w)[4], std::uint32_t x_upper, std::uint32_t x_lower) noexcept {
  static_assert(std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>);
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(x_upper), "r"(x_lower));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(x_upper), "r"(x_lower));
  }
}

}  // namespace detail::ptx
BRAID_NAMESPACE_END
