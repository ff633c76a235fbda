#pragma once

/// Measures of whole tensors, taken before the merge by the policies that need them. Each is a reduction over blocks
/// of channels whose result doesn't depend on how blocks meet threads.

#include <braid/backend/cpu.hpp>
#include <braid/backend/cpu/channel_workspace.hpp>
#include <braid/backend/cpu/lanes.hpp>

#include <tbb/enumerable_thread_specific.h>

#include <algorithm>
#include <array>
#include <cmath>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Channels in a block of a measure. Part of the definition of `delta_norms`: block sums are added in order.
inline constexpr index_t measure_rows = 256;

/// Of its square; 0 where that isn't finite.
inline double delta_length(double squared) noexcept { return std::isfinite(squared) ? std::sqrt(squared) : 0.0; }

struct measure_workspace {
  channel_workspace rows;
  std::vector<std::byte> gathered;
};

/// Calls `f(block number, block, workspace)` for every block of `most` channels, in parallel.
template <class F>
void for_each_measure_block(cpu const& be, tensor_channels const& tensor, F const& f, index_t most = measure_rows) {
  index_t const blocks = (tensor.channels + most - 1) / most;
  tbb::enumerable_thread_specific<measure_workspace> workspaces;
  be.for_each(blocks, [&](index_t b) {
    index_t const first = b * most;
    index_t const rows = tensor.channels - first < most ? tensor.channels - first : most;
    measure_workspace& work = workspaces.local();
    f(b, tensor.block(first, rows, work.gathered), work.rows);
  });
}

/// Calls `f(expert, delta, columns, row of the block, first column)` for every segment of every delta of a block.
template <class F>
void for_each_delta_segment(channel_block const& block, index_t cols, channel_workspace& work, F const& f) {
  float* const base = work.base.fit(sum_order::segment);
  float* const delta = work.deltas.fit(sum_order::segment);
  for (index_t row = 0; row < block.rows; ++row) {
    for_each_segment(cols, [&](index_t c, int n) {
      widen(block.base.type, at_column(block.base.row(row), block.base.type, c), base, n);
      for (std::size_t e = 0; e < block.experts.size(); ++e) {
        channel_rows const& expert = block.experts[e];
        subtract_base(expert.type, at_column(expert.row(row), expert.type, c), static_cast<float const*>(base), delta, n);
        f(e, delta, n, row, c);
      }
    });
  }
}

/// out = the sum over experts of the squared distances of their deltas, which lie a segment apart, from the mean delta.
struct spread_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* delta, int experts, int count, float* mean, float* out) noexcept {
    for (int c = 0; c < count; ++c) { mean[c] = 0.0f; }
    for (int e = 0; e < experts; ++e) {
      float const* const d = delta + e * segment_stride;
      for (int c = 0; c < count; ++c) { mean[c] = mean[c] + d[c]; }
    }
    auto const n = static_cast<float>(experts);
    for (int c = 0; c < count; ++c) { mean[c] = mean[c] / n; }
    for (int c = 0; c < count; ++c) { out[c] = 0.0f; }
    for (int e = 0; e < experts; ++e) {
      float const* const d = delta + e * segment_stride;
      for (int c = 0; c < count; ++c) {
        float const far = d[c] - mean[c];
        out[c] = out[c] + far * far;
      }
    }
  }
};

struct row_total_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, index_t cols, float* total) noexcept {
    using f32 = typename wide<W>::f32;
    float const* const rows[] = {x};
    sum_columns<W, 1>(rows, nullptr, cols, [](f32 const* v, f32* y) { y[0] = v[0]; }, total);
  }
};

