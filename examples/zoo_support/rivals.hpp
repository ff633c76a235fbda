#pragma once

/// Other ways to spend the same bytes, in the plainest code, so that braid's own points have something to beat:
///
///   BitDelta without training (Liu et al., NeurIPS 2024, arXiv 2402.10193, "BitDelta-Initial"): the base, and for each
///   expert the signs of its delta times a scale.
///   Groups of whole tensors (FlexMerge, ICLR 2026, arXiv 2505.23209): each tensor has one partition of the experts.
///   One partition for the whole model.

#include "zoo_tensors.hpp"

#include <braid/cluster/any.hpp>
#include <braid/core/hash.hpp>
#include <braid/similarity/any.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string_view>

namespace zoo {

/// BitDelta: W ~ base + s0 * sign(d) + s1 * sign(d - s0 * sign(d)) ..., a zero counting as plus. A scale is the mean
/// absolute value of what is left, per tensor or per row, and is stored in bfloat16.
struct bitdelta {
  int passes = 1;           ///< signs an element
  bool row_scales = false;  ///< a scale a row instead of one a tensor
};

/// An expert's weight as BitDelta gives it back: float32 sums, means in float64, one rounding to bfloat16 at the end.
/// @param base, expert [rows * cols]
inline std::vector<bfloat16> rebuilt_by(bitdelta const& code, std::span<bfloat16 const> base,
                                        std::span<bfloat16 const> expert, std::size_t cols) {
  std::vector<float> sum(base.size());   // base and what the passes have added
  std::vector<float> left(base.size());  // what they haven't
  for (std::size_t i = 0; i < base.size(); ++i) {
    sum[i] = static_cast<float>(base[i]);
    left[i] = static_cast<float>(expert[i]) - sum[i];
  }
  std::size_t const length = code.row_scales ? cols : base.size();  // elements that share a scale
  for (int pass = 0; pass < code.passes; ++pass) {
    for (std::size_t first = 0; first < base.size(); first += length) {
      double total = 0.0;
      for (std::size_t i = first; i < first + length; ++i) { total += std::fabs(static_cast<double>(left[i])); }
      float const scale = static_cast<float>(bfloat16(static_cast<float>(total / static_cast<double>(length))));
      for (std::size_t i = first; i < first + length; ++i) {
        float const value = left[i] < 0.0f ? -scale : scale;
        sum[i] += value;
        left[i] -= value;
      }
    }
  }
  std::vector<bfloat16> out(base.size());
  std::transform(sum.begin(), sum.end(), out.begin(), [](float x) { return bfloat16(x); });
  return out;
}

/// What BitDelta stores of a merged tensor: the base in its own type; for each expert and pass a bit an element, rows
/// padded to bytes, and the scales in bfloat16. No index: every expert has every row.
inline stored_bytes bytes_of(bitdelta const& code, index_t rows, index_t cols, std::size_t experts) {
  auto const r = static_cast<std::uint64_t>(rows);
  auto const c = static_cast<std::uint64_t>(cols);
  std::uint64_t const times = experts * static_cast<std::uint64_t>(code.passes);
  stored_bytes s;
  s.rows = r * c * sizeof(bfloat16);
  s.planes = times * r * ((c + 7) / 8);
  s.scales = times * (code.row_scales ? r : 1) * sizeof(bfloat16);
  return s;
}

/// Every expert as BitDelta gives it back. What isn't merged is kept for every expert, as by every other method.
inline rebuilt_zoo rebuilt_by(bitdelta const& code, zoo_tensors const& zoo) {
  rebuilt_zoo out;
  out.stored.kept = zoo.kept_bytes;
  for (merged_tensor const& t : zoo.merged) {
    out.stored += bytes_of(code, t.rows, t.cols, zoo.experts());
    auto& experts = out.weights.emplace_back();
    for (auto const& e : t.experts) {
      experts.push_back(rebuilt_by(code, t.base, e, static_cast<std::size_t>(t.cols)));
    }
  }
  return out;
}

/// Dot products of the experts' deltas over a whole tensor, row-major [experts, experts], float64.
inline std::vector<double> gram_of(merged_tensor const& t) {
  std::size_t const n = t.experts.size();
  std::vector<double> gram(n * n);
  std::vector<double> delta(n);
  for (std::size_t i = 0; i < t.base.size(); ++i) {
    for (std::size_t e = 0; e < n; ++e) {
      delta[e] = static_cast<double>(static_cast<float>(t.experts[e][i]) - static_cast<float>(t.base[i]));
      for (std::size_t f = 0; f <= e; ++f) { gram[e * n + f] += delta[e] * delta[f]; }
    }
  }
  for (std::size_t e = 0; e < n; ++e) {
    for (std::size_t f = 0; f < e; ++f) { gram[f * n + e] = gram[e * n + f]; }
  }
  return gram;
}

/// A partition of the experts, as group numbers by first appearance.
using partition = std::vector<int>;

/// The partition that a clustering finds in one Gram matrix of all experts.
/// @param stream  keys random choices
inline partition clustered(braid::cluster::any const& cluster, braid::similarity::any const& similarity,
                           std::vector<double> gram, std::size_t experts, int groups, std::string_view stream) {
  int const n = static_cast<int>(experts);
  std::vector<double> norms;
  for (std::size_t e = 0; e < experts; ++e) { norms.push_back(std::sqrt(gram[e * experts + e])); }
  similarity.normalise(gram.data(), n, norms.data());
  std::vector<int> const weight(experts, 1);
  braid::cluster_problem problem;
  problem.count = n;
  problem.groups = groups;
  problem.gram = gram.data();
  problem.weight = weight.data();
  problem.stream = braid::stream_hash(stream, "");
  partition label(experts);
  cluster.partition(similarity, problem, label.data());
  return label;
}

/// A partition for each tensor, found in its own Gram matrix.
inline std::vector<partition> partition_per_tensor(braid::cluster::any const& cluster,
                                                   braid::similarity::any const& similarity, zoo_tensors const& zoo,
                                                   int groups) {
  std::vector<partition> all;
  for (auto const& t : zoo.merged) {
    all.push_back(clustered(cluster, similarity, gram_of(t), zoo.experts(), groups, t.name));
  }
  return all;
}

/// One partition for all tensors, found in the Gram matrix of the whole deltas.
inline std::vector<partition> partition_of_model(braid::cluster::any const& cluster,
                                                 braid::similarity::any const& similarity, zoo_tensors const& zoo,
                                                 int groups) {
  std::vector<double> sum(zoo.experts() * zoo.experts());
  for (auto const& t : zoo.merged) {
    auto const gram = gram_of(t);
    std::transform(sum.begin(), sum.end(), gram.begin(), sum.begin(), std::plus<>());
  }
  return {zoo.merged.size(), clustered(cluster, similarity, sum, zoo.experts(), groups, "model")};
}

/// Merges each tensor's groups of experts, whole tensors at a time.
/// @param merge one group: what braid does with K = 1, so that the same policies work on all groupings
/// @param partitions one for each tensor; stored as a byte an expert: once if all are equal, otherwise for each tensor
inline rebuilt_zoo merged_in_groups(tensor_merge const& merge, zoo_tensors const& zoo,
                                    std::vector<partition> const& partitions) {
  rebuilt_zoo out;
  out.stored.kept = zoo.kept_bytes;
  bool const one = std::all_of(partitions.begin(), partitions.end(), [&](auto const& p) { return p == partitions[0]; });
  out.stored.index = zoo.experts() * (one ? 1 : partitions.size());
  for (std::size_t i = 0; i < zoo.merged.size(); ++i) {
    merged_tensor const& t = zoo.merged[i];
    auto& experts = out.weights.emplace_back(zoo.experts());
    int const groups = 1 + *std::max_element(partitions[i].begin(), partitions[i].end());
    for (int g = 0; g < groups; ++g) {
      std::vector<braid::expert_view<bfloat16>> views;
      for (std::size_t e = 0; e < zoo.experts(); ++e) {
        if (partitions[i][e] == g) { views.push_back({zoo.names[e], t.view(e)}); }
      }
      auto const grouped = merge(t.name, t.base_view(), views);
      out.stored += bytes_of(grouped);
      for (std::size_t e = 0; e < zoo.experts(); ++e) {
        if (partitions[i][e] != g) { continue; }
        experts[e].resize(t.base.size());
        grouped.extract(grouped.expert_number(zoo.names[e]), {experts[e].data(), t.rows, t.cols});
      }
    }
  }
  return out;
}

}  // namespace zoo
