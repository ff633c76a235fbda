#pragma once

/// How single-model methods meet tensors on the CPU: blocks of channels on all threads, in them segments of all inputs
/// in float32.

#include <braid/backend/cpu.hpp>
#include <braid/backend/cpu/channel_workspace.hpp>

#include <tbb/enumerable_thread_specific.h>

#include <algorithm>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// One thread's memory for a single-model method: a segment of every input, a few rows.
struct method_workspace {
  aligned_floats base;    // [segment]
  aligned_floats models;  // [models, segment]
  aligned_floats mix;     // [segment]
  aligned_floats row;     // [cols]
  std::vector<float> totals;                      // sums of a row, one a model or a pair
  std::vector<double> gram;                       // of a row
  std::vector<double> terms;                      // [2, cols], where a row is measured in float64
  std::vector<std::vector<std::uint32_t>> ranks;  // per model, [cols]
  std::vector<magnitude_cut> cuts;                // per model, in the row
  row_workspace select;
  std::vector<std::byte> gathered;
};

/// What the inputs of a segment are.
enum class operand : unsigned char {
  values,  ///< the models' elements
  deltas   ///< their differences from the base
};

/// Loads columns c .. c + n of a row: the base (where there is one) to `work.base`, model i to `work.models + i * segment`.
inline void load_segment(channel_block const& block, index_t row, index_t c, int n, operand what, method_workspace& work) {
  float* const base = work.base.fit(sum_order::segment);
  float* const models = work.models.fit(std::max<std::size_t>(block.experts.size(), 1) * sum_order::segment);
  if (block.base.data != nullptr) { widen(block.base.type, at_column(block.base.row(row), block.base.type, c), base, n); }
  for (std::size_t i = 0; i < block.experts.size(); ++i) {
    channel_rows const& model = block.experts[i];
    std::byte const* const from = at_column(model.row(row), model.type, c);
    float* const to = models + i * sum_order::segment;
    if (what == operand::deltas) {
      subtract_base(model.type, from, base, to, n);
    } else {
      widen(model.type, from, to, n);
    }
  }
}

/// The first column of a run that is NaN or infinite, -1 where there is none.
inline int find_nonfinite(float const* x, int n) {
  bool found = false;
  dispatch<nonfinite_body>(x, n, &found);
  for (int i = 0; found && i < n; ++i) {
    if ((bits_as<std::uint32_t>(x[i]) & 0x7F800000u) == 0x7F800000u) { return i; }
  }
  return -1;
}

/// Throws `nonfinite_found` where a loaded segment has NaN or infinity: an input's own, or a delta too large for float32.
inline void check_segment(channel_block const& block, index_t row, index_t c, int n, method_workspace& work) {
  index_t const channel = block.first + row;
  if (block.base.data != nullptr) {
    float const* const base = work.base.fit(sum_order::segment);
    int const at = find_nonfinite(base, n);
    if (at >= 0) { throw nonfinite_found{{-1, channel, c + at, base[at]}}; }
  }
  float const* const models = work.models.fit(sum_order::segment);
  for (std::size_t i = 0; i < block.experts.size(); ++i) {
    int const at = find_nonfinite(models + i * sum_order::segment, n);
    if (at < 0) { continue; }
    channel_rows const& model = block.experts[i];
    float value = 0.0f;
    widen(model.type, at_column(model.row(row), model.type, c + at), &value, 1);
    throw nonfinite_found{{static_cast<int>(i), channel, c + at, value}};
  }
}

/// Both, unless NaN and infinity are merged as they are.
inline void load_checked_segment(channel_block const& block, index_t row, index_t c, int n, operand what, bool allow_nonfinite,
                                 method_workspace& work) {
  load_segment(block, row, c, n, what, work);
  if (!allow_nonfinite) { check_segment(block, row, c, n, work); }
}

/// to = round(x), in the storage type.
template <class T>
struct store_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, T* to, int count) noexcept {
    int c = 0;
    if constexpr (lane_codec<T, W>::vectorised) {
      for (; c + W <= count; c += W) {
        typename wide<W>::f32 const lanes = *reinterpret_cast<typename wide<W>::f32_memory const*>(x + c);
        lane_codec<T, W>::store(lanes, to + c);
      }
    }
    for (; c < count; ++c) { to[c] = T(x[c]); }
  }
};

inline void store_rounded(dtype t, float const* x, std::byte* to, int count) {
  visit_dtype(t, [&]<class T>(T*) { dispatch<store_body<T>>(x, reinterpret_cast<T*>(to), count); });
}

/// Address of column c of row `row` in packed rows.
inline std::byte* out_column(std::byte* out, dtype type, index_t cols, index_t row, index_t c) noexcept {
  return out + static_cast<std::size_t>(row * cols + c) * size_of(type);
}

/// out[c] = (sum over i of coefficient[i] * x[i][c]) / divisor, products and sums rounded separately, from the left. The sum
/// begins at +0 (so that it is never -0) where `from_zero` says so, else with the first product.
struct combine_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, int n, int count, float const* coefficient, bool from_zero, float divisor,
                                      float* out) noexcept {
    float const first = coefficient[0];
    for (int c = 0; c < count; ++c) { out[c] = x[c] * first; }
    if (from_zero) {
      for (int c = 0; c < count; ++c) { out[c] = 0.0f + out[c]; }
    }
    for (int i = 1; i < n; ++i) {
      float const* const row = x + i * segment_stride;
      float const k = coefficient[i];
      for (int c = 0; c < count; ++c) { out[c] = out[c] + row[c] * k; }
    }
    if (divisor != 1.0f) {
      for (int c = 0; c < count; ++c) { out[c] = out[c] / divisor; }
    }
  }
};

