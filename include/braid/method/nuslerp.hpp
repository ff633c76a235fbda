#pragma once

#include <braid/method/detail/gram_method.hpp>

BRAID_NAMESPACE_BEGIN

/// What a spherical interpolation takes for one vector.
enum class vector_scope : unsigned char {
  tensor,  ///< the whole tensor
  row,     ///< each output channel; a tensor of one channel is one vector either way
  column   ///< each input, over all output channels
};

/// Spherical interpolation of two models by weights, of whole tensors or of each row or column: as `slerp` with
/// t = w_1 / (w_0 + w_1) (1/2 where the sum is below 1e-6 in magnitude), linear only where both are on one line, to within
/// the precision of the sums. With a base, of the deltas, and the base is added again. A single model is copied.
///
/// mergekit's parameters: `nuslerp_flatten` (true) is the scope tensor; without it, `nuslerp_row_wise` false is the scope row
/// and true the scope column, the reverse of its name. Its results for opposite tensors come from dividing by a sine of nearly
/// zero; braid interpolates linearly there. Costs as `slerp`; of scope row, no measuring pass. The method is mergekit's own (Goddard et al.,
/// arXiv 2403.13257); the interpolation Shoemake's (SIGGRAPH 1985).
template <backend Exec>
class nuslerp final : public detail::gram_method<Exec> {
  using base_type = detail::gram_method<Exec>;

 public:
  struct options {
    std::vector<double> weight{};  ///< one a model; empty: 1 for each
    vector_scope scope = vector_scope::tensor;
  };

  explicit nuslerp(options const& o = {}, bool weight_required = false)
      : base_type({.name = "nuslerp",
                   .base = base_role::optional,
                   .least_models = 1,
                   .most_models = 2,
                   .parameters = {{.name = "weight", .per_model = true, .required = weight_required, .fallback = 1.0},
                                  {.name = "nuslerp_flatten",
                                   .kind = parameter_kind::boolean,
                                   .fallback = o.scope == vector_scope::tensor ? 1.0 : 0.0},
                                  {.name = "nuslerp_row_wise",
                                   .kind = parameter_kind::boolean,
                                   .fallback = o.scope == vector_scope::column ? 1.0 : 0.0}}},
                  own(o)) {}

 private:
  static method_parameters own(options const& o) {
    method_parameters p;
    detail::keep_values(p, "weight", o.weight);
    return p;
  }

  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                       detail::parameter_reader const& parameters) const override {
    bool const based = request.inputs.base.data != nullptr;
    if (request.models.size() == 1) {
      if (based) { throw argument_error(parameters.where() + " comes from one model besides the base; nuslerp takes two"); }
      return base_type::copy(false);
    }
    auto const weight = parameters.each("weight");
    double const sum = weight[0] + weight[1];
    double const t = std::abs(sum) < 1e-6 ? 0.5 : weight[1] / sum;
    auto plan = std::make_unique<typename base_type::plan_type>();
    plan->measured = based ? detail::operand::deltas : detail::operand::values;
    plan->combined = plan->measured;
    if (!parameters.flag("nuslerp_flatten") && request.inputs.channels > 1) {
      plan->scope = parameters.flag("nuslerp_row_wise") ? detail::gram_scope::column : detail::gram_scope::row;
    }
    plan->solve = [t](double const* gram, int, double* k) { detail::nuslerp_coefficients(gram, t, k); };
    base_type::measure(be, request, *plan);
    return plan;
  }
};

BRAID_NAMESPACE_END
