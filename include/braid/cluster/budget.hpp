#pragma once

/// How many groups, and how many residual bits, a channel gets under one budget of bytes for the whole model.
///
/// Every channel has a curve: the least weighted squared error for its bytes, over all numbers of groups and residual
/// codes. Under a budget the best choice is the same for all channels in one respect: each takes every step of the lower
/// convex hull of its curve that removes more error a byte than a price. The price follows from a histogram of all
/// steps, so a model of any size needs one measuring pass and a few megabytes, and whoever knows the price can choose for
/// a channel alone. (Lagrangian bit allocation: Shoham and Gersho, IEEE TASSP 36, 1988.)

#include <braid/cluster/detail/partition.hpp>
#include <braid/core/error.hpp>
#include <braid/residual/choices.hpp>
#include <braid/residual/expected_error.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

/// What a squared error of an expert counts in a tensor, by the length of the expert's delta over that tensor.
enum class error_weighting : unsigned char {
  even,  ///< 1 / length^2: every expert, and every tensor, counts the same
  root,  ///< 1 / length: halfway
  plain  ///< 1: the longest deltas count most
};

[[nodiscard]] constexpr std::string_view name_of(error_weighting w) noexcept {
  return w == error_weighting::even ? "even" : w == error_weighting::root ? "root" : "plain";
}

/// Bytes that a merged model may take.
struct storage_budget {
  /// Fraction of the bytes of all tensors of all experts; 0: no budget, every channel gets the method's number of
  /// groups and its code.
  double stored = 0.0;
  error_weighting weighting = error_weighting::even;

  /// @throws argument_error
  void validate() const {
    if (!(stored >= 0.0 && stored <= 1000.0)) {
      throw argument_error("budget: " + std::to_string(stored) + " is not a fraction of the experts' bytes; give 0.4, for example");
    }
  }
};

/// What each expert's squared errors count in a tensor over which its delta has the squared length `squared[n]`. No
/// expert counts as if its delta were shorter than half of the root mean square of all: one that was hardly trained there,
/// or not at all, would otherwise take the whole budget.
[[nodiscard]] inline std::vector<double> importance_of(error_weighting weighting, std::vector<double> const& squared) {
  double sum = 0.0;
  for (double const x : squared) { sum += std::isfinite(x) ? x : 0.0; }
  double const floor = squared.empty() ? 0.0 : 0.25 * (sum / static_cast<double>(squared.size()));
  std::vector<double> importance;
  for (double const x : squared) {
    double const length = std::isfinite(x) && x > floor ? x : floor;
    importance.push_back(!(length > 0.0)                      ? 1.0
                         : weighting == error_weighting::even ? 1.0 / length
                         : weighting == error_weighting::root ? 1.0 / std::sqrt(length)
                                                              : 1.0);
  }
  return importance;
}

/// What a budget knows of a tensor once the whole model has been measured.
struct tensor_budget {
  float price = 0.0f;              ///< error a byte, below which nothing is bought
  std::vector<double> importance;  ///< [experts], of a squared error
};

