#pragma once

#include <braid/backend/backend.hpp>
#include <braid/backend/cpu/channel_gram.hpp>
#include <braid/backend/cpu/group_merge.hpp>
#include <braid/cluster/detail/partition.hpp>
#include <braid/core/error.hpp>

#include <algorithm>
#include <string>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace ops {

/// Channel Merging of a block of channels on one CPU thread: each channel is measured, clustered, pruned and merged
/// while its rows are in cache. Blocks are independent, so threads take a block each.
template <class Prune, class Similarity, class Cluster, class Consensus>
struct merge_channels<cpu, Prune, Similarity, Cluster, Consensus> {
  Prune const& prune;
  Similarity const& similarity;
  Cluster const& cluster;
  Consensus const& consensus;
  int groups;
  float lambda;

  /// @throws detail::nonfinite_found unless the context allows NaN and infinity
  void operator()(tensor_context const& context, channel_block const& block, merged_block& out,
                  detail::channel_workspace& work) const {
    auto const row_bytes = static_cast<std::size_t>(context.cols) * size_of(block.out);
    auto const experts = static_cast<int>(block.experts.size());
    out.extra_rows = 0;
    detail::distinct_rows distinct;
    std::array<int, max_experts> group;  // of each distinct row
    for (index_t row = 0; row < block.rows; ++row) {
      detail::find_distinct(block, row, context.cols, work, distinct);
      int const used = cluster_channel(context, block, row, distinct, group, out, work);

      std::uint8_t* const label = out.label + row * experts;
      for (int e = 0; e < experts; ++e) {
        label[e] = static_cast<std::uint8_t>(group[static_cast<std::size_t>(distinct.of_expert[static_cast<std::size_t>(e)])]);
      }
      for (int g = 0; g < used; ++g) {
        std::byte* const to = g == 0 ? out.group_zero + static_cast<std::size_t>(row) * row_bytes
                                     : out.extra + static_cast<std::size_t>(out.extra_rows++) * row_bytes;
        write_group(context, block, row, distinct, label, group, g, to, work);
      }
    }
  }

 private:
  /// Groups of the distinct rows. @return how many groups there are
  int cluster_channel(tensor_context const& context, channel_block const& block, index_t row,
                      detail::distinct_rows const& distinct, std::array<int, max_experts>& group, merged_block& out,
                      detail::channel_workspace& work) const {
    int const n = distinct.count;
    int const used = groups < n ? groups : n;
    if (used == n || used == 1) {
      // Nothing to choose. Without a Gram matrix, whose diagonal would show them, NaN and infinity are looked for.
      if (!context.allow_nonfinite) { detail::check_finite_channel(block, row, context.cols, work); }
      for (int d = 0; d < n; ++d) { group[static_cast<std::size_t>(d)] = used == 1 ? 0 : d; }
      return used;
    }
    detail::channel_gram(block, row, context.cols, distinct, similarity.operand == gram_operand::signs, work);
    if (!context.allow_nonfinite) { check_gram(context, block, row, distinct, work); }
    double norms[max_experts];
    if (similarity.needs_norms) { shared_norms(context, distinct, norms); }
    double* const gram = work.gram.data();
    for (int i = 0; i < n * n; ++i) {
      if (!std::isfinite(gram[i])) { gram[i] = 0.0; }
    }
    similarity.normalise(gram, n, similarity.needs_norms ? norms : nullptr);
    cluster_problem const problem{n, used, gram, distinct.weight.data(), context.stream, block.first + row};
    cluster.partition(similarity, problem, group.data());
    int const found = checked_groups(n, used, group);
    add_similarity(n, group.data(), distinct, gram, out);
    return found;
  }

  /// The length that scales each distinct row. Experts that share a row may differ in the rest of the tensor: the
  /// harmonic mean of their lengths gives the sum of their scaled rows, and the error that it hides is the same for every
  /// partition, since they are never parted.
  static void shared_norms(tensor_context const& context, detail::distinct_rows const& distinct, double* norms) {
    for (int d = 0; d < distinct.count; ++d) {
      auto const slot = static_cast<std::size_t>(d);
      norms[d] = context.norms[static_cast<std::size_t>(distinct.first[slot])];
      if (distinct.weight[slot] == 1) { continue; }
      double inverse = 0.0;
      for (std::size_t e = 0; e < context.norms.size(); ++e) {
        if (distinct.of_expert[e] == d && context.norms[e] > 0.0) { inverse += 1.0 / context.norms[e]; }
      }
      if (inverse > 0.0) { norms[d] = distinct.weight[slot] / inverse; }
    }
  }

