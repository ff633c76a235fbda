#pragma once

/// Channel Merging in several passes, for what the fused kernel doesn't take: mixed or 8-bit storage types, channels that
/// are columns, more than ten experts, very long rows, policies that rank inside a row, and clusterings and similarities
/// that are host code. The device measures, the host's threads cluster, the device merges; a run of channels at a time.

#include <braid/backend/cuda/algorithms/execution.cuh>
#include <braid/backend/cuda/algorithms/rank_rows.cuh>
#include <braid/backend/cuda/device_merged.cuh>
#include <braid/backend/cuda/general_gram.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/row_statistics.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A block takes a channel, a thread a column at a time, in shared memory as many floats a thread as there are experts.
/// `number` is that of the tensor's first channel here.
template <class Plan, class Consensus>
BRAID_KERNEL void merge_labelled(any_rows const* models, int experts, index_t cols, index_t first, index_t number, Plan const* plans, bool plans_of_channels,
                                 Consensus const consensus, float lambda, std::uint8_t const* labels, std::uint8_t const* alone,
                                 dtype type, device_merged out) {
  extern __shared__ float members_of_all[];
  float* const member = members_of_all + static_cast<unsigned>(experts) * threadIdx.x;
  index_t const channel = first + blockIdx.x;
  std::uint8_t const* const label = labels + static_cast<index_t>(blockIdx.x) * experts;
  std::uint8_t const* const lone = alone + static_cast<index_t>(blockIdx.x) * experts;
  Plan const* const plan = plans + (plans_of_channels ? static_cast<index_t>(blockIdx.x) * experts : 0);
  any_rows to;
  to.type = type;
  auto const element = static_cast<index_t>(type == dtype::f32 ? 4 : type == dtype::f16 || type == dtype::bf16 ? 2 : 1);
  std::byte const* const base = models[0].row(channel);
  for (index_t c = threadIdx.x; c < cols; c += blockDim.x) {
    float const p = models[0].at(base, c);
    int seen = 0;
    for (int g = 0; seen < experts; ++g) {
      int n = 0;
      float value = 0.0f;
      bool kept = false;
      for (int e = 0; e < experts; ++e) {
        if (label[e] != g) { continue; }
        ++seen;
        any_rows const& model = models[1 + e];
        if (lone[e] != 0) {
          if (!kept) { value = model.at(model.row(channel), c); }
          kept = true;
          continue;
        }
        member[n++] = plan[e](model.at(model.row(channel), c) - p, number + channel, c);
      }
      if (!kept) { value = p + consensus(static_cast<float const*>(member), n) * lambda; }
      std::byte* const row = g == 0 ? out.group_zero + channel * cols * element
                                    : out.extra + (channel * out.most_extra + g - 1) * cols * element;
      narrow_any(type, value, row + c * element);
    }
  }
}

template <class Prune>
auto plan_of_a_row(Prune const& prune) {
  if constexpr (Prune::measures == statistic::row_cut) {
    return prune.plan(tensor_key{}, magnitude_cut{});
  } else {
    return prune.plan(tensor_key{}, magnitude_ranks{});
  }
}

/// Plans of single rows, [channels, experts], made on the host from what the device measured of the rows.
template <class Prune>
class row_plans {
 public:
  using plan_type = decltype(plan_of_a_row(std::declval<Prune const&>()));

