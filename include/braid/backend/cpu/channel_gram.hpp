#pragma once

/// Which experts share a channel bit for bit, and the Gram matrix of those that differ.

#include <braid/backend/cpu/channel_workspace.hpp>
#include <braid/backend/cpu/direct.hpp>

#include <array>
#include <cmath>
#include <cstring>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// The distinct rows of a channel, numbered by first appearance over the experts.
struct distinct_rows {
  int count = 0;
  std::array<int, max_experts> of_expert;  // which distinct row an expert has
  std::array<int, max_experts> first;      // the first expert that has it
  std::array<int, max_experts> weight;     // how many have it
};

inline bool same_row(channel_rows const& a, channel_rows const& b, index_t row, index_t cols, channel_workspace& work) {
  if (cols == 0) { return true; }  // then an address may be null
  if (a.type == b.type) { return std::memcmp(a.row(row), b.row(row), static_cast<std::size_t>(cols) * size_of(a.type)) == 0; }
  float* const x = work.base.fit(sum_order::segment);
  float* const y = work.merged.fit(sum_order::segment);
  bool same = true;
  for_each_segment(cols, [&](index_t c, int n) {
    if (!same) { return; }
    widen(a.type, at_column(a.row(row), a.type, c), x, n);
    widen(b.type, at_column(b.row(row), b.type, c), y, n);
    same = std::memcmp(x, y, static_cast<std::size_t>(n) * sizeof(float)) == 0;
  });
  return same;
}

inline void find_distinct(channel_block const& block, index_t row, index_t cols, channel_workspace& work,
                          distinct_rows& found) {
  found.count = 0;
  for (std::size_t e = 0; e < block.experts.size(); ++e) {
    int d = 0;
    while (d < found.count &&
           !same_row(block.experts[e], block.experts[static_cast<std::size_t>(found.first[static_cast<std::size_t>(d)])],
                     row, cols, work)) {
      ++d;
    }
    auto const slot = static_cast<std::size_t>(d);
    if (d == found.count) {
      ++found.count;
      found.first[slot] = static_cast<int>(e);
      found.weight[slot] = 0;
    }
    ++found.weight[slot];
    found.of_expert[e] = d;
  }
}

/// Adds the dot products of the distinct rows' deltas (or their signs) to `work.dots`, by way of float32 segments. Each
/// delta (or sign) is first multiplied by `root` [cols] and rounded, if there is one.
inline void buffered_dots(channel_block const& block, index_t row, index_t cols, distinct_rows const& distinct, bool signs,
                          float const* root, channel_workspace& work) {
  int const n = distinct.count;
  std::byte const* const base_row = block.base.row(row);
  float* const base = work.base.fit(sum_order::segment);
  float* const deltas = work.deltas.fit(static_cast<std::size_t>(n) * sum_order::segment);
  for_each_segment(cols, [&](index_t c, int count) {
    widen(block.base.type, at_column(base_row, block.base.type, c), base, count);
    for (int i = 0; i < n; ++i) {
      channel_rows const& expert = block.experts[static_cast<std::size_t>(distinct.first[static_cast<std::size_t>(i)])];
      float* const delta = deltas + i * segment_stride;
      subtract_base(expert.type, at_column(expert.row(row), expert.type, c), static_cast<float const*>(base), delta, count);
      if (signs) { dispatch<sign_body>(delta, count); }
      if (root != nullptr) { dispatch<root_weight_body>(root + c, delta, count); }
      pad_segment(delta, count);
    }
    dispatch<gram_body>(static_cast<float const*>(deltas), n, padded(count), work.dots.data());
  });
}

/// Whether base and experts share one storage type.
inline bool one_type(channel_block const& block) noexcept {
  for (auto const& e : block.experts) {
    if (e.type != block.base.type) { return false; }
  }
  return true;
}

/// A symmetric matrix [n, n] in float64, from its lower triangle.
inline void expand_triangle(float const* dots, int n, std::vector<double>& gram) {
  gram.resize(static_cast<std::size_t>(n) * static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      double const dot = static_cast<double>(dots[triangle(i, j)]);
      gram[static_cast<std::size_t>(i * n + j)] = dot;
      gram[static_cast<std::size_t>(j * n + i)] = dot;
    }
  }
}

/// Gram matrix [count, count] of the distinct rows' deltas (or their signs), float64 copies of float32 sums, into
/// `work.gram`. With column weights h: sum of (root(h) x) (root(h) y), each of the three products rounded. Not finite
/// only where an input isn't, or where a square overflows float32.
inline void channel_gram(tensor_context const& context, channel_block const& block, index_t row,
                         distinct_rows const& distinct, bool signs, channel_workspace& work) {
  index_t const cols = context.cols;
  float const* const root = context.root_weight.empty() ? nullptr : context.root_weight.data();
  int const n = distinct.count;
  std::byte const* const base_row = block.base.row(row);
  work.dots.assign(static_cast<std::size_t>(triangle(n, 0)), 0.0f);
  float* const dots = work.dots.data();
  if (!signs && root == nullptr && n >= 2 && n <= most_direct && has_direct_kernels(block.base.type) && one_type(block)) {
    visit_direct_dtype(block.base.type, [&]<class T>(T*) {
      T const* rows[most_direct + 1];
      rows[0] = reinterpret_cast<T const*>(base_row);
      for (int i = 0; i < n; ++i) {
        auto const e = static_cast<std::size_t>(distinct.first[static_cast<std::size_t>(i)]);
        rows[i + 1] = reinterpret_cast<T const*>(block.experts[e].row(row));
      }
      with_row_count(n, [&]<int N>(std::integral_constant<int, N>) {
        dispatch<direct_gram_body<T, N>>(static_cast<T const* const*>(rows), cols, dots);
      });
    });
  } else {
    buffered_dots(block, row, cols, distinct, signs, root, work);
  }
  expand_triangle(dots, n, work.gram);
}

/// Checks a channel's inputs: all rows, or only what the Gram matrix's diagonal makes suspicious.
inline void check_finite_channel(channel_block const& block, index_t row, index_t cols, channel_workspace& work) {
  index_t const channel = block.first + row;
  check_finite_row(block.base.row(row), block.base.type, cols, -1, channel, work);
  for (std::size_t e = 0; e < block.experts.size(); ++e) {
    check_finite_row(block.experts[e].row(row), block.experts[e].type, cols, static_cast<int>(e), channel, work);
  }
}

/// Looks closer where the Gram matrix in `work.gram` isn't finite, or, made of signs, can't tell.
/// @throws nonfinite_found
inline void check_gram(tensor_context const& context, channel_block const& block, index_t row,
                       distinct_rows const& distinct, bool signs, channel_workspace& work) {
  bool const of_deltas = !signs;
  bool finite = of_deltas;
  int suspect = 0;
  for (int d = 0; finite && d < distinct.count; ++d) {
    if (!std::isfinite(work.gram[static_cast<std::size_t>(d * distinct.count + d)])) {
      finite = false;
      suspect = distinct.first[static_cast<std::size_t>(d)];
    }
  }
  if (finite) { return; }
  check_finite_channel(block, row, context.cols, work);
  if (of_deltas) { throw nonfinite_found{{suspect, block.first + row, 0, 0.0f}}; }
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
