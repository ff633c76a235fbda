#pragma once

/// The codes of signs and of three values on a device: how a block finds a row's scales, codes an element, and packs a row.

#include <braid/backend/cuda/residual_row.cuh>
#include <braid/residual/code.hpp>
#include <braid/residual/detail/magnitude_sums.hpp>
#include <braid/residual/detail/sign_scales.hpp>
#include <braid/residual/ternary.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What a search for scales has found.
struct found_scales {
  float scale[3];  // as they are stored
  float limit[3];  // thresholds
};

/// Bits of a thread's chunk, a byte a plane, in a block's memory.
template <int Planes>
struct chunk_bits {
  std::uint8_t of[Planes];

  __device__ static std::uint8_t* place(std::byte* states, residual_row const& row, int chunk, int plane) noexcept {
    return reinterpret_cast<std::uint8_t*>(states) + (chunk * Planes + plane) * row.shape.threads + residual_row::thread();
  }
  __device__ void load(std::byte* states, residual_row const& row, int chunk) noexcept {
#pragma unroll
    for (int p = 0; p < Planes; ++p) { of[p] = *place(states, row, chunk, p); }
  }
  __device__ void store(std::byte* states, residual_row const& row, int chunk) const noexcept {
#pragma unroll
    for (int p = 0; p < Planes; ++p) { *place(states, row, chunk, p) = of[p]; }
  }
  __device__ void clear() noexcept {
#pragma unroll
    for (int p = 0; p < Planes; ++p) { of[p] = 0; }
  }
  __device__ void set(int plane, int i, bool bit) noexcept { of[plane] = static_cast<std::uint8_t>(of[plane] | (bit ? 1u : 0u) << i); }
  __device__ bool get(int plane, int i) const noexcept { return (of[plane] >> i & 1u) != 0; }
};

/// Writes a bit of each column, the first in the lowest place of the first byte. `bits(chunk)` are this thread's eight, zeros
/// behind the row's end. By all threads.
/// @param plane [ceil(cols / 8)]
template <class Bits>
__device__ void write_plane(residual_row const& row, Bits const& bits, std::byte* plane) {
  int const bytes = (row.shape.cols + 7) / 8;
  int const chunks = row.shape.chunks();
  int const lane = residual_row::lane();
  for (int q = 0; q < chunks; ++q) {
    int const first = row.first_column(q);
    unsigned const mine = first < row.shape.cols ? bits(q) : 0u;
    unsigned word = 0;
#pragma unroll
    for (int i = 0; i < chunk_columns; ++i) {
      unsigned const votes = __ballot_sync(0xFFFFFFFFu, (mine >> i & 1u) != 0);
      if (lane == i) { word = (threadIdx.x & 16u) != 0 ? votes >> 16 : votes & 0xFFFFu; }
    }
    int const at = (first - lane + sum_order::lanes * lane) / 8;
    if (lane < chunk_columns) {
      if (at < bytes) { plane[at] = static_cast<std::byte>(word & 255u); }
      if (at + 1 < bytes) { plane[at + 1] = static_cast<std::byte>(word >> 8); }
    }
  }
}

/// Adds a column to the sums above thresholds: of weight times size, and of weights. An infinite weight makes NaN of what is
/// below, as on the CPU (sums_above_body).
template <int Sums>
__device__ void add_above(float size, float h, float const* limit, float (&sum)[Sums]) noexcept {
#pragma unroll
  for (int t = 0; t < Sums / 2; ++t) {
    bool const is_above = size > limit[t];
    sum[2 * t] = sum[2 * t] + h * (is_above ? size : 0.0f);
    sum[2 * t + 1] = sum[2 * t + 1] + h * (is_above ? 1.0f : 0.0f);
  }
}

