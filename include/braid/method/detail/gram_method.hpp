#pragma once

#include <braid/backend/cpu/tensor_gram.hpp>
#include <braid/method/detail/gram_coefficients.hpp>
#include <braid/method/tensor_method.hpp>

#include <functional>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Over what the Gram matrix is summed.
enum class gram_scope : unsigned char { tensor, row, column };

/// Methods whose result is a linear combination of the inputs with coefficients that follow from the Gram matrix of the
/// inputs, or of their deltas: one measure, one apply. Coefficients are found on the host in float64 and rounded once;
/// products and sums are float32, from the left.
template <backend Exec>
class gram_method : public tensor_method<Exec> {
 protected:
  using base_type = tensor_method<Exec>;
  using base_type::base_type;

  /// Finds the coefficients of what is combined from a Gram matrix [n, n]. Called from many threads.
  using solver = std::function<void(double const* gram, int n, double* k)>;

  struct plan_type final : method_plan {
    gram_scope scope = gram_scope::tensor;
    operand measured = operand::values;  // what the Gram matrix is of
    operand combined = operand::values;  // deltas: the base is added to the combination
    bool base_is_first = false;          // the base is combined too, as the first vector
    bool base_is_measured = false;       // and is a vector of the Gram matrix
    int vectors = 0;                     // combined
    solver solve{};
    std::vector<float> coefficient{};    // [vectors], of a column scope [vectors, cols]
  };

  /// Measures, for a scope of tensor or column.
  static void measure(Exec const& be, tensor_request const& request, plan_type& plan) {
    tensor_channels const tensor = plan.base_is_measured ? base_as_model(request.inputs) : request.inputs;
    auto const n = static_cast<int>(tensor.experts.size());
    plan.vectors = static_cast<int>(request.inputs.experts.size()) + (plan.base_is_first ? 1 : 0);
    std::vector<double> k(static_cast<std::size_t>(plan.vectors));
    try {
      if (plan.scope == gram_scope::column) {
        auto const grams = column_grams(be, tensor, plan.measured, request.allow_nonfinite);
        auto const cols = static_cast<std::size_t>(tensor.cols);
        plan.coefficient.resize(k.size() * cols);
        for (std::size_t c = 0; c < cols; ++c) {
          plan.solve(grams.data() + 4 * c, n, k.data());
          for (std::size_t i = 0; i < k.size(); ++i) { plan.coefficient[i * cols + c] = static_cast<float>(k[i]); }
        }
      } else if (plan.scope == gram_scope::tensor) {
        auto const gram = tensor_gram(be, tensor, plan.measured, request.allow_nonfinite);
        plan.solve(gram.data(), n, k.data());
        plan.coefficient.assign(k.begin(), k.end());
      }
    } catch (nonfinite_found& found) {
      if (plan.base_is_measured) { --found.where.model; }
      throw;
    }
  }

  /// A plan that copies the only input: the base, or the only model.
  static std::unique_ptr<plan_type> copy(bool base) {
    auto plan = std::make_unique<plan_type>();
    plan->base_is_first = base;
    plan->vectors = 1;
    plan->coefficient = {1.0f};
    return plan;
  }

 private:
  void apply_block(method_plan const& any_plan, channel_block const& given, std::byte* out,
                   typename base_type::workspace& work) const override {
    auto const& plan = static_cast<plan_type const&>(any_plan);
    channel_block const block = plan.base_is_first ? base_as_model(given) : given;
    try {
      for (index_t row = 0; row < block.rows; ++row) { combine_row(plan, given, block, row, out, work); }
    } catch (nonfinite_found& found) {
      if (plan.base_is_first && !(plan.scope == gram_scope::row && !plan.base_is_measured)) { --found.where.model; }
      throw;
    }
  }

  static void combine_row(plan_type const& plan, channel_block const& given, channel_block const& block, index_t row,
                          std::byte* out, method_workspace& work) {
    float const* coefficient = plan.coefficient.data();
    std::vector<float> of_row;
    if (plan.scope == gram_scope::row) {
      channel_block const& measured = plan.base_is_measured ? block : given;
      std::vector<double> k(static_cast<std::size_t>(plan.vectors));
      double const* const gram = row_gram(measured, row, plan.cols, plan.measured, plan.allow_nonfinite, work);
      plan.solve(gram, static_cast<int>(measured.experts.size()), k.data());
      of_row.assign(k.begin(), k.end());
      coefficient = of_row.data();
    }
    float* const mix = work.mix.fit(sum_order::segment);
    for_each_segment(plan.cols, [&](index_t c, int n) {
      load_checked_segment(block, row, c, n, plan.combined, plan.allow_nonfinite, work);
      float* const x = work.models.fit(1);
      if (plan.scope == gram_scope::column) {
        for (int i = 0; i < plan.vectors; ++i) {
          dispatch<multiply_body>(x + i * segment_stride, coefficient + static_cast<index_t>(i) * plan.cols + c, n);
        }
        dispatch<add_all_body>(static_cast<float const*>(x), plan.vectors, n, mix);
      } else {
        dispatch<combine_body>(static_cast<float const*>(x), plan.vectors, n, coefficient, false, 1.0f, mix);
      }
      std::byte* const to = out_column(out, block.out, plan.cols, row, c);
      if (plan.combined == operand::deltas) {
        add_base(block.out, work.base.fit(1), mix, 1.0f, to, n);
      } else {
        store_rounded(block.out, mix, to, n);
      }
    });
  }

  /// x = x * factor, element by element.
  struct multiply_body {
    template <int W>
    BRAID_ALWAYS_INLINE static void run(float* x, float const* factor, int count) noexcept {
      for (int c = 0; c < count; ++c) { x[c] = x[c] * factor[c]; }
    }
  };

  /// The sum of rows a segment apart, from the left.
  struct add_all_body {
    template <int W>
    BRAID_ALWAYS_INLINE static void run(float const* x, int n, int count, float* out) noexcept {
      for (int c = 0; c < count; ++c) { out[c] = x[c]; }
      for (int i = 1; i < n; ++i) {
        for (int c = 0; c < count; ++c) { out[c] = out[c] + x[i * segment_stride + c]; }
      }
    }
  };
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
