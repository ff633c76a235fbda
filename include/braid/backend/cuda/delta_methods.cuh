#pragma once

/// The task-arithmetic family on a device: one kernel prunes, weighs, joins and adds.

#include <braid/backend/cuda/delta_functions.cuh>
#include <braid/backend/cuda/election.cuh>
#include <braid/backend/cuda/elementwise_methods.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/ranked_merge.cuh>
#include <braid/backend/cuda/row_codes.cuh>
#include <braid/backend/cuda/row_cuts.cuh>
#include <braid/backend/cuda/row_statistics.cuh>
#include <braid/backend/cuda/row_sums.cuh>
#include <braid/backend/cuda/select_deltas.cuh>
#include <braid/backend/cuda/value_select.cuh>
#include <braid/method/task_arithmetic.hpp>

#include <algorithm>
#include <cmath>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// How pruned deltas are joined.
struct join_numbers {
  std::vector<float> const& weight;
  std::vector<float> const& factor;  // empty: ones
  float lambda;
  bool normalize;
  bool allow_nonfinite;
};

/// Prunes and joins one tensor's deltas on a device. Virtual calls are one a pass.
class device_pruner {
 public:
  virtual ~device_pruner() = default;
  virtual void join(device_method_workspace& work, channel_block const& block, index_t cols, std::byte* out, join_numbers const& numbers) const = 0;
  /// Sums of magnitudes over a tensor, [models, 2]: before pruning and after. Waits.
  [[nodiscard]] virtual std::vector<double> magnitude_sums(device_method_workspace& work, channel_block const& block, index_t cols) const = 0;
  [[nodiscard]] virtual survivors kept(std::size_t model) const noexcept = 0;
};

template <class Prune>
auto any_plan_of(Prune const& prune) {
  if constexpr (Prune::measures == statistic::tensor_cut || Prune::measures == statistic::row_cut) {
    return prune.plan(tensor_key{}, magnitude_cut{});
  } else if constexpr (Prune::measures == statistic::tensor_band) {
    return prune.plan(tensor_key{}, magnitude_band{});
  } else if constexpr (Prune::measures == statistic::row_ranks) {
    return prune.plan(tensor_key{}, magnitude_ranks{});
  } else {
    return prune.plan(tensor_key{});
  }
}

/// The base and one model of a block, as the kernels for unusual rows take them.
inline device_buffer<any_rows> upload_pair(cuda const& be, channel_block const& block, std::size_t model, index_t cols) {
  tensor_channels pair;
  pair.channels = block.rows;
  pair.cols = cols;
  pair.base = block.base;
  pair.experts = {block.experts[model]};
  return upload_rows(be, pair);
}

/// ranks[row, column] of a model's deltas of a block's rows. Enqueues.
inline void rank_rows(cuda const& be, channel_block const& block, std::size_t model, index_t cols, std::uint32_t* ranks) {
  if (cols <= most_sorted_cols) {
    sort_rows(be, block, model, cols, static_cast<unsigned>(block.rows), rank_writer{ranks, cols, static_cast<std::uint32_t>(block.rows)});
    return;
  }
  device_buffer<any_rows> const models = upload_pair(be, block, model, cols);
  auto const room = be.make_buffer<std::uint32_t>(4 * static_cast<std::size_t>(block.rows * cols));
  find_row_ranks<<<static_cast<unsigned>(block.rows), 256, 0, be.stream()>>>(static_cast<any_rows const*>(models.data()), 1, cols, index_t{0}, room.data(), ranks);
  check_cuda(cudaGetLastError(), "starting a sort");
}

template <class Prune, class Consensus>
class device_policy_pruner final : public device_pruner {
 public:
  static constexpr bool by_row = Prune::measures == statistic::row_cut || Prune::measures == statistic::row_ranks;
  using plan_type = decltype(any_plan_of(std::declval<Prune const&>()));
  static_assert(std::is_trivially_copyable_v<Consensus>, "braid: a consensus for the device is trivially copyable");

  device_policy_pruner(std::vector<Prune> policies, std::vector<survivors> kept, pruning_measures measures, Consensus const& consensus)
      : policies_(std::move(policies)), kept_(std::move(kept)), measures_(std::move(measures)), consensus_(consensus) {}

