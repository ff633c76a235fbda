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
inline double fused(double x, double y, double z) noexcept { return std::fma(x, y, z); }
inline float saturated_product(float x, float y) noexcept {
  float const r = x * y;
  return r > 0.0f ? (r < 1.0f ? r : 1.0f) : 0.0f;
}
inline float one_if_reaches(float x, float least) noexcept { return std::fabs(x) >= least ? 1.0f : 0.0f; }
inline std::uint32_t add_scaled_bf16_pair(std::uint32_t word, std::uint32_t sum) noexcept {
  auto const half = [](std::uint32_t w, std::uint32_t s) {
    return static_cast<std::uint32_t>(
        bfloat16(std::fma(std::bit_cast<float>(w & 0xFFFF0000u), 0x1p64f, std::bit_cast<float>(s & 0xFFFF0000u))).bits);
  };
  return half(word << 16, sum << 16) | half(word, sum) << 16;
}
inline void place_in_bracket(float x, float low, float middle, float high, float& equal, float& beyond, std::uint32_t& inside,
                             std::uint32_t bit) noexcept {
  float const m = std::fabs(x);
  if (m == middle) { equal += 1.0f; }
  if (m == middle || m > high) { beyond += 1.0f; }
  if (m >= low && m <= high && m != middle) { inside |= bit; }
}

}  // namespace detail::ptx
BRAID_NAMESPACE_END

template <class T>
T __shfl_up_sync(unsigned, T x, unsigned step) {
  return emulated::in_warp(x, [step](auto const& at) { return at(threadIdx.x % 32 < step ? threadIdx.x % 32 : threadIdx.x % 32 - step); });
}
