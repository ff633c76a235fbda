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

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

/// Address of shared memory as the instructions below want it.
__device__ inline std::uint32_t shared_address(void const* p) noexcept {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// Starts copying 16 bytes, both addresses multiples of 16, past the L1 cache.
__device__ inline void copy_16(void* shared, void const* global) noexcept {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}

/// Waits for the copies that this thread has started.
__device__ inline void wait_for_copies() noexcept { asm volatile("cp.async.wait_all;" ::: "memory"); }

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
__device__ inline void store_in_cluster(std::uint32_t* p, std::uint32_t rank, std::uint32_t x) noexcept {
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(there), "r"(x) : "memory");
}

}  // namespace detail::ptx
BRAID_NAMESPACE_END