/// Scales of columns from their sums of squares.
/// @param partial [blocks, cols]
inline std::vector<bfloat16> rounded_column_scales(std::vector<double> const& partial, std::size_t blocks, std::size_t cols) {
  double mean = 0.0;
  std::vector<double> root(cols, 0.0);
  for (std::size_t c = 0; c < cols; ++c) {
    double sum = 0.0;
    for (std::size_t b = 0; b < blocks; ++b) { sum += partial[b * cols + c]; }
    root[c] = std::sqrt(sum);
    mean += root[c];
  }
  mean /= static_cast<double>(cols);
  std::vector<bfloat16> scales(cols, bfloat16(1.0f));
  if (!(mean > 0.0)) { return scales; }
  for (std::size_t c = 0; c < cols; ++c) {
    scales[c] = bfloat16(static_cast<float>(std::max(root[c] / mean, 0x1p-8)));
  }
  return scales;
}

}  // namespace detail

namespace ops {

/// Lengths of the experts' deltas over a tensor, float64; with column weights h, of root(h) times the delta. Squared lengths of rows in the one order of sums; rows added
/// in order in blocks of 256, blocks added in order.
template <>
struct delta_norms<cpu> {
  std::vector<double> operator()(cpu const& be, tensor_channels const& tensor) const {
    std::size_t const experts = tensor.experts.size();
    auto const blocks = static_cast<std::size_t>((tensor.channels + detail::measure_rows - 1) / detail::measure_rows);
    std::vector<float> const root = detail::root_weights(tensor);
    std::vector<double> partial(blocks * experts, 0.0);
    detail::for_each_measure_block(be, tensor, [&](index_t b, channel_block const& block, detail::channel_workspace& work) {
      std::vector<float> squared(static_cast<std::size_t>(block.rows) * experts, 0.0f);
      detail::for_each_delta_segment(block, tensor.cols, work, [&](std::size_t e, float* delta, int n, index_t row, index_t c) {
        if (!root.empty()) { detail::dispatch<detail::root_weight_body>(root.data() + c, delta, n); }
        detail::pad_segment(delta, n);
        detail::dispatch<detail::squared_length_body>(static_cast<float const*>(delta), detail::padded(n),
                                                      &squared[static_cast<std::size_t>(row) * experts + e]);
      });
      double* const sums = partial.data() + static_cast<std::size_t>(b) * experts;
      for (std::size_t i = 0; i < squared.size(); ++i) { sums[i % experts] += static_cast<double>(squared[i]); }
    });
    std::vector<double> norms(experts, 0.0);
    for (std::size_t b = 0; b < blocks; ++b) {
      for (std::size_t e = 0; e < experts; ++e) { norms[e] += partial[b * experts + e]; }
    }
    for (double& n : norms) { n = detail::delta_length(n); }
    return norms;
  }

};

/// The cuts that keep exactly `keep` elements of each expert's delta, by radix selection on the bits of the
/// magnitudes: a pass for the upper 16 of 31 bits, one for the lower 15, and, where equals straddle the cut, one that
/// finds the last survivor among them. Nothing is sorted or stored; 0.8 MB a thread and expert for counts.
template <>
struct magnitude_cuts<cpu> {
  std::vector<magnitude_cut> operator()(cpu const& be, tensor_channels const& tensor, index_t keep) const {
    std::size_t const experts = tensor.experts.size();
    index_t const elements = tensor.channels * tensor.cols;
    if (keep <= 0) { return std::vector<magnitude_cut>(experts, magnitude_cut{0xFFFFFFFFu, -1}); }
    if (keep >= elements) { return std::vector<magnitude_cut>(experts, magnitude_cut{0u, elements}); }

    auto const wanted = static_cast<std::uint64_t>(keep);
    std::vector<std::uint64_t> above(experts, 0);
    std::vector<std::uint32_t> upper(experts, 0);
    std::vector<std::uint32_t> bits(experts, 0);
    std::vector<std::uint64_t> counts =
        count_keys(be, tensor, upper_bins, [](std::size_t, std::uint32_t key) { return key >> lower_bits; });
    for (std::size_t e = 0; e < experts; ++e) {
      upper[e] = find_bin(counts.data() + e * upper_bins, upper_bins, wanted, above[e]);
    }
    counts = count_keys(be, tensor, lower_bins, [&](std::size_t e, std::uint32_t key) {
      return key >> lower_bits == upper[e] ? key & (lower_bins - 1) : lower_bins;
    });
    std::vector<std::uint64_t> equal(experts, 0);  // elements at the cut
    bool straddles = false;
    for (std::size_t e = 0; e < experts; ++e) {
      std::uint32_t const low = find_bin(counts.data() + e * lower_bins, lower_bins, wanted, above[e]);
      bits[e] = (upper[e] << lower_bits) | low;
      equal[e] = counts[e * lower_bins + low];
      straddles = straddles || equal[e] > wanted - above[e];
    }
    std::vector<magnitude_cut> cuts(experts);
    for (std::size_t e = 0; e < experts; ++e) { cuts[e] = {bits[e], elements}; }
    if (straddles) { find_last_equals(be, tensor, wanted, above, equal, cuts); }
    return cuts;
  }

