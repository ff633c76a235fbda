#pragma once

#include <braid/method/tensor_method.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// out = w x + (1 - w) base, w = clamp(1 / max(|base - x|, 1e-6) * t, 0, 1), each step rounded.
struct nearswap_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* base, float const* x, float t, int count, float* out) noexcept {
    for (int c = 0; c < count; ++c) {
      float const difference = base[c] - x[c];
      float const distance = difference < 0.0f ? -difference : difference;
      float const inverse = 1.0f / (distance > 1e-6f ? distance : 1e-6f);
      float const share = inverse * t;
      float const w = share > 0.0f ? (share < 1.0f ? share : 1.0f) : 0.0f;
      out[c] = x[c] * w + base[c] * (1.0f - w);
    }
  }
};

}  // namespace detail

/// Swaps in a model where it is near to the base: out = w x + (1 - w) base with w = min(t / |x - base|, 1), differences
/// counted as at least 1e-6. So elements that moved by t or less are the model's, and others the nearer to the base the
/// farther they moved. Without a model, the base.
///
/// One pass. Alchemonaut, "NearSwap" (model card of QuartetAnemoi-70B, 2024). Both styles agree.
template <backend Exec>
class nearswap final : public tensor_method<Exec> {
  using base_type = tensor_method<Exec>;

 public:
  struct options {
    double t = 0.001;  ///< the distance up to which an element is swapped in whole
  };

  explicit nearswap(options const& o = {}, bool t_required = false)
      : base_type({.name = "nearswap", .most_models = 1, .parameters = {{.name = "t", .required = t_required, .fallback = o.t}}}, {}) {}

 private:
  struct plan_type final : method_plan {
    float t = 0.0f;
  };

  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const&, tensor_request const& request,
                                                       detail::parameter_reader const& parameters) const override {
    auto plan = std::make_unique<plan_type>();
    if (!request.models.empty()) { plan->t = static_cast<float>(parameters.number("t")); }
    return plan;
  }

  void apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                   typename base_type::workspace& work) const override {
    auto const& plan = static_cast<plan_type const&>(any_plan);
    float* const mix = work.mix.fit(sum_order::segment);
    for (index_t row = 0; row < block.rows; ++row) {
      detail::for_each_segment(plan.cols, [&](index_t c, int n) {
        detail::load_checked_segment(block, row, c, n, detail::operand::values, plan.allow_nonfinite, work);
        float const* const base = work.base.fit(1);
        float const* merged = base;
        if (!block.experts.empty()) {
          detail::dispatch<detail::nearswap_body>(base, static_cast<float const*>(work.models.fit(1)), plan.t, n, mix);
          merged = mix;
        }
        detail::store_rounded(block.out, merged, detail::out_column(out, block.out, plan.cols, row, c), n);
      });
    }
  }
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