/// x * y + z with one rounding, whether or not the machine has an instruction for it. The product is exact in float64; its
/// sum with z is rounded to odd there, so that rounding it again to float32 is as if it were the only rounding (Boldo and
/// Melquiond, "Emulation of FMA and correctly rounded sums", IEEE Trans. Computers 57, 2008).
BRAID_ALWAYS_INLINE float fused_multiply_add(float x, float y, float z) noexcept {
  double const product = static_cast<double>(x) * static_cast<double>(y);
  double const other = static_cast<double>(z);
  double const sum = product + other;
  double const part = sum - product;
  double const error = (product - (sum - part)) + (other - part);  // exact
  std::uint64_t bits = bits_as<std::uint64_t>(sum);
  std::uint64_t const step = (error > 0.0) == (sum > 0.0) ? 1u : ~std::uint64_t{0};
  bool const to_neighbour = (error > 0.0 || error < 0.0) && (bits & 1u) == 0;
  bits += to_neighbour ? step : 0u;
  return static_cast<float>(bits_as<double>(bits));
}

/// The same as `combine_body` from zero, with each product added unrounded. `Hardware`: with the machine's instruction.
template <bool Hardware>
struct fused_combine_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, int n, int count, float const* coefficient, float divisor, float* out) noexcept {
    for (int c = 0; c < count; ++c) { out[c] = 0.0f; }
    for (int i = 0; i < n; ++i) {
      float const* const row = x + i * segment_stride;
      float const k = coefficient[i];
      for (int c = 0; c < count; ++c) {
        out[c] = Hardware ? __builtin_fmaf(row[c], k, out[c]) : fused_multiply_add(row[c], k, out[c]);
      }
    }
    if (divisor != 1.0f) {
      for (int c = 0; c < count; ++c) { out[c] = out[c] / divisor; }
    }
  }
};

#if defined(__x86_64__)
template <class Body, class... Args>
__attribute__((noinline, flatten, target("avx2,fma"))) BRAID_STRICT_FP_FUNCTION void run_avx2_fma(Args... args) {
  Body::template run<8>(args...);
}
#endif

/// Runs `fused_combine_body` with the machine's own instruction where it has one (every machine with AVX-512 does), else
/// emulated: the same bits.
inline void fused_combine(float const* x, int n, int count, float const* coefficient, float divisor, float* out) {
#if defined(__x86_64__)
  static bool const fma = __builtin_cpu_supports("fma") != 0;
  simd_level const level = active_simd_level();
  if (level == simd_level::avx512) {
    run_avx512<fused_combine_body<true>>(x, n, count, coefficient, divisor, out);
  } else if (level == simd_level::avx2 && fma) {
    run_avx2_fma<fused_combine_body<true>>(x, n, count, coefficient, divisor, out);
  } else {
    run_portable<fused_combine_body<false>>(x, n, count, coefficient, divisor, out);
  }
#else
  run_portable<fused_combine_body<false>>(x, n, count, coefficient, divisor, out);
#endif
}

/// Adds the sum of |x| over a padded segment to `*total`, in the one order of sums.
struct absolute_sum_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, int count, float* total) noexcept {
    float lane[sum_order::lanes] = {};
    for (int c = 0; c < count; c += sum_order::lanes) {
      BRAID_VECTORISE
      for (int l = 0; l < sum_order::lanes; ++l) {
        lane[l] = lane[l] + bits_as<float>(bits_as<std::uint32_t>(x[c + l]) & 0x7FFFFFFFu);
      }
    }
    *total = *total + sum_order::fold(lane);
  }
};

}  // namespace detail

namespace ops {

template <>
struct tensor_blocks<cpu> {
  using workspace = detail::method_workspace;

  /// Calls `f(block number, block, workspace)` for every block of `rows` channels, on all threads.
  template <class F>
  static void for_each(cpu const& be, tensor_channels const& tensor, index_t rows, F const& f) {
    index_t const blocks = (tensor.channels + rows - 1) / rows;
    tbb::enumerable_thread_specific<workspace> workspaces;
    be.for_each(blocks, [&](index_t b) {
      workspace& work = workspaces.local();
      index_t const first = b * rows;
      f(b, tensor.block(first, std::min(rows, tensor.channels - first), work.gathered), work);
    });
  }

  /// Throws `nonfinite_found` where `rows` packed rows hold NaN or infinity.
  static void check_rows(std::byte const* data, dtype type, index_t first, index_t rows, index_t cols, workspace& work) {
    float* const x = work.mix.fit(sum_order::segment);
    for (index_t r = 0; r < rows; ++r) {
      detail::for_each_segment(cols, [&](index_t c, int n) {
        detail::widen(type, data + static_cast<std::size_t>(r * cols + c) * size_of(type), x, n);
        int const at = detail::find_nonfinite(x, n);
        if (at >= 0) { throw detail::nonfinite_found{{-1, first + r, c + at, x[at]}}; }
      });
    }
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
