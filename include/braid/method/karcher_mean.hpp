#pragma once

#include <braid/method/detail/gram_method.hpp>

BRAID_NAMESPACE_BEGIN

/// The Karcher mean (the point with the least sum of squared angles) of the models' directions over whole tensors, at their
/// mean length. There is no base; a recipe's base model counts as one of the models. A single model is copied; zero tensors
/// count for the length only.
///
/// The iteration (up to `max_iter` steps along the mean tangent, until it is shorter than `tol`) stays in the span of the
/// tensors, so it runs on the host in float64 on their Gram matrix. Directions opposite to the current mean don't pull; mergekit
/// divides by a sine of nearly zero there. Costs as `slerp`. Karcher (Comm. Pure Appl. Math. 30, 1977).
template <backend Exec>
class karcher_mean final : public detail::gram_method<Exec> {
  using base_type = detail::gram_method<Exec>;

 public:
  struct options {
    int max_iter = 10;
    double tol = 1e-5;
  };

  explicit karcher_mean(options const& o = {})
      : base_type({.name = "karcher",
                   .base = base_role::member,
                   .least_models = 1,
                   .parameters = {{.name = "max_iter", .kind = parameter_kind::integer, .fallback = static_cast<double>(o.max_iter)},
                                  {.name = "tol", .fallback = o.tol}}},
                  {}) {}

 private:
  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                       detail::parameter_reader const& parameters) const override {
    double const steps = parameters.number("max_iter");
    double const tol = parameters.number("tol");
    if (!(steps >= 0.0 && steps <= 1e6)) { parameters.refuse("max_iter", steps, "", "choose 0 to 1000000"); }
    if (!(tol >= 0.0)) { parameters.refuse("tol", tol, "", "choose 0 or more"); }
    if (request.models.size() == 1) { return base_type::copy(false); }
    auto plan = std::make_unique<typename base_type::plan_type>();
    plan->solve = [max_iter = static_cast<int>(steps), tol](double const* gram, int n, double* k) {
      detail::karcher_coefficients(gram, n, max_iter, tol, k);
    };
    base_type::measure(be, request, *plan);
    return plan;
  }
};

BRAID_NAMESPACE_END
