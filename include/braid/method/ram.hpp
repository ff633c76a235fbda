#pragma once

#include <braid/method/tensor_method.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// The merged delta: a model that moved an element alone counts in full, times its own factor; those that moved it together
/// are averaged. Summed from +0 in the order of the models.
struct ram_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* delta, int n, int count, float epsilon, float const* factor, float* out) noexcept {
    constexpr int tile = 64;
    for (int first = 0; first < count; first += tile) {
      int const width = count - first < tile ? count - first : tile;
      float movers[tile];
      float total[tile];
      for (int c = 0; c < width; ++c) {
        movers[c] = 0.0f;
        total[c] = 0.0f;
      }
      for (int i = 0; i < n; ++i) {
        float const* const row = delta + i * segment_stride + first;
        for (int c = 0; c < width; ++c) { movers[c] = movers[c] + (moves(row[c], epsilon) ? 1.0f : 0.0f); }
      }
      for (int i = 0; i < n; ++i) {
        float const* const row = delta + i * segment_stride + first;
        float const f = factor[i];
        for (int c = 0; c < width; ++c) {
          float const alone = row[c] * f;
          float const shared = row[c] / (movers[c] > 1.0f ? movers[c] : 1.0f);
          float const term = movers[c] > 1.0f ? shared : alone;
          total[c] = total[c] + (moves(row[c], epsilon) ? term : 0.0f);
        }
      }
      for (int c = 0; c < width; ++c) { out[first + c] = total[c]; }
    }
  }

  BRAID_ALWAYS_INLINE static bool moves(float delta, float epsilon) noexcept {
    return (delta < 0.0f ? -delta : delta) > epsilon;
  }
};

/// Adds to `counts` [n, 2] how many elements each model changed alone, and with others.
struct count_movers_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(float const* delta, int n, int count, float epsilon, std::uint32_t* counts) noexcept {
    std::uint32_t movers[sum_order::segment];
    for (int c = 0; c < count; ++c) { movers[c] = 0; }
    for (int i = 0; i < n; ++i) {
      float const* const row = delta + i * segment_stride;
      for (int c = 0; c < count; ++c) { movers[c] += ram_body::moves(row[c], epsilon) ? 1u : 0u; }
    }
    for (int i = 0; i < n; ++i) {
      float const* const row = delta + i * segment_stride;
      std::uint32_t all = 0;
      std::uint32_t alone = 0;
      for (int c = 0; c < count; ++c) {
        std::uint32_t const moved = ram_body::moves(row[c], epsilon) ? 1u : 0u;
        all += moved;
        alone += movers[c] == 1u ? moved : 0u;
      }
      counts[2 * i] += alone;
      counts[2 * i + 1] += all - alone;
    }
  }
};

}  // namespace detail

/// Reinforced Agent Merging: what a model changed alone (by more than `epsilon`) is added in full, what several changed is
/// averaged over those. RAM+ (`reinforce`) multiplies model i's lone part by 1 + r clamp(s_i / max(u_i, epsilon), 0, alpha),
/// where s_i and u_i are the numbers of its elements in this tensor that it shares and that are its own.
///
/// In float32, each step rounded; bit-exact. One pass; RAM+ one more, to count. "Reinforced Agent Merging" (arXiv 2601.13572);
/// RAM+ here is the tensor-local form. Both styles agree.
template <backend Exec>
class ram final : public tensor_method<Exec> {
  using base_type = tensor_method<Exec>;

 public:
  struct options {
    double epsilon = 1e-5;   ///< a delta up to this doesn't count as a change
    bool reinforce = false;  ///< RAM+
    double r = 0.1;          ///< RAM+: strength
    double alpha = 0.2;      ///< RAM+: largest ratio that counts
  };

  explicit ram(options const& o = {}) : base_type(describe(o), {}), reinforce_(o.reinforce) {}

 private:
  struct plan_type final : method_plan {
    float epsilon = 0.0f;
    std::vector<float> factor;  // of each model's lone part
  };