namespace cluster {

/// How a channel is stored.
struct channel_choice {
  int groups = 1;
  residual_code code = residual_code::none;
};

/// One channel as a budget sees it. Rows are the distinct ones.
struct budget_channel {
  cluster_problem problem;             ///< for the clustering; `groups` is the most that it may have
  double const* delta_gram = nullptr;  ///< [count, count], of the deltas as they are
  double const* importance = nullptr;  ///< [count], summed over the experts that have the row
  index_t cols = 0;
  std::size_t element_bytes = 0;       ///< of the stored rows
};

/// A point of a channel's curve: bytes beyond the first shared row, and the error that remains.
struct curve_point {
  channel_choice choice;
  std::uint64_t bytes = 0;
  double error = 0.0;
};

namespace detail {

/// Weighted squared error of group g round the mean of its members, and how many distinct rows and experts it has.
struct group_error {
  double squared = 0.0;
  int rows = 0;
  int experts = 0;
};

inline group_error error_of_group(budget_channel const& c, int const* label, int g) noexcept {
  int const n = c.problem.count;
  group_error e;
  double size = 0.0;
  for (int i = 0; i < n; ++i) {
    if (label[i] != g) { continue; }
    ++e.rows;
    e.experts += c.problem.weight[i];
    size += c.problem.weight[i];
  }
  if (e.rows < 2) { return e; }
  double total = 0.0;
  std::array<double, max_experts> cross_of;
  for (int i = 0; i < n; ++i) {
    if (label[i] != g) { continue; }
    double sum = 0.0;
    for (int j = 0; j < n; ++j) {
      if (label[j] == g) { sum += c.problem.weight[j] * c.delta_gram[i * n + j]; }
    }
    cross_of[static_cast<std::size_t>(i)] = sum;
    total += c.problem.weight[i] * sum;
  }
  for (int i = 0; i < n; ++i) {
    if (label[i] != g) { continue; }
    double const d = c.delta_gram[i * n + i] - 2.0 * cross_of[static_cast<std::size_t>(i)] / size + total / (size * size);
    e.squared += c.importance[i] * (d > 0.0 ? d : 0.0);
  }
  return e;
}

/// A factor near 1 for each channel, up to 1 + 2^-5. Channels that are all alike would take a step together or not at all; so they
/// take it one after the other, and a budget is used up however alike they are.
inline double dither(std::uint64_t stream, index_t channel) noexcept {
  std::uint64_t x = stream ^ (static_cast<std::uint64_t>(channel) * 0x9E3779B97F4A7C15u);
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return 1.0 + static_cast<double>((x ^ (x >> 31)) >> 44) * 0x1p-25;
}

/// Of points sorted by bytes, those of the lower convex hull: each step costs more bytes, and removes less error a byte,
/// than the one before.
inline void keep_hull(std::vector<curve_point>& points) {
  std::sort(points.begin(), points.end(), [](curve_point const& a, curve_point const& b) {
    if (a.bytes != b.bytes) { return a.bytes < b.bytes; }
    if (a.error != b.error) { return a.error < b.error; }
    return a.choice.groups != b.choice.groups ? a.choice.groups < b.choice.groups : a.choice.code < b.choice.code;
  });
  std::size_t kept = 0;
  for (curve_point const& p : points) {
    if (kept > 0 && !(p.error < points[kept - 1].error)) { continue; }
    auto const slope = [&](curve_point const& from) { return (from.error - p.error) / static_cast<double>(p.bytes - from.bytes); };
    while (kept > 1) {
      auto const& last = points[kept - 1];
      auto const& before = points[kept - 2];
      if (slope(before) < (before.error - last.error) / static_cast<double>(last.bytes - before.bytes)) { break; }
      --kept;
    }
    points[kept++] = p;
  }
  points.resize(kept);
}

}  // namespace detail

/// One thread's memory for curves.
struct curve_workspace {
  std::vector<curve_point> points;
  std::array<int, max_experts> label;
};

/// The lower convex hull of a channel's curve, into `work.points`. Deterministic: float64 arithmetic in one order.
/// @param codes  that may be chosen, `none` among them
template <class Similarity, class Cluster>
void channel_curve(Similarity const& similarity, Cluster const& cluster, budget_channel const& c,
                   residual_code_list const& codes, curve_workspace& work) {
  int const n = c.problem.count;
  int const most = c.problem.groups < n ? c.problem.groups : n;
  double const factor = detail::dither(c.problem.stream, c.problem.channel);
  auto const row_bytes = static_cast<std::uint64_t>(c.cols) * c.element_bytes;
  work.points.clear();
  int* const label = work.label.data();
  for (int k = 1; k <= most; ++k) {
    int groups = k;
    if (k == 1 || k == n) {
      for (int i = 0; i < n; ++i) { label[i] = k == 1 ? 0 : i; }
    } else {
      cluster_problem p = c.problem;
      p.groups = k;
      cluster.partition(similarity, p, label);
      groups = detail::checked_groups(cluster.name, n, k, label);
    }
    std::array<double, residual_codes> error{};
    std::uint64_t coded = 0;  // experts with a residual, if there is one
    for (int g = 0; g < groups; ++g) {
      auto const e = detail::error_of_group(c, label, g);
      if (e.rows < 2) { continue; }
      coded += static_cast<std::uint64_t>(e.experts);
      for (residual_code const code : codes) {
        error[static_cast<std::size_t>(code)] += e.squared * expected_residual_error(code, e.rows);
      }
    }
    for (residual_code const code : codes) {
      if (coded == 0 && code != residual_code::none) { continue; }
      std::uint64_t const each = static_cast<std::uint64_t>(residual_bytes(code, c.cols)) +
                                 2 * static_cast<std::uint64_t>(residual_scales(code));
      // Rows that differ lose something, even where their squared error underflows (or is that of 0 and -0).
      double const lost = coded == 0 ? 0.0 : std::max(factor * error[static_cast<std::size_t>(code)], 1e-300);
      work.points.push_back({{k, code}, static_cast<std::uint64_t>(groups - 1) * row_bytes + coded * each, lost});
    }
  }
  detail::keep_hull(work.points);
}

/// Error removed a byte by the step to point i of a hull.
[[nodiscard]] inline float step_slope(std::vector<curve_point> const& hull, std::size_t i) noexcept {
  return static_cast<float>((hull[i - 1].error - hull[i].error) / static_cast<double>(hull[i].bytes - hull[i - 1].bytes));
}

/// What a channel takes at a price.
[[nodiscard]] inline channel_choice choose(std::vector<curve_point> const& hull, float price) noexcept {
  std::size_t i = 0;
  while (i + 1 < hull.size() && step_slope(hull, i + 1) >= price) { ++i; }
  return hull[i].choice;
}

/// All steps of all channels of a model, by their slope. The bins are a 4096th of an octave wide; what is in the bin
/// where the budget ends is not bought, which leaves less than a hundredth of the steps' bytes unused, however alike
/// channels are (see `dither`), and usually far less.
class budget_histogram {
 public:
  budget_histogram() : bytes_(bins, 0) {}

