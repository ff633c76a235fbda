#pragma once

#include <braid/backend/cpu/merge_tensor.hpp>
#include <braid/core/hash.hpp>
#include <braid/method/detail/expert_names.hpp>
#include <braid/method/grouped_tensor.hpp>
#include <braid/residual/none.hpp>

#include <algorithm>
#include <cmath>
#include <span>

BRAID_NAMESPACE_BEGIN

/// Channel Merging: for every output channel of a weight, clusters the experts by the similarity of their deltas,
/// merges inside each group, and keeps an index, so that every expert finds its rows again.
///
///   1. Experts whose channel is bit-equal count as one row with their number as weight.
///   2. `Similarity` and `Cluster` choose a partition into `groups` groups from the Gram matrix of the *unpruned*
///      deltas; fewer groups only where fewer rows differ. Labels are numbered by first appearance in name order.
///   3. A group of one distinct row keeps it bit for bit. In another, each member's delta is pruned, `Consensus` makes
///      one delta of them, and the row is round(base + lambda * delta), in float32 with one rounding at the end.
///   4. `Residual` stores, in a few bits an element, what each member of such a group lacks. With `residual.sweeps` > 0
///      the shared row then becomes the one that leaves the least squared error, whatever pruning, consensus and lambda
///      made of it (for three or more members they give the start of the search). An expert's row is
///      round(shared row + residual). With `residual.rank_one` the scale of an element is its row's times its column's;
///      the scales of the columns are measured over the whole tensor.
///
/// With a `budget`, the number of groups and the residual's code are chosen for each channel, so that the squared error
/// is least for the bytes of the whole model (cluster/budget.hpp). In memory the budget is that of the tensor. Costs
/// one measuring pass more.
///
/// So `groups` = number of experts is lossless, and one group is the plain single-model method of the policies.
/// The result depends on inputs, names and options alone: not on threads, tiles, instruction set or the order in which
/// experts are listed. A single-pass merge reads every input once and writes every output once.
///
/// Zhang et al., "Channel Merging" (AAAI 2025, arXiv 2412.15283), section "Merging with Channel Similarity"; a lone
/// expert stays exact and clustering sees unpruned deltas, as in FlexMerge's re-implementation (ICLR 2026).
template <backend Backend, pruning_policy Prune, similarity_policy Similarity, clustering_policy Cluster,
          consensus_policy Consensus, residual_policy Residual = residual::none>
class channel_merge {
 public:
  using backend_type = Backend;
  using residual_type = Residual;

  /// The same method elsewhere.
  template <backend Other>
  using on = channel_merge<Other, Prune, Similarity, Cluster, Consensus, Residual>;

  struct options {
    Prune prune{};
    Similarity similarity{};
    Cluster cluster{};
    Consensus consensus{};
    Residual residual{};
    int groups = 2;                ///< K: at most that many rows a channel, 1 to 255
    storage_budget budget{};       ///< chooses the groups of each channel, up to `groups`, and its residual's code
    float lambda = 1.0f;           ///< scales a group's merged delta
    bool allow_nonfinite = false;  ///< NaN and infinity in inputs are merged as they are instead of refused
  };

  /// @throws argument_error for numbers that can't be meant
  explicit channel_merge(options o = {}) : options_(std::move(o)) {
    if (options_.groups < 1 || options_.groups > max_experts) {
      throw argument_error("channel_merge: groups is " + std::to_string(options_.groups) + ": choose 1 to " +
                           std::to_string(max_experts));
    }
    if (!std::isfinite(options_.lambda)) { throw argument_error("channel_merge: lambda is not a finite number"); }
    validate_policy(options_.prune);
    validate_policy(options_.similarity);
    validate_policy(options_.cluster);
    validate_policy(options_.consensus);
    validate_policy(options_.residual);
    validate_policy(options_.budget);
    if (codes_anything(options_.residual) && options_.residual.code == residual_code::none && !has_budget()) {
      throw argument_error("residual::" + std::string(options_.residual.name) +
                           " chooses a code for each channel under a budget: give one, or one code for all channels");
    }
  }

  [[nodiscard]] options const& settings() const noexcept { return options_; }

  /// This method with another backend, on whose objects it then works.
  template <backend Other>
  [[nodiscard]] on<Other> with() const {
    return on<Other>({.prune = options_.prune,
                      .similarity = options_.similarity,
                      .cluster = options_.cluster,
                      .consensus = options_.consensus,
                      .residual = options_.residual,
                      .groups = options_.groups,
                      .budget = options_.budget,
                      .lambda = options_.lambda,
                      .allow_nonfinite = options_.allow_nonfinite});
  }

  [[nodiscard]] bool has_budget() const noexcept { return options_.budget.stored > 0.0; }

