#pragma once

/// The measuring pass of a storage budget.

#include <braid/backend/cpu/channel_curve.hpp>
#include <braid/backend/cpu/tensor_measures.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// What a budget has to know of a tensor before its curves can be drawn.
struct measured_grams {
  std::vector<std::uint8_t> row_of;  // [channels, experts]: number of the distinct row
  std::vector<float> dots;           // [channels, triangle of experts], of the distinct rows' deltas
  std::vector<float> sign_dots;      // the same of their signs; empty unless the similarity compares signs
  std::vector<double> squared;       // [experts]: squared lengths of the deltas over the tensor
};

/// Distinct rows from their numbers.
inline void read_distinct(std::uint8_t const* row_of, std::size_t experts, distinct_rows& distinct) {
  distinct.count = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    auto const d = static_cast<std::size_t>(row_of[e]);
    distinct.of_expert[e] = row_of[e];
    if (static_cast<int>(row_of[e]) == distinct.count) {
      distinct.first[d] = static_cast<int>(e);
      distinct.weight[d] = 0;
      ++distinct.count;
    }
    ++distinct.weight[d];
  }
}

/// Adds the curves of a tensor's channels to a histogram. @param op  a measure_curves
template <class Operation>
void add_curves(cpu const& be, Operation const& op, tensor_channels const& tensor, tensor_context const& context, tensor_budget const& budget,
                measured_grams const& g, braid::cluster::budget_histogram& histogram) {
  std::size_t const experts = tensor.experts.size();
  auto const entries = static_cast<std::size_t>(triangle(static_cast<index_t>(experts), 0));
  index_t const blocks = (tensor.channels + measure_rows - 1) / measure_rows;
  bool const signs = op.similarity.operand == gram_operand::signs;
  using step = std::pair<float, std::uint64_t>;
  struct block_steps {
    std::vector<step> all;
    float grouping = -1.0f;  // the steepest step to more than one group; below 0: there is none
    float coding = -1.0f;    // the steepest one to a code
  };
  std::vector<block_steps> steps(static_cast<std::size_t>(blocks));
  tbb::enumerable_thread_specific<channel_workspace> workspaces;
  be.for_each(blocks, [&](index_t b) {
    channel_workspace& work = workspaces.local();
    distinct_rows distinct;
    index_t const first = b * measure_rows;
    index_t const last = std::min(first + measure_rows, tensor.channels);
    for (index_t channel = first; channel < last; ++channel) {
      auto const c = static_cast<std::size_t>(channel);
      read_distinct(g.row_of.data() + c * experts, experts, distinct);
      if (distinct.count < 2) { continue; }
      expand_triangle(g.dots.data() + c * entries, distinct.count, work.delta_gram);
      if (signs) {
        expand_triangle(g.sign_dots.data() + c * entries, distinct.count, work.gram);
      } else {
        work.gram = work.delta_gram;
      }
      normalise_gram(op.similarity, context.norms, distinct, work.gram.data());
      cluster_problem const problem{distinct.count, std::min(op.groups, distinct.count), work.gram.data(),
                                    distinct.weight.data(), context.stream, channel};
      budget_curve(op.similarity, op.cluster, problem, distinct, budget.importance, tensor.cols, size_of(tensor.out), op.codes, work);
      auto const& hull = work.curve.points;
      block_steps& mine = steps[static_cast<std::size_t>(b)];
      for (std::size_t i = 1; i < hull.size(); ++i) {
        float const slope = braid::cluster::step_slope(hull, i);
        mine.all.emplace_back(slope, hull[i].bytes - hull[i - 1].bytes);
        if (hull[i].choice.groups > 1) { mine.grouping = std::max(mine.grouping, slope); }
        if (hull[i].choice.code != residual_code::none) { mine.coding = std::max(mine.coding, slope); }
      }
    }
  });
  float grouping = -1.0f;
  float coding = -1.0f;
  for (auto const& block : steps) {
    for (auto const& [slope, bytes] : block.all) { histogram.add(slope, bytes); }
    grouping = std::max(grouping, block.grouping);
    coding = std::max(coding, block.coding);
  }
  // Whoever takes the first such step pays for the whole tensor's labels.
  std::uint64_t const labels = static_cast<std::uint64_t>(tensor.channels) * experts;
  if (grouping >= 0.0f) { histogram.add(grouping, labels); }
  if (coding >= 0.0f) { histogram.add(coding, labels); }
}