  device_buffer<plan_type> make(cuda const& be, Prune const& prune, tensor_context const& context, device_buffer<any_rows> const& models,
                                int experts, index_t first, index_t count) {
    index_t const cols = context.cols;
    auto const rows = static_cast<std::size_t>(count * experts);
    std::vector<plan_type> plans;
    plans.reserve(rows);
    if constexpr (Prune::measures == statistic::row_cut) {
      index_t const keep = prune.keep_count(cols);
      std::vector<magnitude_cut> cuts(rows, keep <= 0 ? magnitude_cut{0xFFFFFFFFu, -1} : magnitude_cut{0u, cols});
      if (keep > 0 && keep < cols) {
        device_buffer<magnitude_cut> const there = be.make_buffer<magnitude_cut>(rows);
        check_cuda(cudaMemsetAsync(there.data(), 0, rows * sizeof(magnitude_cut), be.stream()), "clearing cuts");  // their padding is copied, too
        find_row_cuts<<<static_cast<unsigned>(rows), 256, 0, be.stream()>>>(static_cast<any_rows const*>(models.data()), experts, cols, first, keep, there.data());
        check_cuda(cudaGetLastError(), "starting a selection");
        cuts = download(be, there);
      }
      for (std::size_t i = 0; i < rows; ++i) { plans.push_back(prune.plan(context.keys[i % static_cast<std::size_t>(experts)], cuts[i])); }
    } else {
      ranks_ = be.make_buffer<std::uint32_t>(rows * static_cast<std::size_t>(cols));
      device_buffer<std::uint64_t> const key = be.make_buffer<std::uint64_t>(ranks_.size());
      device_buffer<std::uint32_t> const column = be.make_buffer<std::uint32_t>(ranks_.size());
      run_algorithm(be, "ranking rows", [&](auto const& policy) {
        rank_rows(policy, delta_magnitude{models.data(), experts, first}, static_cast<index_t>(rows), cols, key.data(), column.data(), ranks_.data());
      });
      for (std::size_t i = 0; i < rows; ++i) {
        plans.push_back(prune.plan(context.keys[i % static_cast<std::size_t>(experts)],
                                   magnitude_ranks{ranks_.data() + i * static_cast<std::size_t>(cols), cols}));
      }
    }
    return upload(be, plans);
  }

 private:
  device_buffer<std::uint32_t> ranks_;
};

/// Groups of a run of channels.
template <class Similarity, class Cluster>
chosen_groups choose_on_host(cuda const& be, Similarity const& similarity, Cluster const& cluster, int groups, tensor_context const& context,
                             device_buffer<any_rows> const& models, int experts, index_t first, index_t count, index_t number, gram_terms const& terms,
                             std::size_t element_bytes, residual_code_list const& codes) {
  bool const budget = context.budget != nullptr;
  bool const clusters = budget ? experts > 1 : groups > 1 && groups < experts;
  auto const pairs = static_cast<std::size_t>(tile_pair(experts, 0));
  auto const channels = static_cast<std::size_t>(count);
  host_measures const measured = measure_run(be, models, experts, context.cols, first, count, terms, clusters);
  gram_terms deltas = terms;
  deltas.signs = false;
  host_measures const of_deltas = budget && terms.signs ? measure_run(be, models, experts, context.cols, first, count, deltas, true) : host_measures{};
  std::vector<float> const& delta_dots = budget && terms.signs ? of_deltas.dots : measured.dots;

  chosen_groups chosen;
  chosen.label.resize(channels * static_cast<std::size_t>(experts));
  chosen.alone.resize(chosen.label.size());
  chosen.code.resize(budget ? channels : 0);
  std::vector<channel_totals> totals(channels);
  std::vector<std::uint8_t> wrong(channels, 0);
  tbb::parallel_for(std::size_t{0}, channels, [&](std::size_t c) {
    std::size_t const at = c * static_cast<std::size_t>(experts);
    residual_code code = residual_code::none;
    bool const is_wrong = cluster_measured(similarity, cluster, groups, context, number + first + static_cast<index_t>(c),
                                           {measured.dots.data() + c * pairs, delta_dots.data() + c * pairs, measured.differs.data() + c * pairs, measured.bad[c] != 0},
                                           experts, element_bytes, codes, chosen.label.data() + at, chosen.alone.data() + at, code, totals[c]);
    wrong[c] = is_wrong ? 1 : 0;
    if (budget) { chosen.code[c] = code; }
  });
  for (std::size_t c = 0; c < channels; ++c) {
    chosen.similarity += totals[c].similarity;
    chosen.compared += totals[c].compared;
    if (wrong[c] != 0 && chosen.first_bad < 0) { chosen.first_bad = first + static_cast<index_t>(c); }
  }
  return chosen;
}

