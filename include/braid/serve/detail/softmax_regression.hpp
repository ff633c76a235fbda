#pragma once

/// Multinomial logistic regression on sparse rows.

#include <braid/backend/cpu.hpp>
#include <braid/serve/detail/exp.hpp>
#include <braid/serve/detail/lbfgs.hpp>
#include <braid/serve/embedding.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Replaces logits [classes] times `sharpness` by their probabilities.
/// @return ln of the sum of the exponentials: minus a logit, it is that class's cross entropy
inline double softmax(double* logits, std::size_t classes, double sharpness = 1.0) noexcept {
  double most = logits[0];
  for (std::size_t k = 1; k < classes; ++k) { most = logits[k] > most ? logits[k] : most; }
  double sum = 0.0;
  for (std::size_t k = 0; k < classes; ++k) {
    logits[k] = exp_of(sharpness * (logits[k] - most));
    sum += logits[k];
  }
  for (std::size_t k = 0; k < classes; ++k) { logits[k] /= sum; }
  return sharpness * most + log_of(sum);
}

/// How much features are scaled: those in few rows more, ln((1 + rows) / (1 + rows that have it)) + 1. Those that no row has
/// count as the rarest, so that a row of nothing known is no row of anything. Of dense rows every feature has 1.
inline std::vector<float> inverse_frequencies(std::span<feature_row const> rows, std::span<std::size_t const> chosen,
                                              index_t dimension) {
  std::vector<std::size_t> count(static_cast<std::size_t>(dimension));
  for (std::size_t const i : chosen) {
    for (feature const& f : rows[i]) { ++count[f.index]; }
  }
  std::vector<float> scale;
  double const all = 1.0 + static_cast<double>(chosen.size());
  for (std::size_t const n : count) {
    scale.push_back(static_cast<float>(log_of(all / (1.0 + static_cast<double>(n))) + 1.0));
  }
  return scale;
}

/// The row with its features scaled, of length 1.
inline feature_row scaled(feature_row row, std::span<float const> scale) {
  double squares = 0.0;
  for (feature& f : row) {
    f.value *= scale[f.index];
    squares += static_cast<double>(f.value) * static_cast<double>(f.value);
  }
  if (squares > 0.0) {
    double const length = std::sqrt(squares);
    for (feature& f : row) { f.value = static_cast<float>(static_cast<double>(f.value) / length); }
  }
  return row;
}

/// Weights in float32: the logits of a scaled row are bias + weight * row, sums in float64 in the order of the features.
struct linear_classifier {
  index_t dimension = 0;
  std::vector<float> weight = {};  // [classes, dimension]
  std::vector<float> bias = {};    // [classes]
  std::vector<float> scale = {};   // [dimension]

  [[nodiscard]] std::size_t classes() const noexcept { return bias.size(); }

  /// @param out [classes]
  void logits(feature_row const& row, double* out) const noexcept {
    for (std::size_t k = 0; k < classes(); ++k) {
      float const* const w = weight.data() + k * static_cast<std::size_t>(dimension);
      double sum = static_cast<double>(bias[k]);
      for (feature const& f : row) { sum += static_cast<double>(w[f.index]) * static_cast<double>(f.value); }
      out[k] = sum;
    }
  }
};

/// Rows with the class of each and how much each counts.
struct labelled_rows {
  std::span<feature_row const> row;
  std::span<std::size_t const> label;
  std::span<double const> weight;
};

/// Cross entropy of some of the rows plus l2 / 2 times the squared weights (not the biases), as a function of
/// [features that occur, classes] weights and [classes] biases. The rows' weights are divided by their sum.
class softmax_loss {
 public:
  softmax_loss(labelled_rows const& rows, std::span<std::size_t const> chosen, std::size_t classes, double l2,
               cpu const& be)
      : classes_(classes), l2_(l2), be_(be) {
    for (std::size_t const i : chosen) {
      for (feature const& f : rows.row[i]) { features_.push_back(f.index); }
    }
    std::sort(features_.begin(), features_.end());
    features_.erase(std::unique(features_.begin(), features_.end()), features_.end());
    double total = 0.0;
    for (std::size_t const i : chosen) { total += rows.weight[i]; }
    std::vector<std::size_t> count(features_.size() + 1);
    row_start_.push_back(0);
    for (std::size_t const i : chosen) {
      label_.push_back(rows.label[i]);
      weight_.push_back(rows.weight[i] / total);
      for (feature const& f : rows.row[i]) {
        auto const at = std::lower_bound(features_.begin(), features_.end(), f.index) - features_.begin();
        by_row_.push_back({static_cast<std::uint32_t>(at), f.value});
        ++count[static_cast<std::size_t>(at) + 1];
      }
      row_start_.push_back(by_row_.size());
    }
    // The same elements by feature, each in the order of the rows.
    for (std::size_t f = 1; f < count.size(); ++f) { count[f] += count[f - 1]; }
    feature_start_ = count;
    by_feature_.resize(by_row_.size());
    for (std::size_t r = 0; r < label_.size(); ++r) {
      for (std::size_t e = row_start_[r]; e < row_start_[r + 1]; ++e) {
        by_feature_[count[by_row_[e].index]++] = {static_cast<std::uint32_t>(r), by_row_[e].value};
      }
    }
    slope_.resize(label_.size() * classes_);
    row_loss_.resize(label_.size());
  }

