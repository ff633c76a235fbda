#pragma once

/// What all device code stands on: the gate, kernels' linkage, and the few PTX instructions that C++ has no name for.

#if !defined(__CUDACC__)
#error "braid: headers called .cuh are for nvcc; name your file .cu, or include <braid/braid.hpp> for braid::cpu"
#endif

#include <braid/core/float_types.hpp>

#include <cuda_runtime.h>

/// A kernel belongs to the file that compiled it: two shared libraries of one program may hold the same instance, for
/// different architectures.
#define BRAID_KERNEL static __global__

/// The block's dynamic shared memory, and one object of static shared memory.
#define BRAID_BLOCK_MEMORY(name) extern __shared__ __align__(16) std::byte name[]
#define BRAID_BLOCK_OBJECT(type, name) __shared__ type name

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

/// Two floats rounded to nearest even in a word, the first in its lower half. NaN stays NaN.
__device__ inline std::uint32_t to_bf16_pair(float first, float second) noexcept {
  std::uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
__device__ inline std::uint32_t to_f16_pair(float first, float second) noexcept {
  std::uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
/// Whether the lower and the upper half of a word are at most those of another, in one instruction. Not beside numbers of 16 bits: ptxas
/// 13.0 takes the instruction's unused result, of 32 bits, for one of 16, and lets it overwrite a register whose upper half is still wanted.
__device__ inline void halves_up_to(std::uint32_t word, std::uint32_t most, bool& lower, bool& upper) noexcept {
  (void)__vibmin_u16x2(word, most, &upper, &lower);
}
/// The same in three instructions more, beside anything.
__device__ inline void halves_up_to_in_words(std::uint32_t word, std::uint32_t most, bool& lower, bool& upper) noexcept {
  std::uint32_t above;  // 0 in a half that is
  std::uint32_t of_lower;
  asm("{\n.reg .b32 least;\nmin.u16x2 least, %2, %3;\nxor.b32 %0, least, %2;\nand.b32 %1, %0, 0xFFFF;\n}"
      : "=&r"(above), "=r"(of_lower)
      : "r"(word), "r"(most));
  lower = of_lower == 0;
  upper = above < 0x10000u;
}
/// a * b + c with one rounding.
__device__ inline float fused_multiply_add(float a, float b, float c) noexcept { return __fmaf_rn(a, b, c); }

__device__ inline float from_f16(std::uint16_t bits) noexcept {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
  return wide;
}

/// Address of shared memory as the instructions below want it.
__device__ inline std::uint32_t shared_address(void const* p) noexcept {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// A barrier in shared memory that `arrivals` threads complete, and copies. Made by one thread, before a barrier of all.
__device__ inline void make_barrier(std::uint64_t* barrier, std::uint32_t arrivals) noexcept {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
/// Behind the making of barriers, so that copies know them.
__device__ inline void publish_barriers() noexcept { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

/// One thread arrives; what it wrote before is seen behind a wait.
__device__ inline void arrive(std::uint64_t* barrier) noexcept {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/// Arrives, and says how many bytes copies will bring.
__device__ inline void expect_copies(std::uint64_t* barrier, std::uint32_t bytes) noexcept {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

/// Whether phase number `phase` of a barrier, counted from 0, is over; of the number the lowest bit counts, so the phase is
/// this one or the one before. May wait a little.
__device__ inline bool is_over(std::uint64_t* barrier, std::uint32_t phase) noexcept {
  std::uint32_t over;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
      : "=r"(over)
      : "r"(shared_address(barrier)), "r"(phase & 1u)
      : "memory");
  return over != 0;
}
__device__ inline void wait_for(std::uint64_t* barrier, std::uint32_t phase) noexcept {
  while (!is_over(barrier, phase)) {}
}

/// True for one thread of a warp whose threads are all here.
__device__ inline bool elect() noexcept {
  std::uint32_t chosen;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xFFFFFFFF;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(chosen));
  return chosen != 0;
}

/// The same number, of which the compiler knows nothing: it isn't computed before, and nothing is that is made of it.
__device__ inline int as_new(int x) noexcept {
  int y;
  asm volatile("mov.b32 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

/// A word that other threads write at any time.
__device__ inline std::int32_t peek(std::int32_t const* p) noexcept { return *const_cast<std::int32_t const volatile*>(p); }
__device__ inline void poke(std::int32_t* p, std::int32_t x) noexcept { *const_cast<std::int32_t volatile*>(p) = x; }

/// Starts copying `bytes` to shared memory; addresses and bytes are multiples of 16.
__device__ inline void copy_in(void* shared, void const* global, std::uint32_t bytes, std::uint64_t* barrier) noexcept {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

/// For kernels that are started while the one before ends: lets the next one's blocks come, and waits for the one before.
__device__ inline void let_next_start() noexcept { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ inline void wait_for_last() noexcept { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/// Makes this thread's ordinary accesses to shared memory and copies that begin behind a barrier of all happen in this order.
__device__ inline void publish_to_copies() noexcept { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Number of this block in its cluster.
__device__ inline std::uint32_t cluster_rank() noexcept {
  std::uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}

/// Half of a barrier of all threads of a cluster; writes before it are seen behind the other half.
__device__ inline void cluster_arrive() noexcept { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ inline void cluster_wait() noexcept { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

/// Writes to the place in block `rank` that `p` is in this block.
__device__ inline void store_in_cluster(float* p, std::uint32_t rank, float x) noexcept {
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(x) : "memory");
}
__device__ inline void store_in_cluster(std::uint8_t* p, std::uint32_t rank, std::uint32_t x) noexcept {
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  asm volatile("st.shared::cluster.u8 [%0], %1;" ::"r"(there), "r"(x) : "memory");
}
__device__ inline void store_in_cluster(std::uint32_t* p, std::uint32_t rank, std::uint32_t x) noexcept {
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(there), "r"(x) : "memory");
}

/// Reads from there.
__device__ inline std::uint32_t load_from_cluster(std::uint32_t const* p, std::uint32_t rank) noexcept {
  std::uint32_t there;
  std::uint32_t x;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(x) : "r"(there) : "memory");
  return x;
}

}  // namespace detail::ptx
BRAID_NAMESPACE_END
