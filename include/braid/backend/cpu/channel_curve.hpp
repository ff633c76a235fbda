#pragma once

/// The Gram matrices of a channel as clusterings and budgets need them.

#include <braid/backend/cpu/channel_gram.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// The length that scales each distinct row. Experts that share a row may differ in the rest of the tensor: the
/// harmonic mean of their lengths gives the sum of their scaled rows, and the error that it hides is the same for every
/// partition, since they are never parted.
inline void shared_norms(std::vector<double> const& of_experts, distinct_rows const& distinct, double* norms) {
  for (int d = 0; d < distinct.count; ++d) {
    auto const slot = static_cast<std::size_t>(d);
    norms[d] = of_experts[static_cast<std::size_t>(distinct.first[slot])];
    if (distinct.weight[slot] == 1) { continue; }
    double inverse = 0.0;
    for (std::size_t e = 0; e < of_experts.size(); ++e) {
      if (distinct.of_expert[e] == d && of_experts[e] > 0.0) { inverse += 1.0 / of_experts[e]; }
    }
    if (inverse > 0.0) { norms[d] = distinct.weight[slot] / inverse; }
  }
}

inline void zero_nonfinite(double* gram, int n) noexcept {
  for (int i = 0; i < n * n; ++i) {
    if (!std::isfinite(gram[i])) { gram[i] = 0.0; }
  }
}

/// Brings a channel's Gram matrix [count, count] into the similarity's own space, in place.
/// @param norms [experts], empty unless the similarity needs them
template <class Similarity>
void normalise_gram(Similarity const& similarity, std::vector<double> const& norms, distinct_rows const& distinct, double* gram) {
  double of_rows[max_experts];
  if (similarity.needs_norms) { shared_norms(norms, distinct, of_rows); }
  zero_nonfinite(gram, distinct.count);
  similarity.normalise(gram, distinct.count, similarity.needs_norms ? of_rows : nullptr);
}

/// The curve of a channel whose normalised Gram matrix is `problem.gram`, and the plain one of its deltas
/// `work.delta_gram`: into `work.curve.points`.
template <class Similarity, class Cluster>
void budget_curve(Similarity const& similarity, Cluster const& cluster, cluster_problem const& problem,
                  distinct_rows const& distinct, std::vector<double> const& importance, index_t cols,
                  std::size_t element_bytes, residual_code_list const& codes, channel_workspace& work) {
  zero_nonfinite(work.delta_gram.data(), distinct.count);
  work.importance.assign(static_cast<std::size_t>(distinct.count), 0.0);
  for (std::size_t e = 0; e < importance.size(); ++e) {
    work.importance[static_cast<std::size_t>(distinct.of_expert[e])] += importance[e];
  }
  // An error is that of a row, whatever the number of experts that have it; these count in the importance.
  braid::cluster::budget_channel const channel{problem, work.delta_gram.data(), work.importance.data(), cols, element_bytes};
  braid::cluster::channel_curve(similarity, cluster, channel, codes, work.curve);
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
