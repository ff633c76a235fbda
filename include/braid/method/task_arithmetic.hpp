#pragma once

#include <braid/backend/cpu/delta_pruning.hpp>
#include <braid/consensus/weighted.hpp>
#include <braid/method/rescale.hpp>
#include <braid/method/tensor_method.hpp>
#include <braid/prune/none.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

namespace detail {

/// Joins `count` columns of the pruned deltas, a segment apart; may overwrite them.
using join_kernel = void (*)(void const* policy, float* delta, float const* weight, int n, bool normalize, int count, float* out);

template <class Consensus>
struct join_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(Consensus const* consensus, float* delta, float const* weight, int n, bool normalize,
                                      int count, float* out) noexcept {
    if constexpr (requires { consensus->combine(delta, index_t{segment_stride}, weight, n, normalize, count, out); }) {
      consensus->combine(delta, segment_stride, weight, n, normalize, count, out);
    } else {
      float one[max_experts];
      for (int c = 0; c < count; ++c) {
        for (int i = 0; i < n; ++i) { one[i] = delta[i * segment_stride + c]; }
        out[c] = (*consensus)(static_cast<float const*>(one), weight, n, normalize);
      }
    }
  }
};

/// x = x * factor.
struct scale_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float* x, int count, float factor) noexcept {
    for (int c = 0; c < count; ++c) { x[c] = x[c] * factor; }
  }
};

template <class Consensus>
void join_deltas(void const* policy, float* delta, float const* weight, int n, bool normalize, int count, float* out) {
  auto const* const consensus = static_cast<Consensus const*>(policy);
  if constexpr (weighted_consensus_policy<Consensus>) {
    dispatch<join_body<Consensus>>(consensus, delta, weight, n, normalize, count, out);
  } else {
    for (int i = 0; i < n; ++i) { dispatch<scale_body>(delta + i * segment_stride, count, weight[i]); }
    dispatch<consensus_body<Consensus>>(consensus, delta, n, count, out);
  }
}

/// What all methods of the task-arithmetic family share, whatever their policies.
template <backend Exec>
class delta_method : public tensor_method<Exec> {
 protected:
  using base_type = tensor_method<Exec>;
  using base_type::base_type;

  using pruner_type = typename ops::delta_pruning<Exec>::pruner;

  struct plan_type final : method_plan {
    std::unique_ptr<pruner_type const> pruner;
    std::vector<float> factor;  // of each delta after pruning; empty: none
    std::vector<float> weight;
    bool normalize = false;
    float lambda = 1.0f;
  };

  [[nodiscard]] virtual std::unique_ptr<pruner_type const> prepare_pruning(Exec const& be, tensor_request const& request,
                                                                            parameter_reader const& parameters,
                                                                            rescale rescaling) const = 0;
  [[nodiscard]] virtual std::pair<void const*, join_kernel> joining() const noexcept = 0;
  [[nodiscard]] virtual rescale rescaling() const noexcept = 0;  // where the parameter `rescale` is true

 private:
  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                       parameter_reader const& parameters) const override {
    auto plan = std::make_unique<plan_type>();
    for (double const w : parameters.each("weight")) { plan->weight.push_back(static_cast<float>(w)); }
    plan->normalize = parameters.flag("normalize");
    plan->lambda = static_cast<float>(parameters.number("lambda"));
    rescale const r = parameters.flag("rescale") ? rescaling() : rescale::none;
    plan->pruner = prepare_pruning(be, request, parameters, r);
    if (r == rescale::l1) { plan->factor = l1_factors(be, request.inputs, *plan->pruner); }
    return plan;
  }

  void apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                   typename base_type::workspace& work) const override {
    auto const& plan = static_cast<plan_type const&>(any_plan);
    std::pair<void const*, join_kernel> const join = joining();
    auto const n = static_cast<int>(block.experts.size());
    float* const mix = work.mix.fit(sum_order::segment);
    for (index_t row = 0; row < block.rows; ++row) {
      measure_row(*plan.pruner, block, row, plan.cols, work);
      for_each_segment(plan.cols, [&](index_t c, int count) {
        load_checked_segment(block, row, c, count, operand::deltas, plan.allow_nonfinite, work);
        float* const deltas = work.models.fit(1);
        for (std::size_t i = 0; i < block.experts.size(); ++i) {
          float* const delta = deltas + i * sum_order::segment;
          plan.pruner->prune(i, delta, count, block.first + row, c, work);
          if (!plan.factor.empty() && plan.factor[i] != 1.0f) { dispatch<scale_body>(delta, count, plan.factor[i]); }
        }
        if (n == 0) {
          std::fill_n(mix, count, 0.0f);
        } else {
          join.second(join.first, deltas, plan.weight.data(), n, plan.normalize, count, mix);
        }
        add_base(block.out, work.base.fit(1), mix, plan.lambda, out_column(out, block.out, plan.cols, row, c), count);
      });
    }
  }
};