 private:
  static constexpr int lower_bits = 15;
  static constexpr std::uint32_t lower_bins = 1u << lower_bits;
  static constexpr std::uint32_t upper_bins = 1u << 16;

  /// Histograms [experts, bins] of `bin(expert, key)`; a bin of `bins` or more isn't counted.
  template <class Bin>
  static std::vector<std::uint64_t> count_keys(cpu const& be, tensor_channels const& tensor, std::uint32_t bins, Bin const& bin) {
    std::size_t const experts = tensor.experts.size();
    tbb::enumerable_thread_specific<std::vector<std::uint64_t>> local(
        [&] { return std::vector<std::uint64_t>(experts * bins, 0); });
    detail::for_each_measure_block(be, tensor, [&](index_t, channel_block const& block, detail::channel_workspace& work) {
      std::uint64_t* const counts = local.local().data();
      detail::for_each_delta_segment(block, tensor.cols, work, [&](std::size_t e, float const* delta, int n, index_t, index_t) {
        std::uint64_t* const mine = counts + e * bins;
        for (int c = 0; c < n; ++c) {
          std::uint32_t const b = bin(e, detail::magnitude_bits(delta[c]));
          if (b < bins) { ++mine[b]; }
        }
      });
    });
    std::vector<std::uint64_t> total(experts * bins, 0);
    for (auto const& counts : local) {
      for (std::size_t i = 0; i < total.size(); ++i) { total[i] += counts[i]; }
    }
    return total;
  }

  /// The bin, from the top, in which the `wanted`-th element lies; `above` grows by the elements in higher bins.
  static std::uint32_t find_bin(std::uint64_t const* counts, std::uint32_t bins, std::uint64_t wanted, std::uint64_t& above) {
    std::uint32_t b = bins;
    while (b-- > 0) {
      if (above + counts[b] >= wanted) { return b; }
      above += counts[b];
    }
    return 0;
  }