  /// Merges one tensor in memory.
  /// @param be      where to run; returns when done
  /// @param tensor  the tensor's name: keys the random choices
  /// @param base    [channels, inputs], any row stride
  /// @param experts named weights of the same shape; their order doesn't matter
  /// @param column_weight [inputs], finite, >= 0, not all zero: what an error in a column counts, such as the mean square
  ///        of the input that meets it (Wanda, arXiv 2306.11695) or a diagonal Fisher information. Clustering compares
  ///        deltas, and residuals minimise squared errors, with these weights; pruning and consensus don't see them.
  ///        Empty: all one, and the same bits as weights that are
  /// @return the merged tensor; experts in name order
  /// @throws shape_error, argument_error, value_error (NaN or infinity, naming expert, channel and column)
  template <storage_element T>
  [[nodiscard]] grouped_tensor<T, Backend::space> operator()(Backend const& be, std::string_view tensor,
                                             std::type_identity_t<tensor_view<T const, Backend::space>> base,
                                             std::vector<expert_view<T, Backend::space>> const& experts,
                                             std::span<float const> column_weight = {}) const {
    grouped_tensor<T, Backend::space> out;
    merge_into(be, tensor, base, experts, out, column_weight);
    return out;
  }

  /// The same, into a tensor whose memory is used again where it is large enough.
  template <storage_element T>
  void merge_into(Backend const& be, std::string_view tensor,
                  std::type_identity_t<tensor_view<T const, Backend::space>> base,
                  std::vector<expert_view<T, Backend::space>> const& experts, grouped_tensor<T, Backend::space>& out,
                  std::span<float const> column_weight = {}) const {
    std::vector<std::string> names;
    for (auto const& e : experts) { names.emplace_back(e.name); }
    auto const order = detail::order_by_name(names);
    std::vector<std::string> sorted;
    tensor_channels source;
    source.channels = base.rows();
    source.cols = base.cols();
    source.base = rows_of(base);
    source.out = dtype_of<T>;
    if (!column_weight.empty() && static_cast<index_t>(column_weight.size()) != base.cols()) {
      throw shape_error(std::string(tensor) + ": " + std::to_string(column_weight.size()) + " column weights for " +
                        std::to_string(base.cols()) + " columns; give one a column");
    }
    source.column_weight = column_weight.empty() ? nullptr : column_weight.data();
    for (std::size_t const i : order) {
      auto const& w = experts[i].weight;
      if (w.rows() != base.rows() || w.cols() != base.cols()) {
        throw shape_error(std::string(tensor) + ": expert '" + names[i] + "' is " + std::to_string(w.rows()) + " x " +
                          std::to_string(w.cols()) + ", the base " + std::to_string(base.rows()) + " x " +
                          std::to_string(base.cols()));
      }
      source.experts.push_back(rows_of(w));
      sorted.push_back(names[i]);
    }
    try {
      ops::merge_tensor<Backend>{}(be, block_operation(), prepare_alone(be, tensor, sorted, source), source, sorted, out);
    } catch (detail::nonfinite_found const& found) {
      auto const& at = found.where;
      throw value_error(std::string(tensor) + ": " +
                        (at.model < 0 ? std::string("the base") : "expert '" + sorted[static_cast<std::size_t>(at.model)] + "'") +
                        " has " + detail::describe_nonfinite(at.value) + " in channel " + std::to_string(at.channel) +
                        ", column " + std::to_string(at.col) + "; repair it, or set allow_nonfinite");
    }
  }

  /// What a streaming engine needs: measures a tensor, once, before its blocks are merged.
  /// @param names of the experts, in name order
  /// @throws argument_error for column weights that can't be meant
  [[nodiscard]] tensor_context prepare(Backend const& be, std::string_view tensor, std::vector<std::string> const& names,
                                       tensor_channels const& source) const {
    tensor_context context = context_of(tensor, names, source);
    if (clusters(names.size()) && options_.similarity.needs_norms) { context.norms = ops::delta_norms<Backend>{}(be, source); }
    finish_context(be, context, source);
    return context;
  }

  /// Whether `prepare` reads the tensor.
  [[nodiscard]] bool measures_tensors(std::size_t experts) const noexcept {
    bool const prunes = has_budget() || options_.groups < static_cast<int>(experts);
    return has_budget() || (clusters(experts) && options_.similarity.needs_norms) ||
           (prunes && (Prune::measures == statistic::tensor_cut || (options_.residual.rank_one && codes_anything(options_.residual))));
  }

  /// With a budget: the measuring pass over a tensor, whose curves are added to the model's.
  /// @return what `prepare_measured` takes, once the price is known
  [[nodiscard]] measured_tensor measure(Backend const& be, std::string_view tensor, std::vector<std::string> const& names,
                                        tensor_channels const& source, cluster::budget_histogram& curves) const {
    tensor_context context = context_of(tensor, names, source);
    ops::measure_curves<Backend, Similarity, Cluster> const op{options_.similarity, options_.cluster, options_.groups,
                                                               codes_of(options_.residual), options_.budget.weighting};
    measured_tensor measured;
    measured.budget = op(be, source, context, curves);
    measured.norms = std::move(context.norms);
    return measured;
  }

