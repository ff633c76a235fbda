#pragma once

/// In place of the header of that name: the same products, summed column by column.

#include <braid/backend/cuda/kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

inline void load_matrices(std::uint32_t (&out)[4], void const* row) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) { std::abort(); }
  emulated::in_warp(row, [&out](auto const& at) {
    unsigned const lane = threadIdx.x % 32;
    for (unsigned m = 0; m < 4; ++m) {
      std::memcpy(&out[m], static_cast<std::byte const*>(at(m * 8 + lane / 4)) + lane % 4 * 4, 4);
    }
    return 0;
  });
}

template <class T>
void multiply_16x8x16(float (&sum)[4], std::uint32_t const (&w)[4], std::uint32_t x_upper, std::uint32_t x_lower) {
  auto const part = [](std::uint32_t word, unsigned k) {
    return static_cast<float>(T::from_bits(static_cast<std::uint16_t>(word >> (k % 2 * 16))));
  };
  // What the threads have, exchanged a word at a time: [row or column of 16][k].
  float left[16][16];
  float right[8][16];
  auto const share = [](std::uint32_t word, auto const& place) {
    emulated::in_warp(word, [&place](auto const& at) {
      for (unsigned lane = 0; lane < 32; ++lane) { place(lane, at(lane)); }
      return 0;
    });
  };
  for (unsigned q = 0; q < 4; ++q) {
    share(w[q], [&](unsigned lane, std::uint32_t word) {
      for (unsigned k = 0; k < 2; ++k) { left[lane / 4 + q % 2 * 8][lane % 4 * 2 + k + q / 2 * 8] = part(word, k); }
    });
  }
  for (unsigned half = 0; half < 2; ++half) {
    share(half == 0 ? x_upper : x_lower, [&](unsigned lane, std::uint32_t word) {
      for (unsigned k = 0; k < 2; ++k) { right[lane / 4][lane % 4 * 2 + k + half * 8] = part(word, k); }
    });
  }
  unsigned const lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i) {
    for (unsigned k = 0; k < 16; ++k) { sum[i] += left[lane / 4 + i / 2 * 8][k] * right[lane % 4 * 2 + i % 2][k]; }
  }
}

}  // namespace detail::ptx
BRAID_NAMESPACE_END
