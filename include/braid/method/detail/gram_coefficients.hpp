#pragma once

/// Interpolations on spheres as linear combinations: n vectors x_i are given by their Gram matrix [n, n] alone, and what
/// comes out is the combination sum of k_i x_i. Host, float64.

#include <braid/config.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline double gram_norm(double const* gram, int n, int i) { return std::sqrt(std::max(gram[i * n + i], 0.0)); }

/// <u, x_j> of a combination u.
inline double gram_dot(double const* gram, int n, std::vector<double> const& u, int j) {
  double sum = 0.0;
  for (int i = 0; i < n; ++i) { sum += u[static_cast<std::size_t>(i)] * gram[i * n + j]; }
  return sum;
}

/// The length of a combination.
inline double gram_length(double const* gram, int n, std::vector<double> const& u) {
  double sum = 0.0;
  for (int j = 0; j < n; ++j) { sum += u[static_cast<std::size_t>(j)] * gram_dot(gram, n, u, j); }
  return std::sqrt(std::max(sum, 0.0));
}

inline void scale_all(std::vector<double>& u, double factor) {
  for (double& x : u) { x *= factor; }
}

/// A point between two directions, so far along the arc.
inline void along_arc(double cosine, double t, double* k) {
  double const theta = std::acos(cosine);
  k[0] = std::sin((1.0 - t) * theta) / std::sin(theta);
  k[1] = std::sin(t * theta) / std::sin(theta);
}

/// On the great circle from x_0 (t = 0) to x_1 (t = 1), with weights on the vectors themselves, not on their directions.
/// Lengths up to 1e-8 count as 1, and where |cos| > 0.9995 the vectors are interpolated linearly.
inline void slerp_coefficients(double const* gram, double t, double* k) {
  double const a = gram_norm(gram, 2, 0);
  double const b = gram_norm(gram, 2, 1);
  double const cosine = gram[1] / ((a > 1e-8 ? a : 1.0) * (b > 1e-8 ? b : 1.0));
  if (!(std::abs(cosine) <= 0.9995)) {
    k[0] = 1.0 - t;
    k[1] = t;
    return;
  }
  along_arc(cosine, t, k);
}

/// The same with lengths clamped from below to 1e-7, and linear only where the directions are one line to within the
/// precision of float32 sums: 1 - cos^2 <= 2^-22. Opposite vectors lie on a line too.
inline void nuslerp_coefficients(double const* gram, double t, double* k) {
  double const cosine = std::clamp(gram[1] / (std::max(gram_norm(gram, 2, 0), 1e-7) * std::max(gram_norm(gram, 2, 1), 1e-7)), -1.0, 1.0);
  if (!(1.0 - cosine * cosine > 0x1p-22)) {
    k[0] = 1.0 - t;
    k[1] = t;
    return;
  }
  along_arc(cosine, t, k);
}

/// The direction of the weighted mean m of the unit vectors u_i, times the weighted mean length. (The published form then
/// moves from m along the weighted mean T of the tangents u_i - <u_i, m> m. That mean is zero, since m is the weighted mean
/// of the u_i: T = |M| m - <|M| m, m> m. In float32 it is rounding noise.)
/// Vectors that are all zero give zero.
/// @return false where the weighted mean of other directions vanishes (is shorter than eps)
inline bool multislerp_coefficients(double const* gram, int n, std::vector<double> const& weight, double eps, double* k) {
  std::vector<double> mean(static_cast<std::size_t>(n));
  double length = 0.0;
  bool all_zero = true;
  for (int i = 0; i < n; ++i) {
    auto const at = static_cast<std::size_t>(i);
    double const norm = gram_norm(gram, n, i);
    mean[at] = weight[at] / (norm + eps);
    length += weight[at] * norm;
    all_zero = all_zero && norm == 0.0;
  }
  if (all_zero) {
    std::fill_n(k, n, 0.0);
    return true;
  }
  double const mean_length = gram_length(gram, n, mean);
  if (mean_length < eps) { return false; }  // not where it is NaN
  for (int i = 0; i < n; ++i) { k[i] = mean[static_cast<std::size_t>(i)] / mean_length * length; }
  return true;
}

