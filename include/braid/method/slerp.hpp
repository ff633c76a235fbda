#pragma once

#include <braid/method/detail/gram_method.hpp>

BRAID_NAMESPACE_BEGIN

/// Spherical linear interpolation between two models, or between base (t = 0) and one model (t = 1), over whole tensors:
/// sin((1 - t) a) / sin(a) x_0 + sin(t a) / sin(a) x_1, with the angle a between x_0 and x_1. Linear where |cos a| > 0.9995,
/// so also for opposite tensors. A zero tensor is at a right angle to everything. A single input is copied.
///
/// Angles on the host in float64, from sums in the one order of sums; deterministic. One measuring pass, one to apply.
/// Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985). Both styles agree.
template <backend Exec>
class slerp final : public detail::gram_method<Exec> {
  using base_type = detail::gram_method<Exec>;

 public:
  struct options {
    double t = 0.5;  ///< from x_0 (0) to x_1 (1); beyond, the circle goes on
  };

  explicit slerp(options const& o = {}, bool t_required = false)
      : base_type({.name = "slerp",
                   .base = base_role::optional,
                   .most_models = 2,
                   .parameters = {{.name = "t", .required = t_required, .fallback = o.t}}},
                  {}) {}

 private:
  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                       detail::parameter_reader const& parameters) const override {
    bool const based = request.inputs.base.data != nullptr;
    std::size_t const vectors = request.models.size() + (based ? 1 : 0);
    if (vectors > 2) {
      throw argument_error(parameters.where() + " comes from " + std::to_string(vectors) +
                           " models; slerp is between two, of which the base is one");
    }
    if (vectors == 1) { return base_type::copy(based); }
    auto plan = std::make_unique<typename base_type::plan_type>();
    plan->base_is_first = based;
    plan->base_is_measured = based;
    plan->solve = [t = parameters.number("t")](double const* gram, int, double* k) { detail::slerp_coefficients(gram, t, k); };
    base_type::measure(be, request, *plan);
    return plan;
  }
};

BRAID_NAMESPACE_END