/// Merges all channels of a tensor. Waits.
/// @param codes   what a budget may choose
/// @param chosen_code  with a budget: what it chose, [channels]
template <class Prune, class Similarity, class Cluster, class Consensus>
void general_merge(cuda const& be, Prune const& prune, Similarity const& similarity, Cluster const& cluster, Consensus const& consensus,
                   int groups, float lambda, tensor_context const& context, tensor_channels const& source, device_merged const& out,
                   residual_code_list const& codes, device_buffer<residual_code>& chosen_code) {
  auto const experts = static_cast<int>(source.experts.size());
  constexpr bool by_row = Prune::measures == statistic::row_cut || Prune::measures == statistic::row_ranks;
  device_buffer<any_rows> const models = upload_rows(be, source);
  device_buffer<float> const root = upload(be, context.root_weight);
  gram_terms const terms{similarity.operand == gram_operand::signs, root.data()};
  merge_totals totals;
  if (context.budget != nullptr) { chosen_code = be.make_buffer<residual_code>(static_cast<std::size_t>(source.channels)); }

  // A run of channels needs room for its dot products, and for ranks.
  constexpr index_t room = index_t{256} << 20;
  index_t const of_channel = tile_pair(experts, 0) * 5 + experts * (64 + (Prune::measures == statistic::row_ranks ? 28 * source.cols : 0));
  index_t const most = std::max<index_t>(1, std::min<index_t>(room / of_channel, 1 << 20));
  constexpr unsigned threads = 128;
  std::size_t const shared = static_cast<std::size_t>(threads) * static_cast<std::size_t>(experts) * sizeof(float);

  for (index_t first = 0; first < source.channels; first += most) {
    index_t const count = std::min(most, source.channels - first);
    chosen_groups const chosen = choose_on_host(be, similarity, cluster, groups, context, models, experts, first, count, source.first_channel, terms,
                                                size_of(source.out), codes);
    totals.similarity += static_cast<unsigned long long>(chosen.similarity);
    totals.compared += static_cast<unsigned long long>(chosen.compared);
    if (chosen.first_bad >= 0 && !context.allow_nonfinite) {
      totals.first_bad = static_cast<unsigned long long>(chosen.first_bad);
      break;
    }
    std::uint8_t* const label = out.label + first * experts;
    be.to_device(label, chosen.label.data(), chosen.label.size());
    if (!chosen.code.empty()) { be.to_device(chosen_code.data() + first, chosen.code.data(), chosen.code.size()); }
    device_buffer<std::uint8_t> const alone = upload(be, chosen.alone);
    auto const start = [&]<class Plan>(device_buffer<Plan> const& plans) {
      auto const kernel = merge_labelled<Plan, Consensus>;
      allow_shared_memory(kernel);
      kernel<<<static_cast<unsigned>(count), threads, shared, be.stream()>>>(models.data(), experts, source.cols, first, source.first_channel, plans.data(), by_row,
                                                                             consensus, lambda, label, alone.data(), source.out, out);
      check_cuda(cudaGetLastError(), "starting a merge");
    };
    if constexpr (by_row) {
      row_plans<Prune> rows;
      start(rows.make(be, prune, context, models, experts, first, count));
    } else {
      using plan_type = decltype(plan_ahead(prune, context, 0));
      std::vector<plan_type> plans;
      for (int e = 0; e < experts; ++e) { plans.push_back(plan_ahead(prune, context, e)); }
      start(upload(be, plans));
    }
  }
  be.to_device(out.totals, &totals, 1);
  be.synchronize();
}

}  // namespace detail
BRAID_NAMESPACE_END
