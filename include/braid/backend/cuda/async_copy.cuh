#pragma once

/// Copies to shared memory that a thread starts and waits for itself (cp.async), 16 bytes at a time.

#include <braid/backend/cuda/kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

/// Starts copying 16 bytes; both addresses are multiples of 16. Not through the L1 cache: for what is read once.
__device__ inline void copy_16(void* shared, void const* global) noexcept {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}

/// Starts copying the first `bytes` of 16 and filling the rest with zeros; 0 bytes read nothing.
__device__ inline void copy_16(void* shared, void const* global, int bytes) noexcept {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

/// Makes a group of this thread's copies since the last one; there may be none.
__device__ inline void close_copies() noexcept { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until all but the last `Open` groups of this thread are there: for this thread. Others need a barrier.
template <int Open>
__device__ void wait_for_all_but() noexcept {
  asm volatile("cp.async.wait_group %0;" ::"n"(Open) : "memory");
}

}  // namespace detail::ptx
BRAID_NAMESPACE_END
