#pragma once

/// Merges the experts of one group of one channel: prune each delta, agree, add the base, round once.

#include <braid/backend/cpu/channel_gram.hpp>

#include <array>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Prunes `count` consecutive columns in place. A plan may offer `apply` for whole runs; else it is asked for each
/// element.
template <class Plan>
struct prune_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(Plan plan, float* x, int count, index_t row, index_t col) noexcept {
    if constexpr (requires { plan.apply(x, count, row, col); }) {
      plan.apply(x, count, row, col);
    } else {
      for (int c = 0; c < count; ++c) { x[c] = plan(x[c], row, col + c); }
    }
  }
};

/// Merges `count` columns of `n` members that lie a segment apart. A policy may offer `combine` for whole runs.
template <class Consensus>
struct consensus_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(Consensus const* consensus, float* member, int n, int count, float* out) noexcept {
    if constexpr (requires { consensus->combine(member, index_t{segment_stride}, n, count, out); }) {
      consensus->combine(member, segment_stride, n, count, out);
    } else {
      float one[max_experts];
      for (int c = 0; c < count; ++c) {
        for (int i = 0; i < n; ++i) { one[i] = member[i * segment_stride + c]; }
        out[c] = (*consensus)(static_cast<float const*>(one), n);
      }
    }
  }
};

/// The plan of one expert for one row, whatever the policy has to know.
template <class Prune>
auto plan_for_row(Prune const& prune, tensor_context const& context, int expert, magnitude_cut const& row_cut,
                  magnitude_ranks const& ranks) {
  static_assert(Prune::measures != statistic::tensor_band,
                "braid: channel_merge doesn't cut deltas on both sides; such a pruning is for task_arithmetic");
  auto const e = static_cast<std::size_t>(expert);
  if constexpr (Prune::measures == statistic::none) {
    return prune.plan(context.keys[e]);
  } else if constexpr (Prune::measures == statistic::tensor_cut) {
    return prune.plan(context.keys[e], context.cuts[e]);
  } else if constexpr (Prune::measures == statistic::row_cut) {
    return prune.plan(context.keys[e], row_cut);
  } else {
    return prune.plan(context.keys[e], ranks);
  }
}

/// Whether the plans of a pruning policy keep everything.
template <class Prune>
constexpr bool prunes_nothing() {
  if constexpr (Prune::measures == statistic::none) {
    return requires { requires decltype(std::declval<Prune const&>().plan(tensor_key{}))::keeps_all; };
  } else {
    return false;
  }
}

/// The whole row in registers, where nothing is pruned, the members are few and everything has one type.
/// @return false where that isn't so
template <class Consensus>
bool merge_group_direct(Consensus const& consensus, float lambda, index_t cols, channel_block const& block, index_t row,
                        int const* member, int n, std::byte* out) {
  dtype const type = block.out;
  if (n > most_direct || !has_direct_kernels(type) || block.base.type != type || !one_type(block)) { return false; }
  visit_direct_dtype(type, [&]<class T>(T*) {
    T const* rows[most_direct + 1];
    rows[0] = reinterpret_cast<T const*>(block.base.row(row));
    for (int m = 0; m < n; ++m) {
      rows[m + 1] = reinterpret_cast<T const*>(block.experts[static_cast<std::size_t>(member[m])].row(row));
    }
    with_row_count(n, [&]<int N>(std::integral_constant<int, N>) {
      dispatch<direct_merge_body<T, Consensus, N>>(&consensus, static_cast<T const* const*>(rows), cols, lambda,
                                                   reinterpret_cast<T*>(out));
    });
  });
  return true;
}

template <class Prune, class Consensus>
void merge_group(Prune const& prune, Consensus const& consensus, float lambda, tensor_context const& context,
                 channel_block const& block, index_t row, int const* member, int n, std::byte* out,
                 channel_workspace& work) {
  if constexpr (prunes_nothing<Prune>() && merges_lanes<Consensus>) {
    if (merge_group_direct(consensus, lambda, context.cols, block, row, member, n, out)) { return; }
  }
  index_t const channel = block.first + row;
  std::byte const* const base_row = block.base.row(row);

  // What the pruning of this row has to measure first.
  std::array<magnitude_cut, max_experts> cuts;
  std::array<magnitude_ranks, max_experts> ranks;
  if constexpr (Prune::measures == statistic::row_cut || Prune::measures == statistic::row_ranks) {
    float* const whole = work.row.fit(static_cast<std::size_t>(context.cols));
    if (work.ranks.size() < static_cast<std::size_t>(n)) { work.ranks.resize(static_cast<std::size_t>(n)); }
    for (int m = 0; m < n; ++m) {
      auto const slot = static_cast<std::size_t>(m);
      channel_rows const& expert = block.experts[static_cast<std::size_t>(member[m])];
      row_delta(expert.row(row), expert.type, base_row, block.base.type, context.cols, work, whole);
      if constexpr (Prune::measures == statistic::row_cut) {
        cuts[slot] = row_cut(whole, context.cols, prune.keep_count(context.cols), work.select);
      } else {
        work.ranks[slot].resize(static_cast<std::size_t>(context.cols));
        row_ranks(whole, context.cols, work.select, work.ranks[slot].data());
        ranks[slot] = {work.ranks[slot].data(), context.cols};
      }
    }
  }

  float* const base = work.base.fit(sum_order::segment);
  float* const merged = work.merged.fit(sum_order::segment);
  float* const deltas = work.deltas.fit(static_cast<std::size_t>(n) * sum_order::segment);
  for_each_segment(context.cols, [&](index_t c, int count) {
    widen(block.base.type, at_column(base_row, block.base.type, c), base, count);
    for (int m = 0; m < n; ++m) {
      channel_rows const& expert = block.experts[static_cast<std::size_t>(member[m])];
      float* const delta = deltas + m * segment_stride;
      subtract_base(expert.type, at_column(expert.row(row), expert.type, c), static_cast<float const*>(base), delta, count);
      auto const slot = static_cast<std::size_t>(m);
      auto const plan = plan_for_row(prune, context, member[m], cuts[slot], ranks[slot]);
      dispatch<prune_body<std::remove_cv_t<decltype(plan)>>>(plan, delta, count, channel, c);
    }
    dispatch<consensus_body<Consensus>>(&consensus, deltas, n, count, merged);
    add_base(block.out, base, merged, lambda, out + static_cast<std::size_t>(c) * size_of(block.out), count);
  });
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