  /// With a budget: `prepare`, for a tensor that was measured.
  [[nodiscard]] tensor_context prepare_measured(Backend const& be, std::string_view tensor,
                                                std::vector<std::string> const& names, tensor_channels const& source,
                                                measured_tensor const& measured) const {
    tensor_context context = context_of(tensor, names, source);
    context.norms = measured.norms;
    context.budget = measured.budget;
    finish_context(be, context, source);
    return context;
  }

  using operation = ops::merge_channels<Backend, Prune, Similarity, Cluster, Consensus, Residual>;

  /// The operation on blocks of a prepared tensor; refers to this object.
  [[nodiscard]] operation block_operation() const noexcept {
    return {options_.prune,     options_.similarity, options_.cluster, options_.consensus,
            options_.residual, options_.groups,     options_.lambda};
  }

 private:
  /// One group, or a group for each, leaves nothing to search for.
  [[nodiscard]] bool clusters(std::size_t experts) const noexcept {
    return options_.groups > 1 && (options_.groups < static_cast<int>(experts) || (has_budget() && experts > 2));
  }

  [[nodiscard]] tensor_context context_of(std::string_view tensor, std::vector<std::string> const& names,
                                          tensor_channels const& source) const {
    if constexpr (requires { options_.cluster.check_experts(0); }) {
      if (clusters(names.size())) { options_.cluster.check_experts(static_cast<int>(names.size())); }
    }
    check_column_weight(tensor, source);
    tensor_context context;
    context.channels = source.channels;
    context.cols = source.cols;
    context.allow_nonfinite = options_.allow_nonfinite;
    context.column_weight = source.column_weight;
    context.root_weight = detail::root_weights(source);
    context.stream = stream_hash(tensor, "");
    for (auto const& n : names) { context.keys.push_back({stream_hash(tensor, n), source.channels, source.cols}); }
    return context;
  }

  void finish_context(Backend const& be, tensor_context& context, tensor_channels const& source) const {
    if constexpr (Prune::measures == statistic::tensor_cut) {
      if (has_budget() || options_.groups < static_cast<int>(source.experts.size())) {
        context.cuts = ops::magnitude_cuts<Backend>{}(be, source, options_.prune.keep_count(source.channels * source.cols));
      }
    }
    if (options_.residual.rank_one && codes_anything(options_.residual) &&
        (has_budget() || options_.groups < static_cast<int>(source.experts.size()))) {
      context.column = ops::column_scales<Backend>{}(be, source);
    }
  }

  /// A tensor in memory is a model of its own.
  [[nodiscard]] tensor_context prepare_alone(Backend const& be, std::string_view tensor, std::vector<std::string> const& names,
                                             tensor_channels const& source) const {
    if (!has_budget()) { return prepare(be, tensor, names, source); }
    cluster::budget_histogram curves;
    measured_tensor const measured = measure(be, tensor, names, source, curves);
    auto const rows = static_cast<std::uint64_t>(source.channels);
    std::uint64_t const row = static_cast<std::uint64_t>(source.cols) * size_of(source.out);
    bool const column_scales = codes_anything(options_.residual) && options_.residual.rank_one;
    std::uint64_t const fixed = detail::fixed_bytes(source.channels, source.cols, size_of(source.out), column_scales);
    measured.budget->price = detail::budget_price(options_.budget, curves, rows * row * names.size(), fixed, tensor);
    return prepare_measured(be, tensor, names, source, measured);
  }

  static void check_column_weight(std::string_view tensor, tensor_channels const& source) {
    if (source.column_weight == nullptr) { return; }
    bool all_zero = source.cols > 0;
    for (index_t c = 0; c < source.cols; ++c) {
      float const h = source.column_weight[c];
      if (!std::isfinite(h) || h < 0.0f) {
        throw argument_error(std::string(tensor) + ": the weight of column " + std::to_string(c) + " is " +
                             std::to_string(h) + "; give finite numbers, none below 0");
      }
      all_zero = all_zero && !(h > 0.0f);
    }
    float most = 0.0f;
    for (index_t c = 0; c < source.cols; ++c) { most = std::max(most, source.column_weight[c]); }
    if (!all_zero && source.cols > 0 && !(most > 1e-15f && most < 1e15f)) {
      throw argument_error(std::string(tensor) + ": the largest column weight is " + std::to_string(most) +
                           ", and sums of such weights leave float32; scale them so that their mean is near 1");
    }
    if (all_zero) {
      throw argument_error(std::string(tensor) + ": all column weights are 0; one at least has to be above");
    }
  }

  template <class View>
  static channel_rows rows_of(View const& view) noexcept {
    using T = typename View::value_type;
    return {reinterpret_cast<std::byte const*>(view.data_handle()), dtype_of<T>,
            view.stride(0) * static_cast<index_t>(sizeof(T))};
  }

  options options_;
};

BRAID_NAMESPACE_END
