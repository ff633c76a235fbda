#pragma once

/// Eight elements of each input in a thread's registers: what the kernels of single-model methods are made of. Storage types
/// are run-time values, the same for all threads, so that a method's code is compiled once, not once a type.

#include <braid/backend/channel_block.hpp>
#include <braid/backend/cuda/lane_codec.cuh>
#include <braid/backend/cuda/streaming.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int tile_elements = 8;

/// Which columns a thread's eight elements are.
enum class tile_layout : unsigned char {
  together,  ///< eight neighbours: 16 bytes of a 16-bit type
  spread     ///< four pairs of neighbours, 16 columns apart: whole Philox blocks, and two lanes of the one order of sums
};

/// Column of element j, from the tile's first.
template <tile_layout L>
__host__ __device__ constexpr int tile_column(int j) noexcept {
  return L == tile_layout::together ? j : j / 2 * sum_order::lanes + j % 2;
}

/// First column of a row's tile number `t`.
template <tile_layout L>
__host__ __device__ constexpr index_t tile_begin(index_t t) noexcept {
  return L == tile_layout::together ? t * tile_elements : t / tile_elements * 64 + t % tile_elements * 2;
}

/// Tiles of a row.
template <tile_layout L>
constexpr index_t tiles_of(index_t cols) noexcept {
  return L == tile_layout::together ? (cols + tile_elements - 1) / tile_elements : (cols + 63) / 64 * tile_elements;
}

/// Bytes that a tile's address has to be a multiple of, so that it is loaded whole.
template <tile_layout L>
constexpr std::size_t tile_alignment(dtype type) noexcept {
  return L == tile_layout::spread ? 2 * size_of(type) : size_of(type) == 1 ? 8 : 16;
}

/// One input's rows in device memory.
struct device_input {
  std::byte const* data = nullptr;
  index_t stride = 0;  // bytes
  dtype type = dtype::f32;

  device_input() = default;
  explicit device_input(channel_rows const& rows) noexcept : data(rows.data), stride(rows.stride), type(rows.type) {}
};

__device__ inline int bytes_of(dtype type) noexcept { return type == dtype::f32 ? 4 : type == dtype::bf16 || type == dtype::f16 ? 2 : 1; }

/// A tile as it lies in memory: the elements' bytes in order.
struct raw_tile {
  std::uint32_t word[tile_elements];
};

/// Loads a whole tile; `at` is its first element.
template <tile_layout L>
__device__ void load_raw(std::byte const* at, dtype type, raw_tile& tile) noexcept {
  if constexpr (L == tile_layout::together) {
    if (type == dtype::f32) {
      std::uint32_t low[4];
      std::uint32_t high[4];
      ptx::load_once(at, low);
      ptx::load_once(at + 16, high);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        tile.word[k] = low[k];
        tile.word[4 + k] = high[k];
      }
    } else if (type == dtype::bf16 || type == dtype::f16) {
      std::uint32_t all[4];
      ptx::load_once(at, all);
#pragma unroll
      for (int k = 0; k < 4; ++k) { tile.word[k] = all[k]; }
    } else {
      std::uint32_t all[2];
      ptx::load_once(at, all);
      tile.word[0] = all[0];
      tile.word[1] = all[1];
    }
  } else {
    if (type == dtype::f32) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        std::uint32_t pair[2];
        ptx::load_once(at + k * 64, pair);
        tile.word[2 * k] = pair[0];
        tile.word[2 * k + 1] = pair[1];
      }
    } else if (type == dtype::bf16 || type == dtype::f16) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        std::uint32_t pair[1];
        ptx::load_once(at + k * 32, pair);
        tile.word[k] = pair[0];
      }
    } else {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        auto const* const p = reinterpret_cast<std::uint16_t const*>(at + k * 32);
        tile.word[k] = p[0] | static_cast<std::uint32_t>(p[8]) << 16;
      }
    }
  }
}

/// The same element by element, zeros from column `end` on; `at` is the tile's first element, in column `col`.
template <tile_layout L>
__device__ __noinline__ raw_tile load_raw_singly(std::byte const* at, dtype type, index_t col, index_t end) noexcept {
  raw_tile tile;
  for (int k = 0; k < tile_elements; ++k) { tile.word[k] = 0; }
  for (int j = 0; j < tile_elements; ++j) {
    int const c = tile_column<L>(j);
    if (col + c >= end) { continue; }
    if (type == dtype::f32) {
      tile.word[j] = *reinterpret_cast<std::uint32_t const*>(at + 4 * c);
    } else if (type == dtype::bf16 || type == dtype::f16) {
      tile.word[j / 2] |= static_cast<std::uint32_t>(*reinterpret_cast<std::uint16_t const*>(at + 2 * c)) << (j % 2 * 16);
    } else {
      tile.word[j / 4] |= static_cast<std::uint32_t>(*reinterpret_cast<std::uint8_t const*>(at + c)) << (j % 4 * 8);
    }
  }
  return tile;
}

/// Not inlined: its code is long, and such inputs are rare.
__device__ __noinline__ inline float widen_byte(dtype type, std::uint32_t bits) noexcept {
  auto const b = static_cast<std::uint8_t>(bits);
  return type == dtype::f8_e4m3 ? static_cast<float>(float8_e4m3::from_bits(b)) : static_cast<float>(float8_e5m2::from_bits(b));
}
__device__ __noinline__ inline std::uint32_t narrow_byte(dtype type, float x) noexcept {
  return type == dtype::f8_e4m3 ? float8_e4m3(x).bits : float8_e5m2(x).bits;
}