/// A tensor's budget without its price. Sets the context's norms where the similarity needs them.
template <class Operation>
std::shared_ptr<tensor_budget> budget_of_grams(cpu const& be, Operation const& op, tensor_channels const& tensor, tensor_context& context,
                                               measured_grams const& g, braid::cluster::budget_histogram& histogram) {
  auto budget = std::make_shared<tensor_budget>();
  budget->importance = importance_of(op.weighting, g.squared);
  if (op.similarity.needs_norms) {
    for (double const squared : g.squared) { context.norms.push_back(delta_length(squared)); }
  }
  add_curves(be, op, tensor, context, *budget, g, histogram);
  return budget;
}

}  // namespace detail
namespace ops {

/// Adds the curves of a tensor's channels to the histogram of a model. Reads every input once; the Gram matrices of one
/// tensor are in memory meanwhile, 4 N (N + 1) / 2 bytes a channel for N experts.
template <class Similarity, class Cluster>
struct measure_curves<cpu, Similarity, Cluster> {
  Similarity const& similarity;
  Cluster const& cluster;
  int groups;
  residual_code_list codes;
  error_weighting weighting;

  /// @param context of the tensor; `norms` and `budget` are set to what the merge needs
  /// @throws detail::nonfinite_found unless the context allows NaN and infinity
  std::shared_ptr<tensor_budget> operator()(cpu const& be, tensor_channels const& tensor, tensor_context& context,
                                            braid::cluster::budget_histogram& histogram) const {
    detail::measured_grams const g = measure(be, tensor, context);
    return detail::budget_of_grams(be, *this, tensor, context, g, histogram);
  }

 private:
  [[nodiscard]] bool signs() const { return similarity.operand == gram_operand::signs; }

  detail::measured_grams measure(cpu const& be, tensor_channels const& tensor, tensor_context const& context) const {
    std::size_t const experts = tensor.experts.size();
    auto const entries = static_cast<std::size_t>(detail::triangle(static_cast<index_t>(experts), 0));
    auto const channels = static_cast<std::size_t>(tensor.channels);
    auto const blocks = (channels + detail::measure_rows - 1) / detail::measure_rows;
    detail::measured_grams g;
    g.row_of.resize(channels * experts);
    g.dots.resize(channels * entries);
    if (signs()) { g.sign_dots.resize(channels * entries); }
    std::vector<double> partial(blocks * experts, 0.0);
    detail::for_each_measure_block(be, tensor, [&](index_t b, channel_block const& block, detail::channel_workspace& work) {
      detail::distinct_rows distinct;
      double* const sums = partial.data() + static_cast<std::size_t>(b) * experts;
      for (index_t row = 0; row < block.rows; ++row) {
        auto const channel = static_cast<std::size_t>(block.first + row);
        detail::find_distinct(block, row, context.cols, work, distinct);
        for (std::size_t e = 0; e < experts; ++e) {
          g.row_of[channel * experts + e] = static_cast<std::uint8_t>(distinct.of_expert[e]);
        }
        auto const used = static_cast<std::size_t>(detail::triangle(distinct.count, 0));
        if (signs()) {
          detail::channel_gram(context, block, row, distinct, true, work);
          std::copy_n(work.dots.begin(), used, g.sign_dots.begin() + static_cast<std::ptrdiff_t>(channel * entries));
        }
        detail::channel_gram(context, block, row, distinct, false, work);
        if (!context.allow_nonfinite) { detail::check_gram(context, block, row, distinct, false, work); }
        float const* const dots = work.dots.data();
        for (std::size_t e = 0; e < experts; ++e) {
          int const d = distinct.of_expert[e];
          sums[e] += static_cast<double>(dots[detail::triangle(d, d)]);
        }
        std::copy_n(dots, used, g.dots.begin() + static_cast<std::ptrdiff_t>(channel * entries));
      }
    });
    g.squared.assign(experts, 0.0);
    for (std::size_t b = 0; b < blocks; ++b) {
      for (std::size_t e = 0; e < experts; ++e) { g.squared[e] += partial[b * experts + e]; }
    }
    return g;
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
