#pragma once

#include <braid/backend/cpu/radix_select.hpp>
#include <braid/method/tensor_method.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// The variance over models of each element, float32: the mean, then the mean of the squared differences.
struct variance_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, int n, int count, float* out) noexcept {
    using f32 = typename wide<W>::f32;
    float const models = static_cast<float>(n);
    int c = 0;
    for (; c + W <= count; c += W) {
      f32 mean{};
      f32 sum{};
      f32 d;
      for (int i = 0; i < n; ++i) {
        load_lanes<W>(x + i * segment_stride + c, d);
        mean = mean + d;
      }
      mean = mean / models;
      for (int i = 0; i < n; ++i) {
        load_lanes<W>(x + i * segment_stride + c, d);
        d = d - mean;
        sum = sum + d * d;
      }
      store_lanes<W>(sum / models, out + c);
    }
    for (; c < count; ++c) {
      float mean = 0.0f;
      float sum = 0.0f;
      for (int i = 0; i < n; ++i) { mean = mean + x[i * segment_stride + c]; }
      mean = mean / models;
      for (int i = 0; i < n; ++i) {
        float const d = x[i * segment_stride + c] - mean;
        sum = sum + d * d;
      }
      out[c] = sum / models;
    }
  }
};

/// The weighted mean of the deltas that agree with the sign of their sum; a sum of weights counts as at least 1e-6.
struct sce_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* x, int n, int count, float const* weight, float* out) noexcept {
    constexpr int tile = 64;
    for (int first = 0; first < count; first += tile) {
      int const width = count - first < tile ? count - first : tile;
      float vote[tile];
      float total[tile];
      float sum[tile];
      for (int c = 0; c < width; ++c) {
        vote[c] = 0.0f;
        total[c] = 0.0f;
        sum[c] = 0.0f;
      }
      for (int i = 0; i < n; ++i) {
        for (int c = 0; c < width; ++c) { vote[c] = vote[c] + x[i * segment_stride + first + c]; }
      }
      for (int i = 0; i < n; ++i) {
        float const w = weight[i];
        for (int c = 0; c < width; ++c) {
          float const d = x[i * segment_stride + first + c];
          float const along = vote[c] >= 0.0f ? d : -d;
          float const y = d * w;
          total[c] = total[c] + (along > 0.0f ? y : 0.0f);
          sum[c] = sum[c] + (along > 0.0f ? w : 0.0f);
        }
      }
      for (int c = 0; c < width; ++c) {
        float const divisor = sum[c] > 1e-6f ? sum[c] : 1e-6f;
        out[first + c] = total[c] / divisor;
      }
    }
  }
};

/// Drops what isn't selected: the models' deltas become 0 where the variance isn't taken by a cut.
/// @param last index in the segment of the last element that is taken of those at the cut
struct selected_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float* x, int n, int count, float const* variance, std::uint32_t bits, int last) noexcept {
    constexpr int tile = 64;
    for (int first = 0; first < count; first += tile) {
      int const width = count - first < tile ? count - first : tile;
      std::uint32_t keep[tile];
      for (int c = 0; c < width; ++c) {  // magnitudes and cuts compare as signed numbers; a cut that takes nothing is apart
        auto const size = static_cast<std::int32_t>(magnitude_bits(variance[first + c]));
        auto const cut = static_cast<std::int32_t>(bits);
        bool const taken = (size > cut) | ((size == cut) & (first + c <= last));
        keep[c] = taken ? ~0u : 0u;
      }
      for (int i = 0; i < n; ++i) {
        float* const row = x + i * segment_stride + first;
        for (int c = 0; c < width; ++c) { row[c] = bits_as<float>(bits_as<std::uint32_t>(row[c]) & keep[c]); }
      }
    }
  }
};

/// Stream 0 is the variance of the deltas. Counts those that aren't zero, while it is asked to.
class variance_source {
 public:
  template <class Visit>
  void operator()(channel_block const& block, index_t row, index_t c, int n, method_workspace& work, Visit const& visit) const {
    float* const variance = work.mix.fit(sum_order::segment);
    load_segment(block, row, c, n, operand::deltas, work);
    dispatch<variance_body>(static_cast<float const*>(work.models.fit(1)), static_cast<int>(block.experts.size()), n, variance);
    if (counting_) { nonzero_.local() += n - static_cast<index_t>(count_key(variance, n, 0, 0)); }
    visit(std::size_t{0}, static_cast<float const*>(variance));
  }

  /// How many weren't zero; ends the counting.
  [[nodiscard]] index_t nonzero() {
    counting_ = false;
    index_t total = 0;
    for (index_t const n : nonzero_) { total += n; }
    return total;
  }

 private:
  bool counting_ = true;
  mutable tbb::enumerable_thread_specific<index_t> nonzero_{index_t{0}};
};

}  // namespace detail

/// SCE: *select* the elements whose deltas vary most over the models (the fraction `select_topk` of those that vary at all;
/// of equal variances the lower index), *calculate* a weight for each model from the mean square of its selected deltas, and
/// *erase* deltas against the sign of the sum; the base plus the weighted mean of what is left.
///
/// With `select_topk` 1 everything is selected; where nothing is, the result is the base. Mean squares whose sum is below 1e-6
/// give equal weights. Variances, votes and means in float32, each step rounded; sums over the tensor in the one order of sums
/// inside rows, rows in float64. Mostly two passes to select, one to weigh, one to apply.
///
/// Wan et al., "FuseChat" (arXiv 2408.07990), section 3.3. Both styles agree.
template <backend Exec>
class sce final : public tensor_method<Exec> {
  using base_type = tensor_method<Exec>;