__device__ inline void widen_tile(raw_tile const& tile, dtype type, float (&x)[tile_elements]) noexcept {
  if (type == dtype::bf16) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      x[2 * k] = __uint_as_float(tile.word[k] << 16);
      x[2 * k + 1] = __uint_as_float(tile.word[k] & 0xFFFF0000u);
    }
  } else if (type == dtype::f32) {
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { x[j] = __uint_as_float(tile.word[j]); }
  } else if (type == dtype::f16) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      x[2 * k] = ptx::from_f16(static_cast<std::uint16_t>(tile.word[k]));
      x[2 * k + 1] = ptx::from_f16(static_cast<std::uint16_t>(tile.word[k] >> 16));
    }
  } else {
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { x[j] = widen_byte(type, tile.word[j / 4] >> (j % 4 * 8)); }
  }
}

__device__ inline void narrow_tile(float const (&x)[tile_elements], dtype type, raw_tile& tile) noexcept {
  if (type == dtype::bf16) {
#pragma unroll
    for (int k = 0; k < 4; ++k) { tile.word[k] = ptx::to_bf16_pair(x[2 * k], x[2 * k + 1]); }
  } else if (type == dtype::f32) {
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { tile.word[j] = __float_as_uint(x[j]); }
  } else if (type == dtype::f16) {
#pragma unroll
    for (int k = 0; k < 4; ++k) { tile.word[k] = ptx::to_f16_pair(x[2 * k], x[2 * k + 1]); }
  } else {
    tile.word[0] = 0;
    tile.word[1] = 0;
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { tile.word[j / 4] |= narrow_byte(type, x[j]) << (j % 4 * 8); }
  }
}

template <tile_layout L>
__device__ void store_raw(raw_tile const& tile, dtype type, std::byte* at) noexcept {
  if constexpr (L == tile_layout::together) {
    if (type == dtype::f32) {
      std::uint32_t low[4];
      std::uint32_t high[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        low[k] = tile.word[k];
        high[k] = tile.word[4 + k];
      }
      ptx::store_once(at, low);
      ptx::store_once(at + 16, high);
    } else if (type == dtype::bf16 || type == dtype::f16) {
      std::uint32_t all[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) { all[k] = tile.word[k]; }
      ptx::store_once(at, all);
    } else {
      std::uint32_t const all[2] = {tile.word[0], tile.word[1]};
      ptx::store_once(at, all);
    }
  } else {
    if (type == dtype::f32) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        std::uint32_t const pair[2] = {tile.word[2 * k], tile.word[2 * k + 1]};
        ptx::store_once(at + k * 64, pair);
      }
    } else if (type == dtype::bf16 || type == dtype::f16) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        std::uint32_t const pair[1] = {tile.word[k]};
        ptx::store_once(at + k * 32, pair);
      }
    } else {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        auto* const p = reinterpret_cast<std::uint16_t*>(at + k * 32);
        p[0] = static_cast<std::uint16_t>(tile.word[k]);
        p[8] = static_cast<std::uint16_t>(tile.word[k] >> 16);
      }
    }
  }
}

template <tile_layout L>
__device__ __noinline__ void store_raw_singly(raw_tile const tile, dtype type, std::byte* at, index_t col, index_t end) noexcept {
  for (int j = 0; j < tile_elements; ++j) {
    int const c = tile_column<L>(j);
    if (col + c >= end) { continue; }
    if (type == dtype::f32) {
      *reinterpret_cast<std::uint32_t*>(at + 4 * c) = tile.word[j];
    } else if (type == dtype::bf16 || type == dtype::f16) {
      *reinterpret_cast<std::uint16_t*>(at + 2 * c) = static_cast<std::uint16_t>(tile.word[j / 2] >> (j % 2 * 16));
    } else {
      *reinterpret_cast<std::uint8_t*>(at + c) = static_cast<std::uint8_t>(tile.word[j / 4] >> (j % 4 * 8));
    }
  }
}

/// One element.
__device__ inline float widen_element(std::byte const* at, dtype type) noexcept {
  switch (type) {
    case dtype::bf16: return __uint_as_float(static_cast<std::uint32_t>(*reinterpret_cast<std::uint16_t const*>(at)) << 16);
    case dtype::f16: return ptx::from_f16(*reinterpret_cast<std::uint16_t const*>(at));
    case dtype::f32: return *reinterpret_cast<float const*>(at);
    default: return widen_byte(type, *reinterpret_cast<std::uint8_t const*>(at));
  }
}
__device__ inline void narrow_element(float x, std::byte* at, dtype type) noexcept {
  switch (type) {
    case dtype::bf16: *reinterpret_cast<std::uint16_t*>(at) = static_cast<std::uint16_t>(ptx::to_bf16_pair(x, 0.0f)); break;
    case dtype::f16: *reinterpret_cast<std::uint16_t*>(at) = static_cast<std::uint16_t>(ptx::to_f16_pair(x, 0.0f)); break;
    case dtype::f32: *reinterpret_cast<float*>(at) = x; break;
    default: *reinterpret_cast<std::uint8_t*>(at) = static_cast<std::uint8_t>(narrow_byte(type, x)); break;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
