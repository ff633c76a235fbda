#pragma once

/// The rows of one channel in shared memory: in, compared, and out again.

#include <braid/backend/cuda/lane_codec.cuh>
#include <braid/backend/cuda/tile_plan.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One model's rows of a tensor as kernels see them.
struct device_rows {
  std::byte const* data = nullptr;
  index_t stride = 0;  // bytes
};

/// A block's share of a channel.
template <class T>
struct row_tile {
  std::byte* shared;
  tile_plan const& plan;
  index_t cols;
  int first_segment;
  int own;

  static constexpr int segment_words = sum_order::segment * static_cast<int>(sizeof(T)) / 4;
  static constexpr int segment_pieces = segment_words / 4;  // of 16 bytes
  static constexpr int piece = 16 / static_cast<int>(sizeof(T));

  __device__ std::byte* segment(int model, int s) const noexcept {
    return shared + static_cast<std::uint32_t>(model) * plan.model_bytes + static_cast<std::uint32_t>(s) * plan.segment_bytes;
  }
  __device__ index_t column(int s) const noexcept { return static_cast<index_t>(first_segment + s) * sum_order::segment; }

  /// Starts copying a row in; elements beyond its end become zero.
  __device__ void load(int model, std::byte const* row) const noexcept {
    auto const* const from = reinterpret_cast<T const*>(row);
    bool const aligned = (reinterpret_cast<std::uintptr_t>(row) & 15u) == 0;
    for (int i = static_cast<int>(threadIdx.x); i < own * segment_pieces; i += static_cast<int>(blockDim.x)) {
      int const s = i / segment_pieces;
      int const q = i % segment_pieces;
      std::byte* const to = segment(model, s) + q * 16;
      index_t const c = column(s) + q * piece;
      if (aligned && c + piece <= cols) {
        ptx::copy_16(to, from + c);
        continue;
      }
      auto* const slot = reinterpret_cast<T*>(to);
#pragma unroll
      for (int k = 0; k < piece; ++k) { slot[k] = c + k < cols ? from[c + k] : T{}; }
    }
  }

  /// Writes a row of the tile to global memory.
  __device__ void store(int model, std::byte* row) const noexcept {
    auto* const to = reinterpret_cast<T*>(row);
    bool const aligned = (reinterpret_cast<std::uintptr_t>(row) & 15u) == 0;
    for (int i = static_cast<int>(threadIdx.x); i < own * segment_pieces; i += static_cast<int>(blockDim.x)) {
      int const s = i / segment_pieces;
      int const q = i % segment_pieces;
      std::byte const* const from = segment(model, s) + q * 16;
      index_t const c = column(s) + q * piece;
      if (aligned && c + piece <= cols) {
        *reinterpret_cast<uint4*>(to + c) = *reinterpret_cast<uint4 const*>(from);
        continue;
      }
      auto const* const slot = reinterpret_cast<T const*>(from);
#pragma unroll
      for (int k = 0; k < piece; ++k) {
        if (c + k < cols) { to[c + k] = slot[k]; }
      }
    }
  }

  /// Whether this thread's part of two rows differs.
  __device__ bool differ(int a, int b) const noexcept {
    for (int i = static_cast<int>(threadIdx.x); i < own * segment_words; i += static_cast<int>(blockDim.x)) {
      int const at = i % segment_words * 4;
      int const s = i / segment_words;
      if (*reinterpret_cast<std::uint32_t const*>(segment(a, s) + at) != *reinterpret_cast<std::uint32_t const*>(segment(b, s) + at)) {
        return true;
      }
    }
    return false;
  }

  /// Whether this thread's part of a row is finite.
  __device__ bool finite(int model) const noexcept {
    for (int i = static_cast<int>(threadIdx.x); i < own * segment_words; i += static_cast<int>(blockDim.x)) {
      if (!word_is_finite<T>(*reinterpret_cast<std::uint32_t const*>(segment(model, i / segment_words) + i % segment_words * 4))) {
        return false;
      }
    }
    return true;
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
