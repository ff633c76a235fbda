#pragma once

/// Minimises a smooth function of many variables: L-BFGS with a weak Wolfe line search by bisection.

#include <braid/config.hpp>

#include <cmath>
#include <cstddef>
#include <deque>
#include <utility>
#include <vector>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

struct lbfgs_result {
  int iterations = 0;
  double value = 0.0;
  bool converged = false;  // no element of the gradient is above the tolerance
};

inline double dot(std::vector<double> const& a, std::vector<double> const& b) noexcept {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) { sum += a[i] * b[i]; }
  return sum;
}

/// a += by * b.
inline void add_scaled(std::vector<double>& a, double by, std::vector<double> const& b) noexcept {
  for (std::size_t i = 0; i < a.size(); ++i) { a[i] += by * b[i]; }
}

inline double largest_magnitude(std::vector<double> const& a) noexcept {
  double most = 0.0;
  for (double const x : a) { most = std::fabs(x) > most ? std::fabs(x) : most; }
  return most;
}

/// The last steps and what they did to the gradient: the curvature that L-BFGS knows.
class lbfgs_memory {
 public:
  void remember(std::vector<double> step, std::vector<double> change) {
    double const curvature = dot(step, change);
    if (!(curvature > 0.0)) { return; }
    if (pairs_.size() == 8) { pairs_.pop_front(); }
    pairs_.push_back({std::move(step), std::move(change), curvature});
  }

  /// The direction of the next step.
  [[nodiscard]] std::vector<double> direction(std::vector<double> const& gradient) const {
    std::vector<double> d = gradient;
    std::vector<double> share(pairs_.size());
    for (std::size_t i = pairs_.size(); i-- > 0;) {
      share[i] = dot(pairs_[i].step, d) / pairs_[i].curvature;
      add_scaled(d, -share[i], pairs_[i].change);
    }
    double scale = 1.0;
    if (pairs_.empty()) {
      double const length = std::sqrt(dot(d, d));
      scale = length > 1.0 ? 1.0 / length : 1.0;
    } else {
      scale = pairs_.back().curvature / dot(pairs_.back().change, pairs_.back().change);
    }
    for (double& x : d) { x *= scale; }
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      add_scaled(d, share[i] - dot(pairs_[i].change, d) / pairs_[i].curvature, pairs_[i].step);
    }
    for (double& x : d) { x = -x; }
    return d;
  }

 private:
  struct pair {
    std::vector<double> step;
    std::vector<double> change;
    double curvature;
  };
  std::deque<pair> pairs_;
};

/// @param f          f(x, gradient) gives the value and sets the gradient, of x's size
/// @param x          where to begin; at the end, the best point found
/// @param tolerance  of the largest element of the gradient
template <class F>
lbfgs_result minimise(F const& f, std::vector<double>& x, int most_iterations, double tolerance) {
  std::vector<double> gradient(x.size());
  lbfgs_result result;
  result.value = f(x, gradient);
  lbfgs_memory memory;
  std::vector<double> next(x.size());
  std::vector<double> next_gradient(x.size());
  for (;; ++result.iterations) {
    result.converged = largest_magnitude(gradient) <= tolerance;
    if (result.converged || result.iterations == most_iterations) { return result; }
    std::vector<double> const direction = memory.direction(gradient);
    double const slope = dot(gradient, direction);
    if (!(slope < 0.0)) { return result; }
    double least = 0.0;
    double most = -1.0;  // none yet
    double length = 1.0;
    double value = result.value;
    bool found = false;
    for (int trial = 0; trial < 40 && !found; ++trial) {
      next = x;
      add_scaled(next, length, direction);
      value = f(next, next_gradient);
      if (!(value <= result.value + 1e-4 * length * slope)) {
        most = length;
      } else if (dot(next_gradient, direction) < 0.9 * slope) {
        least = length;
      } else {
        found = true;
        break;
      }
      length = most < 0.0 ? 2.0 * length : 0.5 * (least + most);
    }
    if (!found) { return result; }  // rounding hides what is left to gain
    std::vector<double> step(x.size());
    std::vector<double> change(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      step[i] = next[i] - x[i];
      change[i] = next_gradient[i] - gradient[i];
    }
    memory.remember(std::move(step), std::move(change));
    x.swap(next);
    gradient.swap(next_gradient);
    result.value = value;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
