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

  __device__ std::byte* segment(int model, int s) const noexcept {
    return shared + static_cast<std::uint32_t>(model) * plan.model_bytes + static_cast<std::uint32_t>(s) * plan.segment_bytes;
  }
  __device__ index_t column(int s) const noexcept { return static_cast<index_t>(first_segment + s) * sum_order::segment; }

  /// Columns of a segment that the row has.
  __device__ int width(int s) const noexcept {
    index_t const left = cols - column(s);
    return static_cast<int>(left < sum_order::segment ? left : sum_order::segment);
  }

  /// Starts copying one segment of a row in, for one thread; the row begins and ends on 16 bytes.
  __device__ void copy_in(int model, int s, std::byte const* row, std::uint64_t* barrier) const noexcept {
    ptx::copy_in(segment(model, s), row + column(s) * static_cast<index_t>(sizeof(T)), static_cast<std::uint32_t>(width(s)) * sizeof(T), barrier);
  }

  /// Zeros behind the row's end.
  __device__ void clear_end(int model) const noexcept {
    int const s = own - 1;
    for (int c = width(s) + static_cast<int>(threadIdx.x); c < sum_order::segment; c += static_cast<int>(blockDim.x)) {
      reinterpret_cast<T*>(segment(model, s))[c] = T{};
    }
  }

  /// The same for rows that lie anywhere, by all threads.
  __device__ void load(int model, std::byte const* row) const noexcept {
    auto const* const from = reinterpret_cast<T const*>(row);
    for (int i = static_cast<int>(threadIdx.x); i < own * sum_order::segment; i += static_cast<int>(blockDim.x)) {
      int const s = i / sum_order::segment;
      int const c = i % sum_order::segment;
      reinterpret_cast<T*>(segment(model, s))[c] = c < width(s) ? from[column(s) + c] : T{};
    }
  }
  __device__ void store(int model, std::byte* row) const noexcept {
    auto* const to = reinterpret_cast<T*>(row);
    for (int i = static_cast<int>(threadIdx.x); i < own * sum_order::segment; i += static_cast<int>(blockDim.x)) {
      int const s = i / sum_order::segment;
      int const c = i % sum_order::segment;
      if (c < width(s)) { to[column(s) + c] = reinterpret_cast<T const*>(segment(model, s))[c]; }
    }
  }

  /// The same 16 bytes at a time, for rows that begin and end on 16 bytes.
  __device__ void load_pieces(int model, std::byte const* row) const noexcept {
    for_each_piece([&](int s, int at, index_t from) {
      *reinterpret_cast<piece*>(segment(model, s) + at) = *reinterpret_cast<piece const*>(row + from);
    });
    clear_end(model);
  }
  __device__ void store_pieces(int model, std::byte* row) const noexcept {
    for_each_piece([&](int s, int at, index_t to) {
      *reinterpret_cast<piece*>(row + to) = *reinterpret_cast<piece const*>(segment(model, s) + at);
    });
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

 private:
  struct alignas(16) piece {
    std::uint32_t word[4];
  };

  /// Calls `f(segment, bytes into it, bytes into the row)` for this thread's pieces.
  template <class F>
  __device__ void for_each_piece(F const& f) const noexcept {
    constexpr int step = static_cast<int>(sizeof(piece));
    constexpr int pieces = segment_words * 4 / step;
    for (int i = static_cast<int>(threadIdx.x); i < own * pieces; i += static_cast<int>(blockDim.x)) {
      int const s = i / pieces;
      int const at = i % pieces * step;
      if (at < width(s) * static_cast<int>(sizeof(T))) { f(s, at, column(s) * static_cast<index_t>(sizeof(T)) + at); }
    }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
