#pragma once

/// In place of the header of that name: the same on the host. An address that a device would refuse ends the program.

#include <braid/backend/cuda/kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

template <std::size_t N>
void load_once(void const* p, std::uint32_t (&word)[N]) {
  if (reinterpret_cast<std::uintptr_t>(p) % sizeof word != 0) { std::abort(); }
  std::memcpy(word, p, sizeof word);
}
template <std::size_t N>
void store_once(void* p, std::uint32_t const (&word)[N]) {
  if (reinterpret_cast<std::uintptr_t>(p) % sizeof word != 0) { std::abort(); }
  std::memcpy(p, word, sizeof word);
}
inline float reciprocal(float x) noexcept { return 1.0f / x; }
inline float fused(float x, float y, float z) noexcept { return std::fma(x, y, z); }

}  // namespace detail::ptx
BRAID_NAMESPACE_END

template <class T>
T __shfl_up_sync(unsigned, T x, unsigned step) {
  return emulated::in_warp(x, [step](auto const& at) { return at(threadIdx.x % 32 < step ? threadIdx.x % 32 : threadIdx.x % 32 - step); });
}