  void join(device_method_workspace& work, channel_block const& block, index_t cols, std::byte* out, join_numbers const& numbers) const override {
    if constexpr (plan_of_ranks<plan_type>) {
      bool some = std::all_of(kept_.begin(), kept_.end(), [](survivors k) { return k == survivors::some; });
      for (float const f : numbers.factor) { some = some && std::isfinite(f); }  // what is dropped is multiplied, too: 0 * infinity
      if (some && takes_ranked(block, cols, out)) {
        current_device const current(work.executor().device());
        std::vector<plan_type> plans;
        for (std::size_t i = 0; i < policies_.size(); ++i) { plans.push_back(policies_[i].plan(measures_.keys[i], magnitude_ranks{nullptr, cols})); }
        join_function<plan_type, Consensus, most_few_models, false> f{};
        set_numbers(f, numbers);
        merge_ranked(work.executor(), block, cols, out, plans, f, numbers.allow_nonfinite ? nullptr : work.watch(block, cols, operand::deltas));
        return;
      }
    }
    if constexpr (Prune::measures == statistic::tensor_cut && elects_sign<Consensus>) {
      bool plain = !numbers.allow_nonfinite;
      for (survivors const k : kept_) { plain = plain && k == survivors::some; }
      for (float const f : numbers.factor) { plain = plain && f == 1.0f; }
      bool const done =
          plain && elect_ordinary(consensus_, work, block, cols, out, measures_.cuts, numbers.weight, numbers.lambda, numbers.normalize);
      if (done) { return; }
    }
    for_each_part(work, block, cols, [&](channel_block const& part, index_t first, auto const& plans_of) {
      map_elements(work, part, cols, out + first * cols * static_cast<index_t>(size_of(block.out)), operand::deltas, numbers.allow_nonfinite,
                   [&]<int Most>(std::integral_constant<int, Most> most) {
                     auto const plans = plans_of(most);
                     using plans_type = std::remove_cv_t<decltype(plans)>;
                     join_function<typename plans_type::plan_type, Consensus, Most, plans_type::by_row> f{};
                     f.pruning = plans;
                     set_numbers(f, numbers);
                     return f;
                   });
    });
  }

  [[nodiscard]] std::vector<double> magnitude_sums(device_method_workspace& work, channel_block const& block, index_t cols) const override {
    std::size_t const sums = 2 * policies_.size();
    current_device const current(work.executor().device());
    device_row_sums all;
    all.sums = static_cast<std::uint32_t>(sums);
    all.rows = work.executor().template make_buffer<float>(static_cast<std::size_t>(block.rows) * sums);
    for_each_part(work, block, cols, [&](channel_block const& part, index_t first, auto const& plans_of) {
      device_row_sums const some = sum_rows(work, part, cols, operand::deltas, false, [&]<int Most>(std::integral_constant<int, Most> most) {
        auto const plans = plans_of(most);
        using plans_type = std::remove_cv_t<decltype(plans)>;
        return l1_sums<typename plans_type::plan_type, Most, plans_type::by_row>{plans};
      });
      check_cuda(cudaMemcpyAsync(all.rows.data() + static_cast<std::size_t>(first) * sums, some.rows.data(), some.rows.size() * sizeof(float),
                                 cudaMemcpyDeviceToDevice, work.executor().stream()),
                 "copying");
    });
    return total_sums(work, all, block.rows);
  }

  [[nodiscard]] survivors kept(std::size_t model) const noexcept override { return kept_[model]; }

 private:
  template <class Join>
  void set_numbers(Join& f, join_numbers const& numbers) const {
    f.lambda = numbers.lambda;
    f.normalize = numbers.normalize;
    f.consensus = consensus_;
    for (std::size_t i = 0; i < policies_.size(); ++i) {
      f.weight[i] = numbers.weight[i];
      f.factor[i] = numbers.factor.empty() ? 1.0f : numbers.factor[i];
      f.scales = f.scales || f.factor[i] != 1.0f;
    }
  }

  template <class Plans>
  void prepare(Plans& p) const {
    p.count = static_cast<int>(policies_.size());
    for (std::size_t i = 0; i < policies_.size(); ++i) { p.kept[i] = kept_[i]; }
  }

  /// @param row_plans  of the channels from `first` on
  template <int Most>
  [[nodiscard]] model_plans<plan_type, Most, by_row> plans(plan_type const* row_plans, index_t first) const {
    model_plans<plan_type, Most, by_row> p{};
    prepare(p);
    if constexpr (!by_row) {
      for (std::size_t i = 0; i < policies_.size(); ++i) { p.plans[i] = plan_of(i); }
    }
    if constexpr (plan_takes_words<plan_type>) {
      if (!policies_.empty()) { p.keys = random_keys(any_plan_of(policies_[0]).seed); }  // a method's policies share a seed
    }
    if constexpr (by_row) { p.plans = row_plans - first * p.count; }
    return p;
  }