  void add(float slope, std::uint64_t bytes) { bytes_[bin(slope)] += bytes; }

  /// The lowest price at which the steps cost no more than `allowed` bytes. 0 where all are affordable.
  [[nodiscard]] float price(std::uint64_t allowed) const noexcept {
    std::uint64_t used = 0;
    for (std::size_t b = bins; b-- > 0;) {
      if (bytes_[b] > allowed - used) { return std::bit_cast<float>(static_cast<std::uint32_t>(b + 1) << shift); }
      used += bytes_[b];
    }
    return 0.0f;
  }

 private:
  static constexpr unsigned shift = 11;
  static constexpr std::size_t bins = std::size_t{0x7F800000u >> shift} + 1;

  /// Slopes are positive, so their bits are in their order.
  static std::size_t bin(float slope) noexcept { return std::bit_cast<std::uint32_t>(slope) >> shift; }

  std::vector<std::uint64_t> bytes_;
};

}  // namespace cluster

/// What the measuring pass of a budget found of a tensor.
struct measured_tensor {
  std::vector<double> norms;              ///< lengths of the deltas, where the similarity needs them
  std::shared_ptr<tensor_budget> budget;  ///< its price is set once all tensors have been measured
};

namespace detail {

/// Bytes that a merged tensor takes whatever a budget chooses: one row a channel, and scales of columns. The index is
/// paid for by the first channel that has groups, codes by the first that has one (`measure_curves`).
[[nodiscard]] inline std::uint64_t fixed_bytes(index_t channels, index_t cols, std::size_t element, bool column_scales) noexcept {
  auto const inputs = static_cast<std::uint64_t>(cols);
  return static_cast<std::uint64_t>(channels) * inputs * element + (column_scales ? 2 * inputs : 0);
}

/// The price at which a model's channels fit. All sizes in bytes.
/// @param whole  all experts
/// @param fixed  what is stored whatever the budget chooses
/// @throws argument_error where that alone is more than the budget
inline float budget_price(storage_budget const& budget, cluster::budget_histogram const& curves, std::uint64_t whole,
                          std::uint64_t fixed, std::string_view what) {
  auto const allowed = static_cast<std::uint64_t>(budget.stored * static_cast<double>(whole));
  if (fixed > allowed) {
    double const least = std::ceil(1e6 * static_cast<double>(fixed) / static_cast<double>(whole)) / 1e6;
    throw argument_error(std::string(what) + ": a budget of " + std::to_string(budget.stored) + " is " + std::to_string(allowed) +
                         " bytes, but one row a channel and what every expert keeps take " + std::to_string(fixed) +
                         ": give " + std::to_string(least) + " or more");
  }
  return curves.price(allowed - fixed);
}

}  // namespace detail

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
