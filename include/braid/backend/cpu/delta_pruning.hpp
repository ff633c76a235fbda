#pragma once

/// Pruning of the models' deltas with a policy of its own for each model. Virtual calls are one a segment, so that the
/// methods that prune are compiled once, not once per policy.

#include <braid/backend/cpu/group_merge.hpp>
#include <braid/backend/cpu/radix_select.hpp>

#include <memory>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// What pruning leaves of a model's deltas of one tensor.
enum class survivors : unsigned char { all, some, none };

/// Prunes one tensor's deltas, segment by segment. Read-only: all threads share it.
class delta_pruner {
 public:
  explicit delta_pruner(std::vector<survivors> kept) : kept_(std::move(kept)) {}
  virtual ~delta_pruner() = default;

  [[nodiscard]] survivors kept(std::size_t model) const noexcept { return kept_[model]; }

  /// Whether whole rows have to be measured before their segments are pruned.
  [[nodiscard]] virtual bool by_row() const noexcept = 0;
  virtual void measure_row(std::size_t model, float const* row, index_t cols, method_workspace& work) const = 0;

  /// Prunes `count` columns of a channel in place.
  void prune(std::size_t model, float* delta, int count, index_t channel, index_t col, method_workspace const& work) const {
    switch (kept_[model]) {
      case survivors::all: return;
      case survivors::none: std::fill_n(delta, count, 0.0f); return;
      case survivors::some: prune_some(model, delta, count, channel, col, work); return;
    }
  }

 protected:
  virtual void prune_some(std::size_t model, float* delta, int count, index_t channel, index_t col,
                          method_workspace const& work) const = 0;

 private:
  std::vector<survivors> kept_;
};

/// What a pruning policy needs for one tensor.
struct pruning_measures {
  std::vector<tensor_key> keys;       // one a model
  std::vector<magnitude_cut> cuts;    // one a model, where the policy cuts over the tensor
  std::vector<magnitude_band> bands;  // one a model, where it cuts on both sides
};

template <class Prune>
class policy_pruner final : public delta_pruner {
 public:
  policy_pruner(std::vector<Prune> policies, std::vector<survivors> kept, pruning_measures measures)
      : delta_pruner(std::move(kept)), policies_(std::move(policies)), measures_(std::move(measures)) {}

  [[nodiscard]] bool by_row() const noexcept override {
    return Prune::measures == statistic::row_cut || Prune::measures == statistic::row_ranks;
  }

  void measure_row(std::size_t model, float const* row, index_t cols, method_workspace& work) const override {
    if constexpr (Prune::measures == statistic::row_cut) {
      if (work.cuts.size() < policies_.size()) { work.cuts.resize(policies_.size()); }
      work.cuts[model] = row_cut(row, cols, policies_[model].keep_count(cols), work.select);
    } else if constexpr (Prune::measures == statistic::row_ranks) {
      if (work.ranks.size() < policies_.size()) { work.ranks.resize(policies_.size()); }
      work.ranks[model].resize(static_cast<std::size_t>(cols));
      row_ranks(row, cols, work.select, work.ranks[model].data());
    }
  }

 private:
  void prune_some(std::size_t model, float* delta, int count, index_t channel, index_t col,
                  method_workspace const& work) const override {
    auto const plan = plan_of(model, work);
    dispatch<prune_body<std::remove_cv_t<decltype(plan)>>>(plan, delta, count, channel, col);
  }

  [[nodiscard]] auto plan_of(std::size_t model, method_workspace const& work) const {
    Prune const& policy = policies_[model];
    tensor_key const& key = measures_.keys[model];
    if constexpr (Prune::measures == statistic::tensor_cut) {
      return policy.plan(key, measures_.cuts[model]);
    } else if constexpr (Prune::measures == statistic::tensor_band) {
      return policy.plan(key, measures_.bands[model]);
    } else if constexpr (Prune::measures == statistic::row_cut) {
      return policy.plan(key, work.cuts[model]);
    } else if constexpr (Prune::measures == statistic::row_ranks) {
      return policy.plan(key, magnitude_ranks{work.ranks[model].data(), key.cols});
    } else {
      return policy.plan(key);
    }
  }

  std::vector<Prune> policies_;
  pruning_measures measures_;
};

/// Density 1 (and more) keeps a delta as it is, without asking the policy, 0 (and less) drops it.
template <class Prune>
survivors kept_by(Prune const& policy) {
  if constexpr (requires { policy.density; }) {
    return policy.density >= 1.0 ? survivors::all : policy.density <= 0.0 ? survivors::none : survivors::some;
  } else if constexpr (prunes_nothing<Prune>()) {
    return survivors::all;
  } else {
    return survivors::some;
  }
}

/// What is left of each model's delta.
/// @param cuts  over the whole model, one a model, whatever the policies' densities; empty: they are measured over the tensor
template <class Prune>
std::vector<survivors> survivors_of(std::vector<Prune> const& policies, std::vector<magnitude_cut> const& cuts) {
  std::vector<survivors> kept;
  for (Prune const& p : policies) {
    kept.push_back(Prune::measures == statistic::tensor_cut && !cuts.empty() ? survivors::some : kept_by(p));
    if (kept.back() == survivors::some) { validate_policy(p); }
  }
  return kept;
}