  [[nodiscard]] plan_type plan_of(std::size_t i) const {
    tensor_key const& key = measures_.keys[i];
    if constexpr (Prune::measures == statistic::tensor_cut) {
      return policies_[i].plan(key, measures_.cuts.empty() ? magnitude_cut{} : measures_.cuts[i]);
    } else if constexpr (Prune::measures == statistic::tensor_band) {
      return policies_[i].plan(key, measures_.bands.empty() ? magnitude_band{} : measures_.bands[i]);
    } else {
      return policies_[i].plan(key);
    }
  }

  /// Calls `f(part, its first row in the block, plans of its rows)` for runs of rows that are measured at once; of
  /// `std::integral_constant<int, Most>` the last argument makes a kernel's plans.
  template <class F>
  void for_each_part(device_method_workspace& work, channel_block const& block, index_t cols, F const& f) const {
    constexpr index_t room = index_t{512} << 20;
    auto const n = static_cast<index_t>(policies_.size());
    auto const in_parts = [&](index_t of_row, auto const& measure) {
      index_t const at_once = std::clamp<index_t>(room / of_row, 1, block.rows);
      for (index_t first = 0; first < block.rows; first += at_once) {
        channel_block part = block;
        part.first += first;
        part.rows = std::min(at_once, block.rows - first);
        auto const advance = [&](channel_rows& rows) { rows.data = rows.row(first); };
        advance(part.base);
        for (auto& e : part.experts) { advance(e); }
        measure(part, first);
      }
    };
    if constexpr (by_row) {
      if (!policies_.empty()) {
        cuda const& be = work.executor();
        current_device const current(be.device());
        if constexpr (plan_of_ranks<plan_type>) {
          auto const has_codes = [&](std::size_t i) {
            return kept_[i] != survivors::some || code_offset(policies_[i].plan(measures_.keys[i], magnitude_ranks{nullptr, cols}), cols);
          };
          bool coded = has_row_codes(cols);
          for (std::size_t i = 0; i < policies_.size(); ++i) { coded = coded && has_codes(i); }
          if (coded) {
            in_parts(n * (2 * cols + 4), [&](channel_block const& part, index_t first) {
              std::vector<std::optional<plan_type>> of_models(policies_.size());
              for (std::size_t i = 0; i < policies_.size(); ++i) {
                if (kept_[i] == survivors::some) { of_models[i] = policies_[i].plan(measures_.keys[i], magnitude_ranks{nullptr, cols}); }
              }
              row_codes<plan_type> const measured(be, part, cols, of_models);
              f(part, first, [&]<int Most>(std::integral_constant<int, Most>) {
                model_plans<coded_plan<plan_type>, Most, false> p{};
                prepare(p);
                for (std::size_t i = 0; i < policies_.size(); ++i) { p.plans[i] = measured.plan(i); }
                return p;
              });
            });
            return;
          }
        }
        index_t const of_row = n * 64 + (Prune::measures == statistic::row_ranks ? (n * 4 + (cols > most_sorted_cols ? 16 : 0)) * cols : 0);
        in_parts(of_row, [&](channel_block const& part, index_t first) {
          row_measures measured;
          device_buffer<plan_type> const there = measure_rows(be, part, cols, measured);
          f(part, first, [&]<int Most>(std::integral_constant<int, Most>) { return plans<Most>(there.data(), part.first); });
        });
        return;
      }
    }
    f(block, index_t{0}, [&]<int Most>(std::integral_constant<int, Most>) { return plans<Most>(nullptr, block.first); });
  }

  /// What rows' plans refer to.
  struct row_measures {
    std::vector<device_buffer<std::uint32_t>> ranks;
  };

  /// Plans of the rows of a block, [rows, models].
  [[nodiscard]] device_buffer<plan_type> measure_rows(cuda const& be, channel_block const& block, index_t cols, row_measures& measured) const {
    std::size_t const n = policies_.size();
    if constexpr (Prune::measures == statistic::row_cut) {
      if (n <= most_few_models && cols <= most_row_cut_cols) { return cut_rows(be, block, cols); }
    }
    auto const rows = static_cast<std::size_t>(block.rows);
    std::vector<plan_type> plans(rows * n, any_plan_of(policies_[0]));
    for (std::size_t i = 0; i < n; ++i) {
      if (kept_[i] != survivors::some) { continue; }
      if constexpr (Prune::measures == statistic::row_cut) {
        index_t const keep = policies_[i].keep_count(cols);
        std::vector<magnitude_cut> cuts(rows, keep <= 0 ? magnitude_cut{0xFFFFFFFFu, -1} : magnitude_cut{0u, cols});
        if (keep > 0 && keep < cols) {
          device_buffer<any_rows> const models = upload_pair(be, block, i, cols);
          device_buffer<magnitude_cut> const there = be.make_buffer<magnitude_cut>(rows);
          find_row_cuts<<<static_cast<unsigned>(rows), 256, 0, be.stream()>>>(static_cast<any_rows const*>(models.data()), 1, cols, index_t{0}, keep, there.data());
          check_cuda(cudaGetLastError(), "starting a selection");
          cuts = download(be, there);
        }
        for (std::size_t r = 0; r < rows; ++r) { plans[r * n + i] = policies_[i].plan(measures_.keys[i], cuts[r]); }
      } else {
        auto& ranks = measured.ranks.emplace_back(be.make_buffer<std::uint32_t>(rows * static_cast<std::size_t>(cols)));
        rank_rows(be, block, i, cols, ranks.data());
        for (std::size_t r = 0; r < rows; ++r) {
          plans[r * n + i] = policies_[i].plan(measures_.keys[i], magnitude_ranks{ranks.data() + r * static_cast<std::size_t>(cols), cols});
        }
      }
    }
    return upload(be, plans);
  }