  [[nodiscard]] std::size_t variables() const noexcept { return (features_.size() + 1) * classes_; }

  /// The loss at x, and its gradient. Every sum has one order, however many threads share the work.
  double operator()(std::vector<double> const& x, std::vector<double>& gradient) const {
    for_each_block(label_.size(), [&](std::size_t r) { visit_row(x, r); });
    for_each_block(features_.size(), [&](std::size_t f) { visit_feature(x, f, gradient); });
    double loss = 0.0;
    std::size_t const biases = features_.size() * classes_;
    for (std::size_t k = 0; k < classes_; ++k) { gradient[biases + k] = 0.0; }
    for (std::size_t r = 0; r < label_.size(); ++r) {
      loss += row_loss_[r];
      for (std::size_t k = 0; k < classes_; ++k) { gradient[biases + k] += slope_[r * classes_ + k]; }
    }
    double squares = 0.0;
    for (std::size_t i = 0; i < biases; ++i) { squares += x[i] * x[i]; }
    return loss + 0.5 * l2_ * squares;
  }

  /// The point x as weights of all features; those that didn't occur weigh nothing.
  [[nodiscard]] linear_classifier classifier(std::vector<double> const& x, index_t dimension) const {
    linear_classifier c{dimension, std::vector<float>(classes_ * static_cast<std::size_t>(dimension)),
                        std::vector<float>(classes_), {}};
    for (std::size_t k = 0; k < classes_; ++k) {
      float* const w = c.weight.data() + k * static_cast<std::size_t>(dimension);
      for (std::size_t f = 0; f < features_.size(); ++f) { w[features_[f]] = static_cast<float>(x[f * classes_ + k]); }
      c.bias[k] = static_cast<float>(x[features_.size() * classes_ + k]);
    }
    return c;
  }

 private:
  struct element {
    std::uint32_t index;  // of a feature, or of a row
    float value;
  };

  template <class F>
  void for_each_block(std::size_t count, F const& f) const {
    constexpr std::size_t block = 256;
    be_.for_each(static_cast<index_t>((count + block - 1) / block), [&](index_t b) {
      std::size_t const first = static_cast<std::size_t>(b) * block;
      for (std::size_t i = first; i < std::min(first + block, count); ++i) { f(i); }
    });
  }

  /// Loss of a row, and how it changes with each logit.
  void visit_row(std::vector<double> const& x, std::size_t r) const {
    double* const slope = slope_.data() + r * classes_;
    double const* const bias = x.data() + features_.size() * classes_;
    for (std::size_t k = 0; k < classes_; ++k) { slope[k] = bias[k]; }
    for (std::size_t e = row_start_[r]; e < row_start_[r + 1]; ++e) {
      double const* const w = x.data() + by_row_[e].index * classes_;
      double const value = static_cast<double>(by_row_[e].value);
      for (std::size_t k = 0; k < classes_; ++k) { slope[k] += w[k] * value; }
    }
    double const own = slope[label_[r]];
    row_loss_[r] = weight_[r] * (softmax(slope, classes_) - own);
    slope[label_[r]] -= 1.0;
    for (std::size_t k = 0; k < classes_; ++k) { slope[k] *= weight_[r]; }
  }

  void visit_feature(std::vector<double> const& x, std::size_t f, std::vector<double>& gradient) const {
    double* const g = gradient.data() + f * classes_;
    for (std::size_t k = 0; k < classes_; ++k) { g[k] = l2_ * x[f * classes_ + k]; }
    for (std::size_t e = feature_start_[f]; e < feature_start_[f + 1]; ++e) {
      double const* const slope = slope_.data() + by_feature_[e].index * classes_;
      double const value = static_cast<double>(by_feature_[e].value);
      for (std::size_t k = 0; k < classes_; ++k) { g[k] += slope[k] * value; }
    }
  }

  std::size_t classes_;
  double l2_;
  cpu const& be_;
  std::vector<std::uint32_t> features_;  // those that occur, rising
  std::vector<std::size_t> label_;
  std::vector<double> weight_;
  std::vector<std::size_t> row_start_;
  std::vector<element> by_row_;
  std::vector<std::size_t> feature_start_;
  std::vector<element> by_feature_;
  mutable std::vector<double> slope_;     // [rows, classes]
  mutable std::vector<double> row_loss_;  // [rows]
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