  /// Of the elements that equal the cut, finds the index of the last one that survives.
  static void find_last_equals(cpu const& be, tensor_channels const& tensor, std::uint64_t wanted,
                               std::vector<std::uint64_t> const& above, std::vector<std::uint64_t> const& equal,
                               std::vector<magnitude_cut>& cuts) {
    std::size_t const experts = cuts.size();
    auto const blocks = static_cast<std::size_t>((tensor.channels + detail::measure_rows - 1) / detail::measure_rows);
    std::vector<std::uint64_t> in_block(blocks * experts, 0);
    detail::for_each_measure_block(be, tensor, [&](index_t b, channel_block const& block, detail::channel_workspace& work) {
      std::uint64_t* const counts = in_block.data() + static_cast<std::size_t>(b) * experts;
      detail::for_each_delta_segment(block, tensor.cols, work, [&](std::size_t e, float const* delta, int n, index_t, index_t) {
        for (int c = 0; c < n; ++c) { counts[e] += detail::magnitude_bits(delta[c]) == cuts[e].bits ? 1u : 0u; }
      });
    });
    detail::measure_workspace work;
    for (std::size_t e = 0; e < experts; ++e) {
      std::uint64_t left = wanted - above[e];
      if (left == equal[e]) { continue; }
      std::size_t b = 0;
      for (; in_block[b * experts + e] < left; ++b) { left -= in_block[b * experts + e]; }
      tensor_channels one = tensor;
      one.experts = {tensor.experts[e]};
      index_t const first = static_cast<index_t>(b) * detail::measure_rows;
      index_t const rows = tensor.channels - first < detail::measure_rows ? tensor.channels - first : detail::measure_rows;
      auto const find = [&](std::size_t, float const* delta, int n, index_t row, index_t col) {
        for (int c = 0; c < n && left > 0; ++c) {
          if (detail::magnitude_bits(delta[c]) == cuts[e].bits && --left == 0) {
            cuts[e].last = (first + row) * tensor.cols + col + c;
          }
        }
      };
      detail::for_each_delta_segment(one.block(first, rows, work.gathered), tensor.cols, work.rows, find);
    }
  }
};

/// The scales of the residuals' columns: the root mean square, over rows and experts, of the deltas' distances from their
/// mean over the experts, each row divided by its own, so that long rows don't drown the others; then divided by their
/// mean, at least 2^-8, rounded to bfloat16. Rows whose experts are equal, or whose squares overflow, don't count; columns
/// are all one where no row does.
///
/// Squares in float32, experts in order; rows' sums in the one order of sums. Columns in float64: rows in order in blocks of
/// 256 rows, or of a 64th of the rows if that is more, blocks in order. 8 bytes a column and block.
template <>
struct column_scales<cpu> {
  std::vector<bfloat16> operator()(cpu const& be, tensor_channels const& tensor) const {
    auto const cols = static_cast<std::size_t>(tensor.cols);
    index_t const most = std::max(detail::measure_rows, (tensor.channels + 63) / 64);
    auto const blocks = static_cast<std::size_t>((tensor.channels + most - 1) / most);
    std::vector<double> partial(blocks * cols, 0.0);
    detail::for_each_measure_block(be, tensor, [&](index_t b, channel_block const& block, detail::channel_workspace& work) {
      double* const column = partial.data() + static_cast<std::size_t>(b) * cols;
      float* const square = work.row.fit(cols);
      for (index_t row = 0; row < block.rows; ++row) {
        float const total = spread(block, row, tensor.cols, work, square);
        if (!(total > 0.0f) || !std::isfinite(total)) { continue; }
        double const share = static_cast<double>(tensor.cols) / static_cast<double>(total);
        for (std::size_t c = 0; c < cols; ++c) { column[c] += static_cast<double>(square[c]) * share; }
      }
    }, most);
    return detail::rounded_column_scales(partial, blocks, cols);
  }

 private:
  /// square[c] = the sum over experts of the squared distance of their delta from the mean delta. @return its sum
  static float spread(channel_block const& block, index_t row, index_t cols, detail::channel_workspace& work, float* square) {
    std::size_t const experts = block.experts.size();
    float* const base = work.base.fit(sum_order::segment);
    float* const mean = work.merged.fit(sum_order::segment);
    float* const deltas = work.deltas.fit(experts * sum_order::segment);
    detail::for_each_segment(cols, [&](index_t c, int n) {
      detail::widen(block.base.type, detail::at_column(block.base.row(row), block.base.type, c), base, n);
      for (std::size_t e = 0; e < experts; ++e) {
        channel_rows const& expert = block.experts[e];
        detail::subtract_base(expert.type, detail::at_column(expert.row(row), expert.type, c), static_cast<float const*>(base),
                              deltas + e * sum_order::segment, n);
      }
      detail::dispatch<detail::spread_body>(static_cast<float const*>(deltas), static_cast<int>(experts), n, mean, square + c);
    });
    float total = 0.0f;
    detail::dispatch<detail::row_total_body>(static_cast<float const*>(square), cols, &total);
    return total;
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END

#include <braid/backend/cpu/budget_measure.hpp>
