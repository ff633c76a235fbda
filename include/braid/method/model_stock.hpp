#pragma once

#include <braid/method/detail/gram_method.hpp>

BRAID_NAMESPACE_BEGIN

/// Model Stock: t times the mean of the models plus 1 - t times the base, with t = N c / (1 + (N - 1) c) from the mean cosine
/// c between pairs of deltas: of the whole tensor, or of each row (`filter_wise`). t isn't clamped: where deltas oppose each
/// other it is negative. Where 1 + (N - 1) c vanishes, the result is the base; so it is without models.
///
/// mergekit divides by no product of lengths below 1e-6, which makes cosines of tiny tensors too small; the paper's style
/// doesn't, and takes the cosine of a zero delta for 0. Costs as `slerp`; `filter_wise`, no measuring pass.
///
/// Jang et al., "Model Stock" (ECCV 2024, arXiv 2403.19522), section 4.
template <backend Exec>
class model_stock final : public detail::gram_method<Exec> {
  using base_type = detail::gram_method<Exec>;

 public:
  struct options {
    bool filter_wise = false;
    method_style style = method_style::paper;
  };

  explicit model_stock(options const& o = {})
      : base_type({.name = "model_stock",
                   .parameters = {{.name = "filter_wise", .kind = parameter_kind::boolean, .fallback = o.filter_wise ? 1.0 : 0.0}}},
                  {}),
        least_(o.style == method_style::paper ? 0.0 : 1e-6) {}

 private:
  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                       detail::parameter_reader const& parameters) const override {
    auto const models = static_cast<int>(request.models.size());
    if (models == 0) { return base_type::copy(true); }
    if (models == 1) {
      throw argument_error(parameters.where() + " comes from one model besides the base; model_stock needs two or more");
    }
    auto plan = std::make_unique<typename base_type::plan_type>();
    plan->measured = detail::operand::deltas;
    plan->base_is_first = true;
    plan->scope = parameters.flag("filter_wise") && request.inputs.channels > 1 ? detail::gram_scope::row : detail::gram_scope::tensor;
    plan->solve = [least = least_](double const* gram, int n, double* k) {
      double const t = detail::stock_ratio(gram, n, least);
      k[0] = 1.0 - t;
      std::fill_n(k + 1, n, t / n);
    };
    base_type::measure(be, request, *plan);
    return plan;
  }

  double least_;
};

BRAID_NAMESPACE_END
