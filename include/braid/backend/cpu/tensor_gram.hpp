#pragma once

/// Gram matrices of the inputs, or of their deltas: of a whole tensor, of one row, of every column.

#include <braid/backend/cpu/method_blocks.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Makes the base the first of the models, for methods that treat it as one of the vectors.
inline channel_block base_as_model(channel_block block) {
  block.experts.insert(block.experts.begin(), block.base);
  block.base = {};
  return block;
}
inline tensor_channels base_as_model(tensor_channels tensor) {
  tensor.experts.insert(tensor.experts.begin(), tensor.base);
  tensor.base = {};
  return tensor;
}

/// The lower triangle of a row's dot products, float32 in the one order of sums, in `work.totals`.
/// @throws nonfinite_found, unless `allow_nonfinite`
inline void row_triangle(channel_block const& block, index_t row, index_t cols, operand what, bool allow_nonfinite,
                         method_workspace& work) {
  auto const n = static_cast<int>(block.experts.size());
  work.totals.assign(static_cast<std::size_t>(triangle(n, 0)), 0.0f);
  for_each_segment(cols, [&](index_t c, int count) {
    load_checked_segment(block, row, c, count, what, allow_nonfinite, work);
    float* const x = work.models.fit(1);
    for (int i = 0; i < n; ++i) { pad_segment(x + i * segment_stride, count); }
    dispatch<gram_body>(static_cast<float const*>(x), n, padded(count), work.totals.data());
  });
}

/// [n, n] from a lower triangle.
template <class T>
void fill_gram(T const* lower, int n, double* gram) {
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      gram[i * n + j] = static_cast<double>(lower[triangle(i, j)]);
      gram[j * n + i] = gram[i * n + j];
    }
  }
}

/// Throws where the squared length of a vector doesn't fit into float32, though its elements are finite.
inline void check_gram(double const* gram, int n, index_t channel) {
  for (int i = 0; i < n; ++i) {
    if (!std::isfinite(gram[i * n + i])) { throw nonfinite_found{{i, channel, 0, 0.0f}}; }
  }
}

/// The Gram matrix [n, n] of n inputs over a tensor: rows in float32 in the one order of sums, added in float64 in order in
/// blocks of 256, blocks in order.
/// @throws nonfinite_found, unless `allow_nonfinite`
inline std::vector<double> tensor_gram(cpu const& be, tensor_channels const& tensor, operand what, bool allow_nonfinite) {
  constexpr index_t rows = 256;
  auto const n = static_cast<int>(tensor.experts.size());
  auto const pairs = static_cast<std::size_t>(triangle(n, 0));
  auto const blocks = static_cast<std::size_t>((tensor.channels + rows - 1) / rows);
  std::vector<double> partial(blocks * pairs, 0.0);
  ops::tensor_blocks<cpu>::for_each(be, tensor, rows, [&](index_t b, channel_block const& block, method_workspace& work) {
    double* const sums = partial.data() + static_cast<std::size_t>(b) * pairs;
    for (index_t row = 0; row < block.rows; ++row) {
      row_triangle(block, row, tensor.cols, what, allow_nonfinite, work);
      for (std::size_t p = 0; p < pairs; ++p) { sums[p] += static_cast<double>(work.totals[p]); }
    }
  });
  std::vector<double> lower(pairs, 0.0);
  for (std::size_t b = 0; b < blocks; ++b) {
    for (std::size_t p = 0; p < pairs; ++p) { lower[p] += partial[b * pairs + p]; }
  }
  std::vector<double> gram(static_cast<std::size_t>(n * n));
  fill_gram(lower.data(), n, gram.data());
  if (!allow_nonfinite) { check_gram(gram.data(), n, 0); }
  return gram;
}

/// The Gram matrix of one row, in `work.gram`.
inline double const* row_gram(channel_block const& block, index_t row, index_t cols, operand what, bool allow_nonfinite,
                              method_workspace& work) {
  auto const n = static_cast<int>(block.experts.size());
  row_triangle(block, row, cols, what, allow_nonfinite, work);
  work.gram.resize(static_cast<std::size_t>(n * n));
  fill_gram(work.totals.data(), n, work.gram.data());
  if (!allow_nonfinite) { check_gram(work.gram.data(), n, block.first + row); }
  return work.gram.data();
}

/// The Gram matrices [cols, 2, 2] of every column of two inputs: exact products added in float64 from the first row to the
/// last.
inline std::vector<double> column_grams(cpu const& be, tensor_channels const& tensor, operand what, bool allow_nonfinite) {
  constexpr index_t rows = 256;
  std::vector<double> gram(static_cast<std::size_t>(tensor.cols) * 4, 0.0);
  std::vector<std::byte> gathered;
  tbb::enumerable_thread_specific<method_workspace> workspaces;
  index_t const segments = (tensor.cols + sum_order::segment - 1) / sum_order::segment;
  for (index_t first = 0; first < tensor.channels; first += rows) {
    channel_block const block = tensor.block(first, std::min(rows, tensor.channels - first), gathered);
    be.for_each(segments, [&](index_t s) {
      method_workspace& work = workspaces.local();
      index_t const c = s * sum_order::segment;
      auto const n = static_cast<int>(std::min<index_t>(sum_order::segment, tensor.cols - c));
      for (index_t row = 0; row < block.rows; ++row) {
        load_checked_segment(block, row, c, n, what, allow_nonfinite, work);
        float const* const x = work.models.fit(1);
        float const* const y = x + sum_order::segment;
        double* const g = gram.data() + static_cast<std::size_t>(c) * 4;
        for (int i = 0; i < n; ++i) {
          double const a = static_cast<double>(x[i]);
          double const b = static_cast<double>(y[i]);
          g[4 * i] += a * a;
          g[4 * i + 1] += a * b;
          g[4 * i + 3] += b * b;
        }
      }
    });
  }
  for (std::size_t c = 0; c < static_cast<std::size_t>(tensor.cols); ++c) { gram[4 * c + 2] = gram[4 * c + 1]; }
  return gram;
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
