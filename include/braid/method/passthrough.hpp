#pragma once

#include <braid/method/tensor_method.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// out = x * scale.
struct scaled_copy_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float scale, int count, float* out) noexcept {
    for (int c = 0; c < count; ++c) { out[c] = x[c] * scale; }
  }
};

}  // namespace detail

/// One model's tensor, times `scale`; with scale 1 and the same element type bit for bit. For layers that are stacked rather
/// than merged: depth up-scaling (Kim et al., "SOLAR 10.7B", arXiv 2312.15166) and its relatives. One pass.
template <backend Exec>
class passthrough final : public tensor_method<Exec> {
  using base_type = tensor_method<Exec>;

 public:
  struct options {
    double scale = 1.0;
  };

  explicit passthrough(options const& o = {})
      : base_type({.name = "passthrough",
                   .base = base_role::member,
                   .least_models = 1,
                   .most_models = 1,
                   .parameters = {{.name = "scale", .per_model = true, .fallback = o.scale}}},
                  {}) {}

 private:
  struct plan_type final : method_plan {
    float scale = 1.0f;
  };

  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const&, tensor_request const&,
                                                       detail::parameter_reader const& parameters) const override {
    auto plan = std::make_unique<plan_type>();
    plan->scale = static_cast<float>(parameters.each("scale")[0]);
    return plan;
  }

  void apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                   typename base_type::workspace& work) const override {
    auto const& plan = static_cast<plan_type const&>(any_plan);
    float* const mix = work.mix.fit(sum_order::segment);
    channel_rows const& model = block.experts[0];
    bool const as_it_is = plan.scale == 1.0f;
    for (index_t row = 0; row < block.rows; ++row) {
      if (as_it_is) { detail::convert(model.type, model.row(row), block.out, detail::out_column(out, block.out, plan.cols, row, 0), plan.cols); }
      if (as_it_is && plan.allow_nonfinite) { continue; }
      detail::for_each_segment(plan.cols, [&](index_t c, int n) {
        detail::load_checked_segment(block, row, c, n, detail::operand::values, plan.allow_nonfinite, work);
        if (as_it_is) { return; }
        detail::dispatch<detail::scaled_copy_body>(static_cast<float const*>(work.models.fit(1)), plan.scale, n, mix);
        detail::store_rounded(block.out, mix, detail::out_column(out, block.out, plan.cols, row, c), n);
      });
    }
  }
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