  /// Takes a clustering's labels, which may be a user's, and numbers them by first appearance.
  /// @return how many groups there are @throws argument_error for labels that no group can have
  int checked_groups(int n, int used, std::array<int, max_experts>& group) const {
    for (int d = 0; d < n; ++d) {
      int const label = group[static_cast<std::size_t>(d)];
      if (label < 0 || label >= used) {
        throw argument_error("cluster::" + std::string(cluster.name) + " gave the label " + std::to_string(label) +
                             " where " + std::to_string(used) + " groups were asked for: labels are 0 to " +
                             std::to_string(used - 1));
      }
    }
    braid::cluster::detail::canonicalise(n, group.data());
    return *std::max_element(group.begin(), group.begin() + n) + 1;
  }

  /// Looks closer where the Gram matrix isn't finite, or can't tell.
  void check_gram(tensor_context const& context, channel_block const& block, index_t row,
                  detail::distinct_rows const& distinct, detail::channel_workspace& work) const {
    bool const of_deltas = similarity.operand == gram_operand::deltas;
    bool finite = of_deltas;
    int suspect = 0;
    for (int d = 0; finite && d < distinct.count; ++d) {
      if (!std::isfinite(work.gram[static_cast<std::size_t>(d * distinct.count + d)])) {
        finite = false;
        suspect = distinct.first[static_cast<std::size_t>(d)];
      }
    }
    if (finite) { return; }
    detail::check_finite_channel(block, row, context.cols, work);
    if (of_deltas) { throw detail::nonfinite_found{{suspect, block.first + row, 0, 0.0f}}; }
  }

  /// Mean cosine between members and their group's sum, in the similarity's own (normalised) space.
  static void add_similarity(int n, int const* group, detail::distinct_rows const& distinct, double const* gram,
                             merged_block& out) {
    cluster_problem const problem{n, 0, gram, distinct.weight.data(), 0, 0};
    for (int i = 0; i < n; ++i) {
      double total = 0.0;
      for (int j = 0; j < n; ++j) {
        if (group[j] == group[i]) {
          total += distinct.weight[static_cast<std::size_t>(j)] * braid::cluster::detail::cross(problem, group, j, group[i]);
        }
      }
      double const lengths = std::sqrt(gram[i * n + i] > 0.0 ? gram[i * n + i] : 0.0) * std::sqrt(total > 0.0 ? total : 0.0);
      int const weight = distinct.weight[static_cast<std::size_t>(i)];
      double const cosine = lengths > 0.0 ? braid::cluster::detail::cross(problem, group, i, group[i]) / lengths : 1.0;
      out.similarity += weight * std::llround(cosine * merged_block::similarity_unit);
      out.compared += weight;
    }
  }

  /// A group of one distinct row is copied bit for bit; others are merged over all their experts.
  void write_group(tensor_context const& context, channel_block const& block, index_t row,
                   detail::distinct_rows const& distinct, std::uint8_t const* label,
                   std::array<int, max_experts> const& group, int g, std::byte* to, detail::channel_workspace& work) const {
    int rows_in_group = 0;
    int only = 0;
    for (int d = 0; d < distinct.count; ++d) {
      if (group[static_cast<std::size_t>(d)] == g) {
        ++rows_in_group;
        only = distinct.first[static_cast<std::size_t>(d)];
      }
    }
    if (rows_in_group == 1) {
      channel_rows const& expert = block.experts[static_cast<std::size_t>(only)];
      detail::convert(expert.type, expert.row(row), block.out, to, context.cols);
      return;
    }
    std::array<int, max_experts> member;
    int n = 0;
    for (std::size_t e = 0; e < block.experts.size(); ++e) {
      if (label[e] == g) { member[static_cast<std::size_t>(n++)] = static_cast<int>(e); }
    }
    detail::merge_group(prune, consensus, lambda, context, block, row, member.data(), n, to, work);
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