/// Measures what the policies need, with `select(how many to take of each model, order)` for cuts over the tensor.
template <class Prune, class Select>
pruning_measures measure_pruning(tensor_channels const& tensor, std::vector<Prune> const& policies, std::vector<survivors> const& kept,
                                 std::vector<tensor_key> keys, std::vector<magnitude_cut> const& cuts, Select const& select) {
  pruning_measures measures;
  measures.keys = std::move(keys);
  index_t const elements = tensor.channels * tensor.cols;
  bool const some = std::find(kept.begin(), kept.end(), survivors::some) != kept.end();
  if constexpr (Prune::measures == statistic::tensor_cut) {
    measures.cuts = cuts;
    if (some && cuts.empty()) {
      std::vector<index_t> wanted;
      for (std::size_t i = 0; i < policies.size(); ++i) {
        wanted.push_back(kept[i] == survivors::some ? policies[i].keep_count(elements) : 0);
      }
      measures.cuts = select(wanted, radix_select::order::largest);
    }
  } else if constexpr (Prune::measures == statistic::tensor_band) {
    std::size_t const models = policies.size();
    std::vector<index_t> wanted(2 * models, 0);  // before the first survivor; before the last one's successor
    for (std::size_t i = 0; i < models; ++i) {
      band_positions const band = kept[i] == survivors::some ? policies[i].keep_band(elements) : band_positions{0, elements};
      wanted[i] = band.first;
      wanted[models + i] = band.last;
    }
    if (some) {
      auto const cuts_of = select(wanted, radix_select::order::smallest);
      for (std::size_t i = 0; i < models; ++i) { measures.bands.push_back({cuts_of[i], cuts_of[models + i]}); }
    }
  }
  return measures;
}

/// Loads a row's deltas and measures them, where the pruner asks for whole rows.
inline void measure_row(delta_pruner const& pruner, channel_block const& block, index_t row, index_t cols, method_workspace& work) {
  if (!pruner.by_row()) { return; }
  float* const whole = work.row.fit(static_cast<std::size_t>(cols));
  float* const base = work.base.fit(sum_order::segment);
  for (std::size_t i = 0; i < block.experts.size(); ++i) {
    if (pruner.kept(i) != survivors::some) { continue; }
    channel_rows const& model = block.experts[i];
    for_each_segment(cols, [&](index_t c, int n) {
      widen(block.base.type, at_column(block.base.row(row), block.base.type, c), base, n);
      subtract_base(model.type, at_column(model.row(row), model.type, c), base, whole + c, n);
    });
    pruner.measure_row(i, whole, cols, work);
  }
}

/// Sum of |d| before pruning over that after; 1 where either is below 1e-7.
inline float l1_factor(double before, double after) noexcept {
  return before >= 1e-7 && after >= 1e-7 ? static_cast<float>(before / after) : 1.0f;
}

/// The factors that give each pruned delta back the L1 norm that it had, from sums in the one order of sums inside rows, rows
/// in float64 in order in blocks of 256, blocks in order. 1 where nothing is pruned.
inline std::vector<float> l1_factors(cpu const& be, tensor_channels const& tensor, delta_pruner const& pruner) {
  std::size_t const models = tensor.experts.size();
  constexpr index_t rows = radix_select::measure_rows;
  auto const blocks = static_cast<std::size_t>((tensor.channels + rows - 1) / rows);
  std::vector<double> partial(blocks * 2 * models, 0.0);
  ops::tensor_blocks<cpu>::for_each(be, tensor, rows, [&](index_t b, channel_block const& block, method_workspace& work) {
    double* const sums = partial.data() + static_cast<std::size_t>(b) * 2 * models;
    for (index_t row = 0; row < block.rows; ++row) {
      work.totals.assign(2 * models, 0.0f);
      measure_row(pruner, block, row, tensor.cols, work);
      for_each_segment(tensor.cols, [&](index_t c, int n) {
        load_segment(block, row, c, n, operand::deltas, work);
        for (std::size_t i = 0; i < models; ++i) {
          if (pruner.kept(i) != survivors::some) { continue; }
          float* const delta = work.models.fit(1) + i * sum_order::segment;
          pad_segment(delta, n);
          dispatch<absolute_sum_body>(static_cast<float const*>(delta), padded(n), &work.totals[2 * i]);
          pruner.prune(i, delta, n, block.first + row, c, work);
          dispatch<absolute_sum_body>(static_cast<float const*>(delta), padded(n), &work.totals[2 * i + 1]);
        }
      });
      for (std::size_t i = 0; i < 2 * models; ++i) { sums[i] += static_cast<double>(work.totals[i]); }
    }
  });
  std::vector<float> factor(models, 1.0f);
  for (std::size_t i = 0; i < models; ++i) {
    double before = 0.0;
    double after = 0.0;
    for (std::size_t b = 0; b < blocks; ++b) {
      before += partial[(b * models + i) * 2];
      after += partial[(b * models + i) * 2 + 1];
    }
    factor[i] = l1_factor(before, after);
  }
  return factor;
}

}  // namespace detail

namespace ops {

template <>
struct delta_pruning<cpu> {
  using pruner = detail::delta_pruner;

  template <class Prune, class Consensus>
  static std::unique_ptr<pruner const> make(cpu const& be, tensor_channels const& tensor, std::vector<Prune> policies, std::vector<tensor_key> keys,
                                            std::vector<magnitude_cut> const& cuts, Consensus const&) {
    auto const select = [&](std::vector<index_t> const& wanted, detail::radix_select::order order) {
      return detail::select_deltas(be, tensor, wanted, order);
    };
    std::vector<detail::survivors> kept = detail::survivors_of(policies, cuts);
    detail::pruning_measures measures = detail::measure_pruning(tensor, policies, kept, std::move(keys), cuts, select);
    return std::make_unique<detail::policy_pruner<Prune>>(std::move(policies), std::move(kept), std::move(measures));
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