/// What a method of the family is called and starts from, where it is made by name.
struct delta_method_settings {
  std::string_view name = "task_arithmetic";
  bool weight_required = false;
  bool needs_cuts = false;
  std::optional<rescale> rescaling{};  // what `rescale: true` means; unset: the template argument
};

}  // namespace detail

/// Task arithmetic and its relatives, one template: out = base + lambda * join(w_i * prune(d_i)), d_i = model i - base.
///
///   method            Prune              Consensus       rescale in mergekit / paper   normalize
///   task arithmetic   prune::none        weighted_sum    none                          no
///   TIES              prune::magnitude   weighted_ties   none                          yes
///   DARE              prune::dare        weighted_sum    l1 / inverse_keep             no
///   Breadcrumbs       prune::outliers    weighted_sum    none                          no
///   DELLA             prune::magprune    weighted_ties   l1 / inverse_keep             yes
///
/// Pruning comes before the weights, rescaling between them; density 1 leaves a delta as it is, unscaled, density 0 drops it.
/// In float32, each step rounded: d; prune; * factor; * w; join from +0 in the order of the models; / sum of weights;
/// * lambda; + base; then to the storage type. Weights and lambda are rounded to float32 once.
///
/// A consensus is a `weighted_consensus_policy`, or a `consensus_policy` of channel merging, which is given w_i * d_i and knows
/// no `normalize`. Passes: one to apply; mostly two, at times more, to trim over the tensor or to cut outliers; one for l1.
///
/// Ilharco et al. (ICLR 2023, arXiv 2212.04089); TIES: Yadav et al. (NeurIPS 2023, arXiv 2306.01708); DARE: Yu et al. (ICML
/// 2024, arXiv 2311.03099); Breadcrumbs: Davari and Belilovsky (ECCV 2024, arXiv 2312.06795); DELLA: Deep et al. (arXiv
/// 2406.11617).
template <backend Exec, pruning_policy Prune = prune::none, class Consensus = consensus::weighted_sum,
          rescale Rescale = rescale::none>
  requires(weighted_consensus_policy<Consensus> || consensus_policy<Consensus>)
class task_arithmetic final : public detail::delta_method<Exec> {
  using base_type = detail::delta_method<Exec>;
  static constexpr bool random = requires(Prune p) { p.rescale; };  // a policy that knows the probabilities
  static_assert(Rescale != rescale::inverse_keep || random,
                "braid: rescale::inverse_keep needs a pruning that keeps elements with a probability, as prune::dare does");

 public:
  struct options {
    Prune prune{};
    Consensus consensus{};
    std::vector<double> weight{};   ///< one a model; empty: 1 for each
    std::vector<double> density{};  ///< one a model; empty: that of `prune` for each
    bool normalize = false;         ///< divide by the sum of the weights that took part
    double lambda = 1.0;
  };

  explicit task_arithmetic(options o = {}, detail::delta_method_settings const& settings = {})
      : base_type(describe(o, settings), own(o)),
        options_(std::move(o)),
        rescaling_(settings.rescaling.value_or(Rescale == rescale::none ? rescale::l1 : Rescale)) {
    validate_policy(options_.consensus);
    if (!weighted_consensus_policy<Consensus> && options_.normalize) {
      throw argument_error("task_arithmetic: consensus::" + std::string(options_.consensus.name) +
                           " doesn't see the weights, so normalize can't be set");
    }
  }

