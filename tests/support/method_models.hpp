#pragma once

/// Runs single-model methods on the models of support/random_models.hpp.

#include "support/random_models.hpp"

#include <braid/method/make_tensor_method.hpp>

namespace braid_test {

using any_method = braid::tensor_method<braid::cpu>;

inline braid::channel_rows rows_of(matrix const& m) {
  return {m.memory.data(), m.type, m.stride * static_cast<index_t>(braid::size_of(m.type))};
}

/// A request for a family's tensor; `with_base` false: its models alone.
inline braid::tensor_request request_of(family const& f, bool with_base, dtype out) {
  braid::tensor_request r;
  r.tensor = f.tensor;
  r.inputs.channels = f.base.rows;
  r.inputs.cols = f.base.cols;
  r.inputs.out = out;
  if (with_base) { r.inputs.base = rows_of(f.base); }
  for (auto const& e : f.experts) {
    r.models.push_back(e.name);
    r.inputs.experts.push_back(rows_of(e.weight));
  }
  return r;
}

/// The merged tensor as bytes.
inline std::vector<std::byte> merged_bytes(any_method const& m, braid::tensor_request const& r, int threads = 2) {
  std::vector<std::byte> out(static_cast<std::size_t>(r.inputs.channels * r.inputs.cols) * braid::size_of(r.inputs.out));
  m.merge_into(braid::cpu{threads}, r, out.data());
  return out;
}

/// The merged tensor, widened.
inline std::vector<float> merged(any_method const& m, braid::tensor_request const& r) {
  auto const bytes = merged_bytes(m, r);
  std::vector<float> x;
  for (index_t i = 0; i < r.inputs.channels * r.inputs.cols; ++i) { x.push_back(load(r.inputs.out, bytes.data(), i)); }
  return x;
}

/// All elements of a matrix, row by row.
inline std::vector<float> elements(matrix const& m) {
  std::vector<float> x;
  for (index_t r = 0; r < m.rows; ++r) {
    for (index_t c = 0; c < m.cols; ++c) { x.push_back(m.at(r, c)); }
  }
  return x;
}

/// The same in double, for references.
inline std::vector<double> exact_elements(matrix const& m) {
  auto const x = elements(m);
  return {x.begin(), x.end()};
}

inline std::uint32_t bits_of(float x) { return braid::detail::bits_as<std::uint32_t>(x); }

/// How many of two vectors' elements differ in their bits.
inline int different_bits(std::vector<float> const& a, std::vector<float> const& b) {
  if (a.size() != b.size()) { return -1; }
  int n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) { n += bits_of(a[i]) != bits_of(b[i]) ? 1 : 0; }
  return n;
}

/// The largest difference, over the largest magnitude of `expected`.
inline double relative_error(std::vector<float> const& x, std::vector<double> const& expected) {
  double worst = x.size() == expected.size() ? 0.0 : HUGE_VAL;
  double largest = 1e-30;
  for (std::size_t i = 0; i < expected.size() && i < x.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(x[i]) - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

/// A value for each model.
inline braid::method_parameters::per_model values(std::vector<double> const& v) { return {v.begin(), v.end()}; }

/// Small shapes at which kernels change what they do, one row and one column among them.
inline family method_family(random_source& random, dtype type, int models) {
  index_t const cols = random.chance(0.1) ? 1 : random_cols(random);
  index_t const rows = random.chance(0.2) ? 1 : random.between(1, cols > 100 ? 9 : 40);
  return random_family(random, type, rows, std::max<index_t>(cols, 1), models);
}

}  // namespace braid_test
