#pragma once

#include <braid/backend/backend.hpp>
#include <braid/backend/cpu/channel_curve.hpp>
#include <braid/backend/cpu/group_merge.hpp>
#include <braid/backend/cpu/residual_group.hpp>
#include <braid/cluster/detail/agreement.hpp>
#include <braid/cluster/detail/partition.hpp>
#include <braid/core/error.hpp>

#include <algorithm>
#include <string>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace ops {

/// Channel Merging of a block of channels on one CPU thread: each channel is measured, clustered, pruned and merged
/// while its rows are in cache. Blocks are independent, so threads take a block each.
template <class Prune, class Similarity, class Cluster, class Consensus, class Residual>
struct merge_channels<cpu, Prune, Similarity, Cluster, Consensus, Residual> {
  Prune const& prune;
  Similarity const& similarity;
  Cluster const& cluster;
  Consensus const& consensus;
  Residual const& residual;
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
    bool const may_code = codes_anything(residual);
    detail::residual_columns const columns(context, work);
    for (index_t row = 0; row < block.rows; ++row) {
      detail::find_distinct(block, row, context.cols, work, distinct);
      residual_code code = residual.code;
      int const used = cluster_channel(context, block, row, distinct, group, code, out, work);

      std::uint8_t* const label = out.label + row * experts;
      for (int e = 0; e < experts; ++e) {
        label[e] = static_cast<std::uint8_t>(group[static_cast<std::size_t>(distinct.of_expert[static_cast<std::size_t>(e)])]);
      }
      if (may_code) { begin_residuals(context, code, experts, out, work); }
      for (int g = 0; g < used; ++g) {
        std::byte* const to = g == 0 ? out.group_zero + static_cast<std::size_t>(row) * row_bytes
                                     : out.extra + static_cast<std::size_t>(out.extra_rows++) * row_bytes;
        write_group(context, columns, block, row, distinct, label, group, g, code, to, out, work);
      }
      if (may_code) { end_residuals(context, code, experts, out, work); }
    }
  }

 private:
  /// Groups of the distinct rows. @return how many groups there are
  /// @param code in: the method's; out: with a budget, what it chose for this channel
  int cluster_channel(tensor_context const& context, channel_block const& block, index_t row,
                      detail::distinct_rows const& distinct, std::array<int, max_experts>& group, residual_code& code,
                      merged_block& out, detail::channel_workspace& work) const {
    int const n = distinct.count;
    int used = groups < n ? groups : n;
    bool const chooses = context.budget != nullptr && n > 1;
    if (!chooses && (used == n || used == 1)) {
      // Nothing to choose. Without a Gram matrix, whose diagonal would show them, NaN and infinity are looked for.
      if (!context.allow_nonfinite) { detail::check_finite_channel(block, row, context.cols, work); }
      for (int d = 0; d < n; ++d) { group[static_cast<std::size_t>(d)] = used == 1 ? 0 : d; }
      return used;
    }
    bool const signs = similarity.operand == gram_operand::signs;
    if (chooses) {
      detail::channel_gram(context, block, row, distinct, false, work);
      if (!context.allow_nonfinite) { detail::check_gram(context, block, row, distinct, false, work); }
      work.delta_gram = work.gram;
    }
    if (!chooses || signs) {
      detail::channel_gram(context, block, row, distinct, signs, work);
      if (!context.allow_nonfinite) { detail::check_gram(context, block, row, distinct, signs, work); }
    }
    detail::normalise_gram(similarity, context.norms, distinct, work.gram.data());
    double* const gram = work.gram.data();
    cluster_problem problem{n, used, gram, distinct.weight.data(), context.stream, block.first + row};
    if (chooses) {
      detail::budget_curve(similarity, cluster, problem, distinct, context.budget->importance, context.cols,
                           size_of(block.out), codes_of(residual), work);
      auto const choice = braid::cluster::choose(work.curve.points, context.budget->price);
      code = choice.code;
      used = problem.groups = choice.groups;
      if (used == 1 || used == n) {
        for (int d = 0; d < n; ++d) { group[static_cast<std::size_t>(d)] = used == 1 ? 0 : d; }
        return used;
      }
    }
    cluster.partition(similarity, problem, group.data());
    int const found = braid::cluster::detail::checked_groups(cluster.name, n, used, group.data());
    add_similarity(problem, group.data(), out);
    return found;
  }

  static void add_similarity(cluster_problem const& problem, int const* group, merged_block& out) {
    for (int i = 0; i < problem.count; ++i) {
      out.similarity += braid::cluster::detail::row_agreement(problem, group, i);
      out.compared += problem.weight[i];
    }
  }

  /// The distinct rows of one group.
  struct group_rows {
    int count = 0;
    std::array<int, max_experts> expert;  // the first expert that has it
    std::array<int, max_experts> weight;  // how many have it
    std::array<int, max_experts> place;   // by number of the distinct row: where in this list it stands
  };

  /// A group of one distinct row is copied bit for bit; others are merged over all their experts.
  void write_group(tensor_context const& context, detail::residual_columns const& columns, channel_block const& block, index_t row,
                   detail::distinct_rows const& distinct, std::uint8_t const* label,
                   std::array<int, max_experts> const& group, int g, residual_code code, std::byte* to,
                   merged_block& out, detail::channel_workspace& work) const {
    group_rows rows;
    for (int d = 0; d < distinct.count; ++d) {
      auto const slot = static_cast<std::size_t>(d);
      if (group[slot] != g) { continue; }
      auto const at = static_cast<std::size_t>(rows.count);
      rows.place[slot] = rows.count++;
      rows.expert[at] = distinct.first[slot];
      rows.weight[at] = distinct.weight[slot];
    }
    if (rows.count == 1) {
      channel_rows const& expert = block.experts[static_cast<std::size_t>(rows.expert[0])];
      detail::convert(expert.type, expert.row(row), block.out, to, context.cols);
      return;
    }
    std::array<int, max_experts> member;
    int n = 0;
    for (std::size_t e = 0; e < block.experts.size(); ++e) {
      if (label[e] == g) { member[static_cast<std::size_t>(n++)] = static_cast<int>(e); }
    }
    auto const merge = [&] { detail::merge_group(prune, consensus, lambda, context, block, row, member.data(), n, to, work); };
    if (code == residual_code::none) { return merge(); }
    with_code(residual, code, [&](auto const& policy) {
      // Refining the shared row starts from the members themselves where there are two of them.
      if (policy.sweeps <= 0 || rows.count > 2) { merge(); }
      code_group(policy, context, columns, block, row, distinct, rows, label, g, to, out, work);
    });
  }

  /// Codes of a channel: none, until a group of several rows says otherwise.
  static void begin_residuals(tensor_context const& context, residual_code code, int experts, merged_block& out,
                              detail::channel_workspace& work) {
    auto const n = static_cast<std::size_t>(experts);
    out.residual->code.resize(out.residual->code.size() + n, residual_code::none);
    auto const plane = static_cast<std::size_t>(residual_bytes(code, context.cols));
    work.planes.resize(2 * n * plane);
    work.scales.resize(2 * n * static_cast<std::size_t>(residual_scales(code)));
  }

  /// The residuals of one group, into the workspace's places of its experts.
  template <class Policy>
  static void code_group(Policy const& policy, tensor_context const& context, detail::residual_columns const& columns,
                         channel_block const& block, index_t row, detail::distinct_rows const& distinct, group_rows const& rows, std::uint8_t const* label, int g,
                         std::byte* to, merged_block& out, detail::channel_workspace& work) {
    auto const plane = static_cast<std::size_t>(residual_bytes(policy.code, context.cols));
    auto const scales = static_cast<std::size_t>(residual_scales(policy.code));
    std::size_t const experts = block.experts.size();
    std::byte* const coded = work.planes.data() + experts * plane;  // the second half: in the order of the group
    bfloat16* const scale = work.scales.data() + experts * scales;
    detail::residual_group<Policy>(policy, columns, block, row, context.cols, work)
        .code(rows.expert.data(), rows.weight.data(), rows.count, to, coded, scale);
    residual_code* const code = out.residual->code.data() + out.residual->code.size() - experts;
    for (std::size_t e = 0; e < experts; ++e) {
      if (label[e] != g) { continue; }
      code[e] = policy.code;
      auto const from = static_cast<std::size_t>(rows.place[static_cast<std::size_t>(distinct.of_expert[e])]);
      std::copy_n(coded + from * plane, plane, work.planes.data() + e * plane);
      std::copy_n(scale + from * scales, scales, work.scales.data() + e * scales);
    }
  }

  /// Appends a channel's residuals in the order of the experts.
  static void end_residuals(tensor_context const& context, residual_code used, int experts, merged_block& out,
                            detail::channel_workspace& work) {
    auto const plane = static_cast<std::ptrdiff_t>(residual_bytes(used, context.cols));
    auto const scales = static_cast<std::ptrdiff_t>(residual_scales(used));
    residual_code const* const code = out.residual->code.data() + out.residual->code.size() - static_cast<std::size_t>(experts);
    for (std::ptrdiff_t e = 0; e < experts; ++e) {
      if (code[e] == residual_code::none) { continue; }
      auto const p = work.planes.begin() + e * plane;
      auto const s = work.scales.begin() + e * scales;
      out.residual->planes.insert(out.residual->planes.end(), p, p + plane);
      out.residual->scales.insert(out.residual->scales.end(), s, s + scales);
    }
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