 private:
  static method_info describe(options const& o, detail::delta_method_settings const& settings) {
    method_info info{.name = settings.name, .needs_cuts = settings.needs_cuts};
    info.parameters.push_back({.name = "weight", .per_model = true, .required = settings.weight_required, .fallback = 1.0});
    parameter_info density{.name = "density", .per_model = true, .fallback = 1.0, .has_effect = false};
    if constexpr (requires { o.prune.density; }) {
      density.fallback = o.prune.density;
      density.has_effect = true;  // with `needs_cuts`: in global_magnitude_cuts
    }
    info.parameters.push_back(density);
    if constexpr (requires { o.prune.gamma; }) {
      info.parameters.push_back({.name = "gamma", .per_model = true, .fallback = o.prune.gamma});
    }
    if constexpr (requires { o.prune.epsilon; }) {
      info.parameters.push_back({.name = "epsilon", .per_model = true, .fallback = o.prune.epsilon});
    }
    info.parameters.push_back({.name = "lambda", .fallback = o.lambda});
    auto const flag = [](std::string_view name, bool on) {
      return parameter_info{.name = name, .kind = parameter_kind::boolean, .fallback = on ? 1.0 : 0.0};
    };
    info.parameters.push_back(flag("normalize", o.normalize));
    info.parameters.push_back(flag("rescale", Rescale != rescale::none));
    info.parameters.push_back(flag("int8_mask", false));
    info.parameters.back().has_effect = false;
    return info;
  }

  static method_parameters own(options const& o) {
    method_parameters p;
    detail::keep_values(p, "weight", o.weight);
    detail::keep_values(p, "density", o.density);
    return p;
  }

  [[nodiscard]] std::unique_ptr<typename base_type::pruner_type const> prepare_pruning(Exec const& be, tensor_request const& request,
                                                                            detail::parameter_reader const& parameters,
                                                                            rescale rescaling) const override {
    std::size_t const models = request.models.size();
    std::vector<Prune> policies(models, options_.prune);
    auto const set = [&](std::string_view name, auto const& assign) {
      auto const values = parameters.each(name);
      for (std::size_t i = 0; i < models; ++i) { assign(policies[i], values[i]); }
    };
    if constexpr (requires(Prune p) { p.density; }) {
      set("density", [](Prune& p, double x) { p.density = x; });
    }
    if constexpr (requires(Prune p) { p.gamma; }) {
      set("gamma", [](Prune& p, double x) { p.gamma = x; });
    }
    if constexpr (requires(Prune p) { p.epsilon; }) {
      set("epsilon", [](Prune& p, double x) { p.epsilon = x; });
    }
    if constexpr (random) {
      for (Prune& p : policies) { p.rescale = rescaling == rescale::inverse_keep; }
    } else if (rescaling == rescale::inverse_keep && !detail::prunes_nothing<Prune>()) {
      throw argument_error(parameters.where() + ": prune::" + std::string(options_.prune.name) +
                           " has no keep probabilities to rescale by: set rescale to false, or choose the l1 form");
    }
    std::vector<tensor_key> keys;
    for (auto const& name : request.models) {
      keys.push_back({stream_hash(request.tensor, name), request.inputs.channels, request.inputs.cols});
    }
    try {
      return ops::delta_pruning<Exec>::make(be, request.inputs, std::move(policies), std::move(keys), request.cuts, options_.consensus);
    } catch (argument_error const& e) {
      throw argument_error(parameters.where() + ": " + e.what());
    }
  }

  [[nodiscard]] std::pair<void const*, detail::join_kernel> joining() const noexcept override {
    return {&options_.consensus, &detail::join_deltas<Consensus>};
  }

  [[nodiscard]] rescale rescaling() const noexcept override { return rescaling_; }

  options options_;
  rescale rescaling_;
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