/// The Karcher (Riemannian) mean of the directions of all vectors longer than `tol`, times the mean length of all. From the
/// normalised mean, up to `max_iter` steps along the mean tangent, until that is shorter than `tol`. Directions opposite to
/// the current mean have no one tangent and don't pull. The iteration never leaves the span of the vectors, so it runs on
/// coefficients.
inline void karcher_coefficients(double const* gram, int n, int max_iter, double tol, double* k) {
  std::vector<int> valid;
  std::vector<double> norm(static_cast<std::size_t>(n));
  double length = 0.0;
  for (int i = 0; i < n; ++i) {
    double const x = gram_norm(gram, n, i);
    norm[static_cast<std::size_t>(i)] = x;
    length += x / n;
    if (x > tol) { valid.push_back(i); }
  }
  std::fill_n(k, n, 0.0);
  if (valid.empty()) { return; }
  double const share = 1.0 / static_cast<double>(valid.size());
  std::vector<double> mean(static_cast<std::size_t>(n), 0.0);
  for (int const i : valid) { mean[static_cast<std::size_t>(i)] = share / norm[static_cast<std::size_t>(i)]; }
  double const first_length = gram_length(gram, n, mean);
  if (first_length < tol) {
    std::fill(mean.begin(), mean.end(), 0.0);
    mean[static_cast<std::size_t>(valid[0])] = 1.0 / norm[static_cast<std::size_t>(valid[0])];
  } else {
    scale_all(mean, 1.0 / first_length);
  }
  for (int step = 0; step < max_iter; ++step) {
    std::vector<double> tangent(static_cast<std::size_t>(n), 0.0);
    double along_mean = 0.0;
    for (int const i : valid) {
      auto const at = static_cast<std::size_t>(i);
      double const cosine = std::clamp(gram_dot(gram, n, mean, i) / norm[at], -1.0, 1.0);
      double const theta = std::acos(cosine);
      double const sine = std::sin(theta);
      if (theta < tol || sine < 1e-6) { continue; }
      double const pull = share * theta / sine;
      tangent[at] += pull / norm[at];
      along_mean += pull * cosine;
    }
    for (std::size_t i = 0; i < tangent.size(); ++i) { tangent[i] -= along_mean * mean[i]; }
    double const angle = gram_length(gram, n, tangent);
    if (angle < tol) { break; }
    for (std::size_t i = 0; i < mean.size(); ++i) { mean[i] = std::cos(angle) * mean[i] + std::sin(angle) / angle * tangent[i]; }
    double const unit = gram_length(gram, n, mean);
    if (unit > tol) { scale_all(mean, 1.0 / unit); }
  }
  for (int i = 0; i < n; ++i) { k[i] = mean[static_cast<std::size_t>(i)] * length; }
}

/// How far from the base (0) to the mean of the models (1) Model Stock goes: N c / (1 + (N - 1) c) with the mean cosine c of
/// pairs of deltas; 0 where that has no finite value.
/// @param least of the product of two lengths, from below
inline double stock_ratio(double const* gram, int n, double least) {
  double cosine = 0.0;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < i; ++j) {
      double const lengths = std::max(gram_norm(gram, n, i) * gram_norm(gram, n, j), least);
      cosine += lengths > 0.0 ? std::clamp(gram[i * n + j] / lengths, -1.0, 1.0) : 0.0;
    }
  }
  cosine /= 0.5 * n * (n - 1);
  double const denominator = 1.0 + (n - 1) * cosine;
  return std::abs(denominator) < 1e-6 ? 0.0 : n * cosine / denominator;
}

}  // namespace detail
BRAID_NAMESPACE_END
