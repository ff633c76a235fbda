#pragma once

#include <braid/method/detail/gram_method.hpp>

BRAID_NAMESPACE_BEGIN

/// The weighted mean of the directions of any number of tensors, at their weighted mean length: barycentric interpolation on
/// a hypersphere. With a base, of the deltas, and the base is added again. A single model is copied, with a base or without.
///
/// Where the directions cancel, two models are averaged by their weights, more are a `value_error`, unless all are zero. The tangent step of the
/// published form is left out, because it is zero (detail/gram_coefficients.hpp). Costs as `slerp`. Goddard, "Multi-SLERP"
/// (goddard.blog, 2025).
template <backend Exec>
class multislerp final : public detail::gram_method<Exec> {
  using base_type = detail::gram_method<Exec>;

 public:
  struct options {
    std::vector<double> weight{};   ///< one a model; empty: 1 for each
    bool normalize_weights = true;  ///< so that they sum to 1
    double eps = 1e-8;              ///< added to lengths; the shortest mean direction
  };

  explicit multislerp(options const& o = {}, bool weight_required = false)
      : base_type({.name = "multislerp",
                   .base = base_role::optional,
                   .least_models = 1,
                   .parameters = {{.name = "weight", .per_model = true, .required = weight_required, .fallback = 1.0},
                                  {.name = "normalize_weights",
                                   .kind = parameter_kind::boolean,
                                   .fallback = o.normalize_weights ? 1.0 : 0.0},
                                  {.name = "eps", .fallback = o.eps}}},
                  own(o)) {}

 private:
  static method_parameters own(options const& o) {
    method_parameters p;
    detail::keep_values(p, "weight", o.weight);
    return p;
  }

  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                       detail::parameter_reader const& parameters) const override {
    if (request.models.size() == 1) { return base_type::copy(false); }
    auto weight = parameters.each("weight");
    double sum = 0.0;
    for (double const w : weight) { sum += w; }
    if (parameters.flag("normalize_weights")) {
      if (sum == 0.0) {
        throw argument_error(parameters.where() + " has weights whose sum is 0: change them, or set normalize_weights to false");
      }
      for (double& w : weight) { w /= sum; }
    }
    auto plan = std::make_unique<typename base_type::plan_type>();
    plan->measured = request.inputs.base.data != nullptr ? detail::operand::deltas : detail::operand::values;
    plan->combined = plan->measured;
    plan->solve = [weight, eps = parameters.number("eps"), where = parameters.where()](double const* gram, int n, double* k) {
      if (detail::multislerp_coefficients(gram, n, weight, eps, k)) { return; }
      if (n > 2) {
        throw value_error(where + " has models whose weighted directions cancel, so there is no mean direction; choose other "
                                  "weights, or another method for this tensor");
      }
      std::copy(weight.begin(), weight.end(), k);
    };
    base_type::measure(be, request, *plan);
    return plan;
  }
};

BRAID_NAMESPACE_END