/// Planes of signs. A coder's `first_term` and `find` are what the sums of a row are made of, and the scales that follow;
/// `code` codes an element.
template <int B>
struct sign_coder {
  static constexpr residual_code code_number = B == 1 ? residual_code::sign1 : B == 2 ? residual_code::sign2 : residual_code::sign3;
  static constexpr int scales = B;
  static constexpr int state_bytes = B;   // of a thread's chunk
  static constexpr bool searches = false;  // whether `find` finds the codes as well
  static constexpr bool has_gaps = B > 1;  // see residual_group
  using chunk = chunk_bits<B>;

  __device__ static float first_term(float x) noexcept { return size_of_float(x); }

  /// @param x    the row's slots
  /// @param all  sums of the weighted first terms, and of the weights
  template <class Arguments>
  __device__ static void find(residual_row& row, Arguments const&, float const* x, residual_weight const& weight, float const (&all)[2],
                              std::byte*, found_scales& found) {
    sign_scales<B> s{};
    float const mean = all[1] > 0.0f ? all[0] / all[1] : 0.0f;
    if constexpr (B == 1) {
      s[0] = mean;
    } else {
      s.begin(mean);
      for (int attempt = 0; attempt < 2; ++attempt) {
        if (attempt == 1) { greedy(row, x, weight, mean, s); }
        if (refine(row, x, weight, all, s)) { break; }
      }
    }
    for (int p = 0; p < B; ++p) {
      s[p] = static_cast<float>(stored_scale(s[p]));
      found.scale[p] = s[p];
    }
    s.thresholds(found.limit);
  }

  __device__ static void code(float x, int i, found_scales const& found, chunk& to) noexcept {
    bool const minus = x < 0.0f;
    to.set(0, i, minus);
    if constexpr (B > 1) {
      float const size = size_of_float(x);
      bool const upper = size > found.limit[B == 2 ? 0 : 1];
      to.set(1, i, !upper != minus);
      if constexpr (B > 2) {
        bool const second = size > found.limit[upper ? 2 : 0];
        to.set(2, i, !second != minus);
      }
    }
  }

  template <class Arguments>
  __device__ static float value(Arguments const&, chunk const& from, int i, float const* scale) noexcept {
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < B; ++p) {
      float const term = from.get(p, i) ? -scale[p] : scale[p];
      sum = p == 0 ? term : sum + term;
    }
    return sum;
  }

  /// @param room  for a barrier's sake: what other threads may have to see
  __device__ static void write(residual_row const& row, std::byte* states, std::byte* plane, std::byte*) {
    int const stride = (row.shape.cols + 7) / 8;
#pragma unroll
    for (int p = 0; p < B; ++p) {
      write_plane(row, [&](int q) { return static_cast<unsigned>(*chunk::place(states, row, q, p)); }, plane + static_cast<index_t>(p) * stride);
    }
  }

 private:
  __device__ static bool refine(residual_row& row, float const* x, residual_weight const& weight, float const (&all)[2], sign_scales<B>& s) {
    constexpr int thresholds = sign_scales<B>::classes - 1;
    for (int round = 0; round < sign_scales<B>::rounds; ++round) {
      float limit[3]{};
      float above[2 * thresholds];
      s.thresholds(limit);
      row.sums<2 * thresholds>([&](int q, int first, float (&sum)[2 * thresholds]) {
#pragma unroll
        for (int i = 0; i < chunk_columns; ++i) {
          int const c = first + sum_order::lanes * i;
          if (c >= row.shape.cols) { continue; }
          float const v = x[row.slot(q, i)];
          add_above(size_of_float(v), weight(c, v), limit, sum);
        }
      }, above);
      if (!s.solve(all[0], all[1], above)) { return round > 0; }
    }
    return true;
  }

  __device__ static void greedy(residual_row& row, float const* x, residual_weight const& weight, float mean, sign_scales<B>& s) {
    s[0] = mean;
    for (int pass = 1; pass < B; ++pass) {
      float all[2];
      row.sums<2>([&](int q, int first, float (&sum)[2]) {
#pragma unroll
        for (int i = 0; i < chunk_columns; ++i) {
          int const c = first + sum_order::lanes * i;
          if (c >= row.shape.cols) { continue; }
          float const v = x[row.slot(q, i)];
          float const h = weight(c, v);
          float left = v;
          for (int p = 0; p < pass; ++p) { left = size_of_float(left) - s[p]; }
          sum[0] = sum[0] + h * size_of_float(left);
          sum[1] = sum[1] + h;
        }
      }, all);
      if (!weight.weighted()) { all[1] = static_cast<float>(row.shape.cols); }
      s[pass] = all[1] > 0.0f ? all[0] / all[1] : 0.0f;
    }
  }
};

