#pragma once

/// Divergences of rows for Arcee Fusion. A sum over a row, from the left, is one thread's chain of additions; so a block takes
/// several rows, most of its warps compute the terms of the next columns, and one or two add the last ones', a thread a row.

#include <braid/backend/cuda/element_inputs.cuh>
#include <braid/core/detail/elementary.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr int divergence_rows = 16;     // of a block; two blocks fit a multiprocessor
inline constexpr int divergence_columns = 64;  // whose terms are computed between two barriers
inline constexpr int divergence_warps = 16;    // that compute
inline constexpr int divergence_threads = 32 * (divergence_warps + 2);

struct divergence_room {
  double term[2][2][divergence_columns][divergence_rows + 1];  // in turn; of the model and of the base
  float largest[2][divergence_rows];
  double sum[2][divergence_rows];
  double reciprocal[2][divergence_rows];
};

/// x / divisor with divisor's reciprocal, both correctly rounded, x at most 1 and the divisor 1 or more: as in divide_by_known.
/// Below 2^-900 the remainder may be rounded, so that the quotient's last bit differs; nothing that is added to 1e-8 shows it.
__device__ inline double divide_exponential(double x, double divisor, double reciprocal) noexcept {
  double quotient = x * reciprocal;
  quotient = ptx::fused(ptx::fused(-quotient, divisor, x), reciprocal, quotient);
  return ptx::fused(ptx::fused(-quotient, divisor, x), reciprocal, quotient);
}

/// divergence[row] of each row of `rows`: a block takes `divergence_rows` of them.
[[maybe_unused]] BRAID_KERNEL void __launch_bounds__(divergence_threads)
divergence_kernel(device_input model, device_input base, index_t rows, index_t cols, float* divergence) {
  BRAID_BLOCK_MEMORY(memory);
  auto& own = *reinterpret_cast<divergence_room*>(memory);
  index_t const first = static_cast<index_t>(blockIdx.x) * divergence_rows;
  int const here = rows - first < divergence_rows ? static_cast<int>(rows - first) : divergence_rows;
  auto const warp = static_cast<int>(threadIdx.x / 32);
  auto const lane = static_cast<int>(threadIdx.x % 32);
  bool const computes = warp < divergence_warps;
  int const adds = warp - divergence_warps;  // the model, the base
  int const row_added = lane % divergence_rows;
  constexpr int turns = 2 * divergence_rows / divergence_warps;
  constexpr int of_input = turns / 2;
  // Row and input of a warp's turn: first the model's.
  auto const row_of = [warp](int turn) { return warp + turn % of_input * divergence_warps; };
  auto const at = [&](int m, int row, index_t c) {
    device_input const input = m == 0 ? model : base;
    return widen_element(input.data + (first + row) * input.stride + c * bytes_of(input.type), input.type);
  };

  if (computes) {
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      int const m = turn / of_input;
      int const row = row_of(turn);
      float most = -HUGE_VALF;
      if (row < here) {
#pragma unroll 8
        for (index_t c = lane; c < cols; c += 32) {
          float const x = at(m, row, c);
          most = x > most ? x : most;
        }
      }
#pragma unroll
      for (int step = 16; step > 0; step /= 2) {
        float const other = __shfl_xor_sync(0xFFFFFFFFu, most, step);
        most = other > most ? other : most;
      }
      if (lane == 0) { own.largest[m][row] = most; }
    }
  }
  __syncthreads();

  float x[turns][2];
  auto const bring = [&](index_t from) {
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        index_t const c = from + lane + 32 * k;
        x[turn][k] = row_of(turn) < here && c < cols ? at(turn / of_input, row_of(turn), c) : 0.0f;
      }
    }
  };
  auto const exponential = [&](int turn, int k) {
    return exp_negative(static_cast<double>(x[turn][k]) - static_cast<double>(own.largest[turn / of_input][row_of(turn)]));
  };
  auto const terms_before = [&](index_t end) { return end < divergence_columns ? static_cast<int>(end) : divergence_columns; };

  index_t const steps = (cols + divergence_columns - 1) / divergence_columns;
  double sum = 0.0;
  if (computes) { bring(0); }
#pragma unroll 1
  for (index_t step = 0; step <= steps; ++step) {
    if (computes && step < steps) {
#pragma unroll
      for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
        for (int k = 0; k < 2; ++k) { own.term[step % 2][turn / of_input][lane + 32 * k][row_of(turn)] = exponential(turn, k); }
      }
      bring((step + 1) * divergence_columns);
    } else if (!computes && step > 0) {
      auto const& term = own.term[(step - 1) % 2][adds];
      int const count = terms_before(cols - (step - 1) * divergence_columns);
#pragma unroll 8
      for (int c = 0; c < count; ++c) { sum = sum + term[c][row_added]; }
    }
    __syncthreads();
  }
  if (!computes) {
    own.sum[adds][row_added] = sum;  // the same from all threads of a row
    own.reciprocal[adds][row_added] = 1.0 / sum;
  }
  __syncthreads();

  sum = 0.0;
  if (computes) { bring(0); }
#pragma unroll 1
  for (index_t step = 0; step <= steps; ++step) {
    if (computes && step < steps) {
#pragma unroll
      for (int turn = 0; turn < of_input; ++turn) {
        int const row = row_of(turn);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          double const a = divide_exponential(exponential(turn, k), own.sum[0][row], own.reciprocal[0][row]) + 1e-8;
          double const b = divide_exponential(exponential(turn + of_input, k), own.sum[1][row], own.reciprocal[1][row]) + 1e-8;
          own.term[step % 2][0][lane + 32 * k][row] = a * log_positive(a / b);
        }
      }
      bring((step + 1) * divergence_columns);
    } else if (adds == 0 && step > 0) {
      auto const& term = own.term[(step - 1) % 2][0];
      int const count = terms_before(cols - (step - 1) * divergence_columns);
#pragma unroll 8
      for (int c = 0; c < count; ++c) { sum = sum + term[c][row_added]; }
    }
    __syncthreads();
  }
  if (adds == 0 && lane < here) { divergence[first + lane] = sum > 0.0 ? static_cast<float>(sum) : 0.0f; }
}

}  // namespace detail
BRAID_NAMESPACE_END