  static method_info describe(options const& o) {
    method_info info{.name = o.reinforce ? "ramplus_tl" : "ram"};
    if (o.reinforce) {
      info.parameters.push_back({.name = "r", .fallback = o.r});
      info.parameters.push_back({.name = "alpha", .fallback = o.alpha});
    }
    info.parameters.push_back({.name = "epsilon", .fallback = o.epsilon});
    return info;
  }

  [[nodiscard]] std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                       detail::parameter_reader const& parameters) const override {
    auto plan = std::make_unique<plan_type>();
    plan->epsilon = static_cast<float>(parameters.number("epsilon"));
    if (!(plan->epsilon >= 0.0f)) { parameters.refuse("epsilon", parameters.number("epsilon"), "", "choose 0 or more"); }
    plan->factor.assign(request.models.size(), 1.0f);
    if (reinforce_) {
      double const alpha = parameters.number("alpha");
      if (!(alpha >= 0.0)) { parameters.refuse("alpha", alpha, "", "choose 0 or more"); }
      auto const r = static_cast<float>(parameters.number("r"));
      auto const counts = count_movers(be, request.inputs, plan->epsilon);
      for (std::size_t i = 0; i < plan->factor.size(); ++i) {
        auto const alone = static_cast<float>(counts[2 * i]);
        float const ratio = static_cast<float>(counts[2 * i + 1]) / std::max(alone, plan->epsilon);
        plan->factor[i] = 1.0f + r * std::min(ratio, static_cast<float>(alpha));
      }
    }
    return plan;
  }

  /// Elements that each model changed alone, and that it changed with others: [models, 2].
  static std::vector<index_t> count_movers(Exec const& be, tensor_channels const& tensor, float epsilon) {
    std::size_t const models = tensor.experts.size();
    index_t const rows = detail::block_rows(tensor);
    auto const blocks = static_cast<std::size_t>((tensor.channels + rows - 1) / rows);
    std::vector<index_t> partial(blocks * 2 * models, 0);
    ops::tensor_blocks<Exec>::for_each(be, tensor, rows, [&](index_t b, channel_block const& block, auto& work) {
      index_t* const counts = partial.data() + static_cast<std::size_t>(b) * 2 * models;
      std::vector<std::uint32_t> of_row(2 * models);
      for (index_t row = 0; row < block.rows; ++row) {
        std::fill(of_row.begin(), of_row.end(), 0u);
        detail::for_each_segment(tensor.cols, [&](index_t c, int n) {
          detail::load_segment(block, row, c, n, detail::operand::deltas, work);
          detail::dispatch<detail::count_movers_body>(static_cast<float const*>(work.models.fit(1)), static_cast<int>(models), n,
                                                      epsilon, of_row.data());
        });
        for (std::size_t i = 0; i < of_row.size(); ++i) { counts[i] += static_cast<index_t>(of_row[i]); }
      }
    });
    std::vector<index_t> total(2 * models, 0);
    for (std::size_t i = 0; i < partial.size(); ++i) { total[i % (2 * models)] += partial[i]; }
    return total;
  }

  void apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                   typename base_type::workspace& work) const override {
    auto const& plan = static_cast<plan_type const&>(any_plan);
    float* const mix = work.mix.fit(sum_order::segment);
    for (index_t row = 0; row < block.rows; ++row) {
      detail::for_each_segment(plan.cols, [&](index_t c, int n) {
        detail::load_checked_segment(block, row, c, n, detail::operand::deltas, plan.allow_nonfinite, work);
        detail::dispatch<detail::ram_body>(static_cast<float const*>(work.models.fit(1)), static_cast<int>(plan.factor.size()), n,
                                           plan.epsilon, plan.factor.data(), mix);
        detail::add_base(block.out, work.base.fit(1), mix, 1.0f, detail::out_column(out, block.out, plan.cols, row, c), n);
      });
    }
  }

  bool reinforce_;
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