 public:
  struct options {
    double select_topk = 1.0;
  };

  explicit sce(options const& o = {})
      : base_type({.name = "sce",
                   .parameters = {{.name = "select_topk", .fallback = o.select_topk},
                                  {.name = "int8_mask", .kind = parameter_kind::boolean, .has_effect = false}}},
                  {}) {}

 private:
  struct plan_type final : method_plan {
    bool selects = false;
    magnitude_cut cut;          // of the variances
    std::vector<float> weight;
  };

  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                       detail::parameter_reader const& parameters) const override {
    auto plan = std::make_unique<plan_type>();
    plan->cols = request.inputs.cols;
    double const share = parameters.number("select_topk");
    plan->selects = share < 1.0;
    if (plan->selects && !request.models.empty()) { plan->cut = select(be, request.inputs, share); }
    if (!request.models.empty()) { plan->weight = weigh(be, request.inputs, *plan); }
    return plan;
  }

  static magnitude_cut select(Exec const& be, tensor_channels const& tensor, double share) {
    detail::variance_source source;
    detail::radix_select select(1, detail::radix_select::order::largest);
    // A float32 product, as in the authors' and mergekit's code.
    auto const wanted = [&](std::size_t, index_t) {
      return share <= 0.0 ? index_t{0} : static_cast<index_t>(static_cast<float>(source.nonzero()) * static_cast<float>(share));
    };
    detail::variance_source sample;
    select.expect(tensor, sample, [&](std::size_t, double) { return share * static_cast<double>(sample.nonzero()); });
    while (select.next_pass(wanted)) { select.add(be, tensor, source); }
    return select.result(0, 0, tensor.channels * tensor.cols);
  }

  /// Loads a segment's selected deltas. `check`: throws `nonfinite_found` for inputs that are none.
  static void load_selected(plan_type const& plan, channel_block const& block, index_t row, index_t c, int n, bool check,
                            typename base_type::workspace& work) {
    detail::load_checked_segment(block, row, c, n, detail::operand::deltas, !check, work);
    if (!plan.selects) { return; }
    float* const delta = work.models.fit(1);
    float* const variance = work.mix.fit(sum_order::segment);
    auto const models = static_cast<int>(block.experts.size());
    detail::dispatch<detail::variance_body>(static_cast<float const*>(delta), models, n, variance);
    if (plan.cut.last < 0 && plan.cut.bits > 0x7FFFFFFFu) {  // nothing
      for (int i = 0; i < models; ++i) { std::fill_n(delta + i * detail::segment_stride, n, 0.0f); }
      return;
    }
    index_t const last = plan.cut.last - ((block.first + row) * plan.cols + c);
    detail::dispatch<detail::selected_body>(delta, models, n, static_cast<float const*>(variance), plan.cut.bits,
                                            static_cast<int>(std::clamp<index_t>(last, -1, n)));
  }

  static std::vector<float> weigh(Exec const& be, tensor_channels const& tensor, plan_type const& plan) {
    std::size_t const models = tensor.experts.size();
    constexpr index_t rows = detail::radix_select::measure_rows;
    auto const blocks = static_cast<std::size_t>((tensor.channels + rows - 1) / rows);
    std::vector<double> partial(blocks * models, 0.0);
    ops::tensor_blocks<Exec>::for_each(be, tensor, rows, [&](index_t b, channel_block const& block, auto& work) {
      double* const sums = partial.data() + static_cast<std::size_t>(b) * models;
      for (index_t row = 0; row < block.rows; ++row) {
        work.totals.assign(models, 0.0f);
        detail::for_each_segment(tensor.cols, [&](index_t c, int n) {
          load_selected(plan, block, row, c, n, false, work);
          for (std::size_t i = 0; i < models; ++i) {
            float* const delta = work.models.fit(1) + i * sum_order::segment;
            detail::pad_segment(delta, n);
            detail::dispatch<detail::squared_length_body>(static_cast<float const*>(delta), detail::padded(n), &work.totals[i]);
          }
        });
        for (std::size_t i = 0; i < models; ++i) { sums[i] += static_cast<double>(work.totals[i]); }
      }
    });
    std::vector<double> mean_square(models, 0.0);
    double sum = 0.0;
    for (std::size_t i = 0; i < models; ++i) {
      for (std::size_t b = 0; b < blocks; ++b) { mean_square[i] += partial[b * models + i]; }
      mean_square[i] /= static_cast<double>(tensor.channels * tensor.cols);
      sum += mean_square[i];
    }
    std::vector<float> weight;
    for (double const m : mean_square) {
      weight.push_back(static_cast<float>(std::abs(sum) < 1e-6 ? 1.0 / static_cast<double>(models) : m / sum));
    }
    return weight;
  }

  void apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                   typename base_type::workspace& work) const override {
    auto const& plan = static_cast<plan_type const&>(any_plan);
    float* const mix = work.mix.fit(sum_order::segment);
    auto const models = static_cast<int>(block.experts.size());
    for (index_t row = 0; row < block.rows; ++row) {
      detail::for_each_segment(plan.cols, [&](index_t c, int n) {
        load_selected(plan, block, row, c, n, !plan.allow_nonfinite, work);
        detail::dispatch<detail::sce_body>(static_cast<float const*>(work.models.fit(1)), models, n, plan.weight.data(), mix);
        detail::add_base(block.out, work.base.fit(1), mix, 1.0f, detail::out_column(out, block.out, plan.cols, row, c), n);
      });
    }
  }
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