/// Minus, zero, plus: one plane says where it isn't zero, another where it is below.
struct ternary_coder {
  static constexpr residual_code code_number = residual_code::ternary;
  static constexpr int scales = 1;
  static constexpr int state_bytes = 2;
  static constexpr bool searches = false;
  static constexpr bool has_gaps = true;
  using chunk = chunk_bits<2>;

  __device__ static float first_term(float x) noexcept { return size_of_float(x); }

  template <class Arguments>
  __device__ static void find(residual_row& row, Arguments const&, float const* x, residual_weight const& weight, float const (&all)[2],
                              std::byte*, found_scales& found) {
    float threshold = residual::ternary::start * (all[1] > 0.0f ? all[0] / all[1] : 0.0f);
    found.scale[0] = 0.0f;
    for (int round = 0; round < residual::ternary::rounds; ++round) {
      float above[2];
      row.sums<2>([&](int q, int first, float (&sum)[2]) {
#pragma unroll
        for (int i = 0; i < chunk_columns; ++i) {
          int const c = first + sum_order::lanes * i;
          if (c >= row.shape.cols) { continue; }
          float const v = x[row.slot(q, i)];
          add_above(size_of_float(v), weight(c, v), &threshold, sum);
        }
      }, above);
      found.scale[0] = static_cast<float>(stored_scale(above[1] > 0.0f ? above[0] / above[1] : 0.0f));
      threshold = 0.5f * found.scale[0];
    }
    found.limit[0] = threshold;
  }

  __device__ static void code(float x, int i, found_scales const& found, chunk& to) noexcept {
    bool const minus = x < -found.limit[0];
    bool const plus = x > found.limit[0];
    to.set(0, i, minus != plus);
    to.set(1, i, minus && !plus);
  }

  template <class Arguments>
  __device__ static float value(Arguments const&, chunk const& from, int i, float const* scale) noexcept {
    return from.get(0, i) ? (from.get(1, i) ? -scale[0] : scale[0]) : 0.0f;
  }

  /// @param room  [2, ceil(cols / 8)]: of the block
  __device__ static void write(residual_row const& row, std::byte* states, std::byte* plane, std::byte* room) {
    int const stride = (row.shape.cols + 7) / 8;
    __syncthreads();
    for (int p = 0; p < 2; ++p) {
      write_plane(row, [&](int q) { return static_cast<unsigned>(*chunk::place(states, row, q, p)); }, room + p * stride);
    }
    __syncthreads();
    int const bytes = (row.shape.cols + 4) / 5;
    for (int b = residual_row::thread(); b < bytes; b += row.shape.threads) {
      unsigned digits = 0;
      for (int i = 4; i >= 0; --i) {
        int const c = 5 * b + i;
        unsigned digit = 1;
        if (c < row.shape.cols && (static_cast<unsigned>(room[c / 8]) >> (c % 8) & 1u) != 0) {
          digit = (static_cast<unsigned>(room[stride + c / 8]) >> (c % 8) & 1u) != 0 ? 0 : 2;
        }
        digits = 3 * digits + digit;
      }
      plane[b] = static_cast<std::byte>(digits);
    }
    __syncthreads();
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
