#pragma once

/// What training a router does around its regression: parts that are held out, and the temperature.

#include <braid/core/hash.hpp>
#include <braid/serve/detail/softmax_regression.hpp>

#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// In which part each query is held out: whole groups, an expert's groups shuffled by hash and dealt out so that parts
/// are about equal. Queries without a group are groups of their own.
/// @param label, group  of each query
/// @throws argument_error if all queries of an expert are one group
inline std::vector<int> held_out_parts(std::span<std::size_t const> label, std::span<std::string const> group,
                                       std::vector<std::string> const& experts, int parts, std::uint64_t seed) {
  std::vector<int> part(label.size());
  for (std::size_t k = 0; k < experts.size(); ++k) {
    std::map<std::string, std::vector<std::size_t>> members;
    std::size_t number = 0;
    for (std::size_t i = 0; i < label.size(); ++i) {
      if (label[i] != k) { continue; }
      // A zero byte: no group that somebody named is meant.
      std::string const own = group[i].empty() ? std::string(1, '\0') + std::to_string(number) : group[i];
      members[own].push_back(i);
      ++number;
    }
    if (members.size() < 2) {
      throw argument_error("router: the queries of expert '" + experts[k] +
                           "' are one group, and calibration holds groups out: give more, or no parts");
    }
    std::vector<std::pair<std::uint64_t, std::vector<std::size_t> const*>> order;
    for (auto const& [name, rows] : members) {
      order.push_back({stream_hash(name, experts[k] + '\0' + std::to_string(seed)), &rows});
    }
    std::stable_sort(order.begin(), order.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
    std::vector<std::size_t> size(static_cast<std::size_t>(parts));
    for (auto const& [hash, rows] : order) {
      auto const least = std::min_element(size.begin(), size.end()) - size.begin();
      size[static_cast<std::size_t>(least)] += rows->size();
      for (std::size_t const i : *rows) { part[i] = static_cast<int>(least); }
    }
  }
  return part;
}

/// How much each row counts: every class the same in all.
inline std::vector<double> balancing_weights(std::span<std::size_t const> label, std::size_t classes) {
  std::vector<double> count(classes);
  for (std::size_t const k : label) { count[k] += 1.0; }
  std::vector<double> weight;
  for (std::size_t const k : label) { weight.push_back(1.0 / count[k]); }
  return weight;
}

/// 1 / temperature: the factor of the logits that makes the cross entropy least, between 1/20 and 20. Labels are smoothed
/// by 1 / (rows + 2), so that a hundred right answers in a row don't become certainty.
/// @param logits [rows, classes]
/// @note Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2 (temperature scaling); Platt,
///       "Probabilistic Outputs for Support Vector Machines", 1999 (smoothed targets)
inline double best_sharpness(std::vector<double> const& logits, std::span<std::size_t const> label,
                             std::span<double const> weight, std::size_t classes) {
  double const smoothed = 1.0 / (static_cast<double>(label.size()) + 2.0);
  double const others = classes > 1 ? smoothed / static_cast<double>(classes - 1) : 0.0;
  std::vector<double> p(classes);
  // The derivative rises with sharpness: the cross entropy is convex in it.
  auto const derivative = [&](double sharpness) {
    double sum = 0.0;
    for (std::size_t i = 0; i < label.size(); ++i) {
      double const* const z = logits.data() + i * classes;
      p.assign(z, z + classes);
      softmax(p.data(), classes, sharpness);
      double row = 0.0;
      for (std::size_t k = 0; k < classes; ++k) {
        row += (p[k] - (k == label[i] ? 1.0 - smoothed : others)) * z[k];
      }
      sum += weight[i] * row;
    }
    return sum;
  };
  double least = 0.05;
  double most = 20.0;
  if (derivative(least) >= 0.0) { return least; }
  if (derivative(most) <= 0.0) { return most; }
  for (int i = 0; i < 60; ++i) {
    double const middle = 0.5 * (least + most);
    (derivative(middle) < 0.0 ? least : most) = middle;
  }
  return 0.5 * (least + most);
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
