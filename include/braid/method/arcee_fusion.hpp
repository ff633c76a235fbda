#pragma once

#include <braid/backend/cpu/radix_select.hpp>
#include <braid/core/detail/elementary.hpp>
#include <braid/method/tensor_method.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// The importance of each element: |x - base| times its row's divergence. Streams 0, 1 and 2 are all the same, for three
/// order statistics.
struct importance_source {
  float const* divergence;  // [channels]

  struct body {
    template <int W>
    BRAID_ALWAYS_INLINE static void run(float const* delta, float divergence, int count, float* out) noexcept {
      for (int c = 0; c < count; ++c) { out[c] = (delta[c] < 0.0f ? -delta[c] : delta[c]) * divergence; }
    }
  };

  template <class Visit>
  void operator()(channel_block const& block, index_t cols, method_workspace& work, Visit const& visit) const {
    float* const importance = work.mix.fit(sum_order::segment);
    for (index_t row = 0; row < block.rows; ++row) {
      for_each_segment(cols, [&](index_t c, int n) {
        load_segment(block, row, c, n, operand::deltas, work);
        dispatch<body>(static_cast<float const*>(work.models.fit(1)), divergence[block.first + row], n, importance);
        for (std::size_t s = 0; s < 3; ++s) { visit(s, static_cast<float const*>(importance), n, row, c); }
      });
    }
  }
};

/// out = exp(x - largest), float64.
struct shifted_exp_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, double largest, int count, double* out) noexcept {
    for (int c = 0; c < count; ++c) { out[c] = exp_negative(static_cast<double>(x[c]) - largest); }
  }
};

/// p = p log(p / q) with p and q divided by their sums and raised by 1e-8.
struct divergence_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(double* p, double const* q, double p_sum, double q_sum, int count) noexcept {
    for (int c = 0; c < count; ++c) {
      double const a = p[c] / p_sum + 1e-8;
      double const b = q[c] / q_sum + 1e-8;
      p[c] = a * log_positive(a / b);
    }
  }
};

}  // namespace detail

/// Arcee Fusion: takes from a model only its most important changes. The importance of an element is |x - base| times the
/// Kullback-Leibler divergence of its row: softmax over the row of the model from that of the base, both raised by 1e-8.
/// Elements whose importance reaches median + 1.5 (third - first quartile) are the model's delta on the base, others the
/// base. Without a model, the base.
///
/// Divergences in float64, sums over a row from the left, with an exponential and a logarithm that are the same on every
/// machine. Quartiles are exact order statistics, number floor(q (n - 1)) from 0; mergekit draws a sample above a million
/// elements, so that its results differ from run to run. Costs one pass of exponentials, two to select, one to apply.
/// Arcee AI, "MergeKit v0.1" (2025). Both styles agree.
template <backend Exec>
class arcee_fusion final : public tensor_method<Exec> {
  using base_type = tensor_method<Exec>;

 public:
  arcee_fusion() : base_type({.name = "arcee_fusion", .most_models = 1}, {}) {}

 private:
  struct plan_type final : method_plan {
    std::vector<float> divergence;  // [channels]
    float threshold = 0.0f;
  };

  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                       detail::parameter_reader const&) const override {
    auto plan = std::make_unique<plan_type>();
    if (request.models.empty()) { return plan; }
    tensor_channels const& tensor = request.inputs;
    plan->divergence.resize(static_cast<std::size_t>(tensor.channels));
    ops::tensor_blocks<Exec>::for_each(be, tensor, detail::block_rows(tensor), [&](index_t, channel_block const& block, auto& work) {
      std::vector<double> p(static_cast<std::size_t>(tensor.cols));
      std::vector<double> q(p.size());
      for (index_t row = 0; row < block.rows; ++row) {
        double const p_sum = exponentials(block.experts[0], row, work, p);
        double const q_sum = exponentials(block.base, row, work, q);
        detail::dispatch<detail::divergence_body>(p.data(), static_cast<double const*>(q.data()), p_sum, q_sum,
                                                  static_cast<int>(p.size()));
        double sum = 0.0;
        for (double const x : p) { sum += x; }
        plan->divergence[static_cast<std::size_t>(block.first + row)] = sum > 0.0 ? static_cast<float>(sum) : 0.0f;
      }
    });
    auto const last = static_cast<std::uint64_t>(tensor.channels * tensor.cols - 1);
    std::uint64_t const quartile_number[] = {last / 4, last / 2, last / 4 * 3 + last % 4 * 3 / 4};  // from 0
    detail::radix_select select(3, detail::radix_select::order::smallest, detail::radix_select::goal::values);
    detail::importance_source const source{plan->divergence.data()};
    while (select.next_pass([&](std::size_t s, index_t) { return static_cast<index_t>(quartile_number[s]) + 1; })) {
      select.add(be, tensor, source);
    }
    float quartile[3];
    for (std::size_t s = 0; s < 3; ++s) { quartile[s] = select.last_taken(s); }
    plan->threshold = quartile[1] + 1.5f * (quartile[2] - quartile[0]);
    return plan;
  }

  /// exp(x - largest x) of a row. @return their sum
  static double exponentials(channel_rows const& model, index_t row, typename base_type::workspace& work, std::vector<double>& out) {
    auto const cols = static_cast<index_t>(out.size());
    float* const x = work.row.fit(out.size());
    float largest = -HUGE_VALF;
    detail::for_each_segment(cols, [&](index_t c, int n) {
      detail::widen(model.type, detail::at_column(model.row(row), model.type, c), x + c, n);
      for (int i = 0; i < n; ++i) { largest = x[c + i] > largest ? x[c + i] : largest; }
    });
    detail::dispatch<detail::shifted_exp_body>(static_cast<float const*>(x), static_cast<double>(largest), static_cast<int>(cols),
                                               out.data());
    double sum = 0.0;
    for (double const e : out) { sum += e; }
    return sum;
  }

  void apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                   typename base_type::workspace& work) const override {
    auto const& plan = static_cast<plan_type const&>(any_plan);
    float* const mix = work.mix.fit(sum_order::segment);
    for (index_t row = 0; row < block.rows; ++row) {
      detail::for_each_segment(plan.cols, [&](index_t c, int n) {
        detail::load_checked_segment(block, row, c, n, detail::operand::deltas, plan.allow_nonfinite, work);
        std::fill_n(mix, n, 0.0f);
        if (!block.experts.empty()) {
          float* const delta = work.models.fit(1);
          detail::dispatch<detail::importance_source::body>(static_cast<float const*>(delta),
                                                            plan.divergence[static_cast<std::size_t>(block.first + row)], n, mix);
          for (int i = 0; i < n; ++i) { mix[i] = mix[i] >= plan.threshold ? delta[i] : 0.0f; }
        }
        detail::add_base(block.out, work.base.fit(1), mix, 1.0f, detail::out_column(out, block.out, plan.cols, row, c), n);
      });
    }
  }
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
