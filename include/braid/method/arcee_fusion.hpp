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
  void operator()(channel_block const& block, index_t row, index_t c, int n, method_workspace& work, Visit const& visit) const {
    float* const importance = work.mix.fit(sum_order::segment);
    load_segment(block, row, c, n, operand::deltas, work);
    dispatch<body>(static_cast<float const*>(work.models.fit(1)), divergence[block.first + row], n, importance);
    for (std::size_t s = 0; s < 3; ++s) { visit(s, static_cast<float const*>(importance)); }
  }
};

/// The largest of a row, in lanes; NaN is passed over.
struct largest_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, int count, float* out) noexcept {
    constexpr int lanes = 16;
    float lane[lanes];
    for (int l = 0; l < lanes; ++l) { lane[l] = -HUGE_VALF; }
    int c = 0;
    for (; c + lanes <= count; c += lanes) {
      BRAID_VECTORISE
      for (int l = 0; l < lanes; ++l) { lane[l] = x[c + l] > lane[l] ? x[c + l] : lane[l]; }
    }
    for (; c < count; ++c) { lane[0] = x[c] > lane[0] ? x[c] : lane[0]; }
    float largest = lane[0];
    for (int l = 1; l < lanes; ++l) { largest = lane[l] > largest ? lane[l] : largest; }
    *out = largest;
  }
};

/// Columns whose terms are computed together and then added, so that a long chain of additions runs beside other work.
inline constexpr int divergence_tile = 128;

/// p = exp(x - the largest x), q = exp(y - the largest y), and their sums from the left, float64.
struct exponentials_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float const* y, double largest_x, double largest_y, int count, double* p,
                                      double* q, double* sums) noexcept {
    double p_sum = 0.0;
    double q_sum = 0.0;
    for (int first = 0; first < count; first += divergence_tile) {
      int const last = count - first < divergence_tile ? count : first + divergence_tile;
      for (int c = first; c < last; ++c) { p[c] = exp_negative(static_cast<double>(x[c]) - largest_x); }
      for (int c = first; c < last; ++c) { q[c] = exp_negative(static_cast<double>(y[c]) - largest_y); }
      for (int c = first; c < last; ++c) {
        p_sum = p_sum + p[c];
        q_sum = q_sum + q[c];
      }
    }
    sums[0] = p_sum;
    sums[1] = q_sum;
  }
};

/// The sum, from the left, of p log(p / q), with p and q divided by their sums and raised by 1e-8.
struct divergence_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(double const* p, double const* q, double p_sum, double q_sum, int count, double* out) noexcept {
    double sum = 0.0;
    double term[divergence_tile];
    for (int first = 0; first < count; first += divergence_tile) {
      int const width = count - first < divergence_tile ? count - first : divergence_tile;
      for (int c = 0; c < width; ++c) {
        double const a = p[first + c] / p_sum + 1e-8;
        double const b = q[first + c] / q_sum + 1e-8;
        term[c] = a * log_positive(a / b);
      }
      for (int c = 0; c < width; ++c) { sum = sum + term[c]; }
    }
    *out = sum;
  }
};

/// x where its importance reaches the threshold, else 0.
struct important_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, float threshold, int count, float* importance) noexcept {
    for (int c = 0; c < count; ++c) { importance[c] = importance[c] >= threshold ? x[c] : 0.0f; }
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
      for (index_t row = 0; row < block.rows; ++row) {
        plan->divergence[static_cast<std::size_t>(block.first + row)] = divergence(block, row, tensor.cols, work);
      }
    });
    auto const last = static_cast<std::uint64_t>(tensor.channels * tensor.cols - 1);
    std::uint64_t const quartile_number[] = {last / 4, last / 2, last / 4 * 3 + last % 4 * 3 / 4};  // from 0
    detail::radix_select select(3, detail::radix_select::order::smallest, detail::radix_select::goal::values);
    detail::importance_source const source{plan->divergence.data()};
    select.expect(tensor, source, [&](std::size_t s, double share) { return share * static_cast<double>(quartile_number[s]); });
    while (select.next_pass([&](std::size_t s, index_t) { return static_cast<index_t>(quartile_number[s]) + 1; })) {
      select.add(be, tensor, source);
    }
    float quartile[3];
    for (std::size_t s = 0; s < 3; ++s) { quartile[s] = select.last_taken(s); }
    plan->threshold = quartile[1] + 1.5f * (quartile[2] - quartile[0]);
    return plan;
  }

  /// The divergence of a row of the model from that of the base.
  static float divergence(channel_block const& block, index_t row, index_t cols, typename base_type::workspace& work) {
    auto const n = static_cast<int>(cols);
    auto const whole = static_cast<std::size_t>(cols);
    float* const x = work.row.fit(2 * whole);
    channel_rows const inputs[] = {block.experts[0], block.base};
    float largest[2];
    for (std::size_t i = 0; i < 2; ++i) {
      channel_rows const& model = inputs[i];
      detail::widen(model.type, model.row(row), x + i * whole, n);
      detail::dispatch<detail::largest_body>(static_cast<float const*>(x + i * whole), n, &largest[i]);
    }
    if (work.terms.size() < 2 * whole) { work.terms.resize(2 * whole); }
    double* const p = work.terms.data();
    double sums[2];
    detail::dispatch<detail::exponentials_body>(static_cast<float const*>(x), static_cast<float const*>(x + whole),
                                                static_cast<double>(largest[0]), static_cast<double>(largest[1]), n, p, p + whole,
                                                static_cast<double*>(sums));
    double sum = 0.0;
    detail::dispatch<detail::divergence_body>(static_cast<double const*>(p), static_cast<double const*>(p + whole), sums[0], sums[1],
                                              n, &sum);
    return sum > 0.0 ? static_cast<float>(sum) : 0.0f;
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
          detail::dispatch<detail::important_body>(static_cast<float const*>(delta), plan.threshold, n, mix);
        }
        detail::add_base(block.out, work.base.fit(1), mix, 1.0f, detail::out_column(out, block.out, plan.cols, row, c), n);
      });
    }
  }
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
