#pragma once

/// In place of the header of that name: the same on the host.

#include <braid/backend/cuda/kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

template <class F>
std::uint32_t for_halves(std::uint32_t a, std::uint32_t b, F const& f) noexcept {
  auto const half = [&f](std::uint32_t x, std::uint32_t y) { return static_cast<std::uint32_t>(f(x, y)) & 0xFFFFu; };
  return half(a & 0xFFFFu, b & 0xFFFFu) | half(a >> 16, b >> 16) << 16;
}
inline std::uint32_t bf16_distances(std::uint32_t a, std::uint32_t b) noexcept {
  return for_halves(a, b, [](std::uint32_t x, std::uint32_t y) {
    float const difference = std::bit_cast<float>(x << 16) - std::bit_cast<float>(y << 16);
    return bfloat16(difference).bits & 0x7FFFu;
  });
}
inline std::uint32_t larger_halves(std::uint32_t a, std::uint32_t b) noexcept {
  return for_halves(a, b, [](std::uint32_t x, std::uint32_t y) { return x > y ? x : y; });
}
inline std::uint32_t less_one_or_smaller(std::uint32_t a, std::uint32_t b) noexcept {
  return for_halves(a, b, [](std::uint32_t x, std::uint32_t y) {
    std::uint32_t const less = (x - 1u) & 0xFFFFu;
    return less < y ? less : y;
  });
}
inline std::int32_t add_from_zero(std::int32_t a, std::int32_t b) noexcept { return a + b > 0 ? a + b : 0; }

}  // namespace detail::ptx
BRAID_NAMESPACE_END