  /// The same of few models, without the host.
  [[nodiscard]] device_buffer<plan_type> cut_rows(cuda const& be, channel_block const& block, index_t cols) const
    requires(Prune::measures == statistic::row_cut)
  {
    row_cut_arguments<plan_type, most_few_models> a{};
    a.in = inputs_of<most_few_models>(block, cols, {operand::deltas, false, true});
    for (std::size_t i = 0; i < policies_.size(); ++i) {
      a.keep[i] = kept_[i] == survivors::some ? policies_[i].keep_count(cols) : 0;
      a.plan[i] = policies_[i].plan(measures_.keys[i], magnitude_cut{});
    }
    std::size_t const count = static_cast<std::size_t>(block.rows) * policies_.size();
    device_buffer<plan_type> there = be.make_buffer<plan_type>(count);
    a.plans = there.data();
    bool const is_short = cols <= short_row_cols;
    auto const kernel = is_short ? row_cuts_kernel<short_row_cut_threads, plan_type, most_few_models>
                                 : row_cuts_kernel<row_cut_threads, plan_type, most_few_models>;
    std::size_t const shared = row_cut_memory(cols);
    allow_shared_memory(kernel);
    kernel<<<static_cast<unsigned>(count), is_short ? short_row_cut_threads : row_cut_threads, shared, be.stream()>>>(a);
    check_cuda(cudaGetLastError(), "starting a selection");
    return there;
  }

  std::vector<Prune> policies_;
  std::vector<survivors> kept_;
  pruning_measures measures_;
  Consensus consensus_;
};

/// As on the CPU; found by the argument's namespace.
inline std::vector<float> l1_factors(cuda const& be, tensor_channels const& tensor, device_pruner const& pruner) {
  device_method_workspace work(be);
  device_block const block(be, tensor);
  std::vector<float> factor(tensor.experts.size(), 1.0f);
  bool any = false;
  for (std::size_t i = 0; i < factor.size(); ++i) { any = any || pruner.kept(i) == survivors::some; }
  if (!any) { return factor; }
  auto const sums = pruner.magnitude_sums(work, block.get(), tensor.cols);
  for (std::size_t i = 0; i < factor.size(); ++i) { factor[i] = l1_factor(sums[2 * i], sums[2 * i + 1]); }
  return factor;
}

}  // namespace detail

namespace ops {

template <>
struct delta_pruning<cuda> {
  using pruner = detail::device_pruner;

  template <class Prune, class Consensus>
  static std::unique_ptr<pruner const> make(cuda const& be, tensor_channels const& tensor, std::vector<Prune> policies, std::vector<tensor_key> keys,
                                            std::vector<magnitude_cut> const& cuts, Consensus const& consensus) {
    auto const select = [&](std::vector<index_t> const& wanted, detail::radix_select::order order) {
      detail::device_method_workspace work(be);
      detail::device_block const block(be, tensor);
      return detail::select_deltas(work, block.get(), tensor.cols, wanted, order);
    };
    std::vector<detail::survivors> kept = detail::survivors_of(policies, cuts);
    detail::pruning_measures measures = detail::measure_pruning(tensor, policies, kept, std::move(keys), cuts, select);
    return std::make_unique<detail::device_policy_pruner<Prune, Consensus>>(std::move(policies), std::move(kept), std::move(measures), consensus);
  }
};

}  // namespace ops

namespace detail {

template <>
inline void delta_method<cuda>::apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out, device_method_workspace& work) const {
  auto const& plan = static_cast<plan_type const&>(any_plan);
  plan.pruner->join(work, block, plan.cols, out, {plan.weight, plan.factor, plan.lambda, plan.normalize, plan.allow_nonfinite});
}

}  // namespace detail
BRAID_NAMESPACE_END
