#pragma once

#include <braid/method/tensor_method.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

/// The weighted average of models: sum of w_i x_i, over the sum of the w_i where `normalize` is set. No base is involved; a
/// recipe's base model counts as one of the models.
///
/// In float32: weights rounded once, products rounded, added from +0 in the order of the models; one division. One pass.
/// With `fused`, products are added unrounded, which is how mergekit's sums come out on machines that have such an
/// instruction; the result is the same on those that have none.
/// Equal weights are a uniform soup (Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482).
template <backend Exec>
class linear final : public tensor_method<Exec> {
  using base_type = tensor_method<Exec>;

 public:
  struct options {
    std::vector<double> weight{};  ///< one a model; empty: 1 for each
    bool normalize = true;
    bool fused = false;            ///< multiply and add with one rounding
  };

  explicit linear(options const& o = {}, bool weight_required = false)
      : base_type({.name = "linear",
                   .base = base_role::member,
                   .least_models = 1,
                   .parameters = {{.name = "weight", .per_model = true, .required = weight_required, .fallback = 1.0},
                                  {.name = "normalize", .kind = parameter_kind::boolean, .fallback = 1.0}}},
                  own(o)),
        fused_(o.fused) {}

 private:
  struct plan_type final : method_plan {
    std::vector<float> weight;
    float divisor = 1.0f;
  };

  static method_parameters own(options const& o) {
    method_parameters p;
    detail::keep_values(p, "weight", o.weight);
    p.of_tensor["normalize"] = o.normalize ? 1.0 : 0.0;
    return p;
  }

  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const&, tensor_request const&,
                                                       detail::parameter_reader const& parameters) const override {
    auto plan = std::make_unique<plan_type>();
    float sum = 0.0f;
    for (double const w : parameters.each("weight")) {
      plan->weight.push_back(static_cast<float>(w));
      sum = sum + plan->weight.back();
    }
    if (parameters.flag("normalize")) {
      if (sum == 0.0f) {
        throw argument_error(parameters.where() + " has weights whose sum is 0, so that there is no average: change them, or "
                             "set normalize to false");
      }
      plan->divisor = sum;
    }
    return plan;
  }

  void apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                   typename base_type::workspace& work) const override {
    auto const& plan = static_cast<plan_type const&>(any_plan);
    float* const mix = work.mix.fit(sum_order::segment);
    for (index_t row = 0; row < block.rows; ++row) {
      detail::for_each_segment(plan.cols, [&](index_t c, int n) {
        detail::load_checked_segment(block, row, c, n, detail::operand::values, plan.allow_nonfinite, work);
        float const* const x = work.models.fit(1);
        auto const models = static_cast<int>(plan.weight.size());
        if (fused_) {
          detail::fused_combine(x, models, n, plan.weight.data(), plan.divisor, mix);
        } else {
          detail::dispatch<detail::combine_body>(x, models, n, plan.weight.data(), true, plan.divisor, mix);
        }
        detail::store_rounded(block.out, mix, detail::out_column(out, block.out, plan.cols, row, c), n);
      });
    }
  }

  bool fused_;
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
