#pragma once

#include <braid/engine/detail/merge_job.hpp>
#include <braid/engine/detail/recipe_json.hpp>
#include <braid/engine/device_options.hpp>
#include <braid/method/detail/expert_names.hpp>

BRAID_NAMESPACE_BEGIN

/// How a merge of checkpoints runs; what it computes is the method's business.
struct run_options {
  selection tensors{};                            ///< which tensors are merged, kept, taken from the base
  std::optional<dtype> out_dtype{};               ///< of all floating tensors; none: each tensor's own
  std::uint64_t max_shard_bytes = 5'000'000'000;  ///< tensor bytes a file; a larger tensor has its own file
  bool overwrite = false;                         ///< replace a checkpoint at the output path
  bool hash_inputs = true;                        ///< record what was read; costs a hash of every input byte
  /// What an error in each column of a merged weight counts, from a file of second moments; nothing: all the same
  std::optional<column_weights> weights{};
  /// LoRA adapters by the name of the expert that they belong to. Their deltas are added row by row, rounded to the
  /// weight's type; hashes of inputs are of the sums
  std::map<std::string, recipe::adapter> adapters{};
  index_t block_rows = 0;                         ///< channels a block; 0: chosen. Never changes a result
  progress_callback on_progress{};
  device_options device{};  ///< of backends that are no braid::cpu
};

/// Merges checkpoints: reads base and experts tensor by tensor, streams blocks of channels through `method`, and writes
/// a grouped checkpoint (docs/format.md) that appears at `out` when it is complete, or not at all.
///
/// Memory: a few megabytes a thread plus the index (with residuals their scales and codes, too), whatever the size of the
/// model; under a budget also the Gram matrices of the largest tensor, 2 N (N + 1) bytes a channel for N experts (twice that
/// for similarity::sign). Mapped input pages are given back as soon as they have been used. Packed residuals wait for their
/// place in the files in a temporary file beside the output, which is gone when the merge ends, however it does.
///
/// The same inputs, names and options give the same bytes.
/// With a budget (`channel_merge::options::budget`) all inputs are read once more before; the tensors of the result, index
/// and residuals included, take no more than that fraction of the bytes of all tensors of the experts.
/// @param method   such as a `channel_merge`
/// @param base     the model that the experts were trained from
/// @param experts  named by `checkpoint::name()`; their order doesn't matter
/// @param out      directory to create
/// @param be       where to run
/// @throws argument_error, shape_error, value_error, format_error, io_error: one line each; then nothing is left at `out`
template <class Method>
report run(Method const& method, checkpoint const& base, std::vector<checkpoint> const& experts,
           std::filesystem::path const& out, run_options const& options = {},
           typename Method::backend_type const& be = typename Method::backend_type{}) {
  std::vector<std::string> given;
  for (auto const& e : experts) { given.push_back(e.name()); }
  std::vector<checkpoint> sorted;
  std::vector<std::string> names;
  std::vector<std::filesystem::path> inputs{base.path()};
  for (std::size_t const i : detail::order_by_name(given)) {
    sorted.push_back(experts[i]);
    names.push_back(given[i]);
    inputs.push_back(experts[i].path());
  }
  std::vector<recipe::adapter const*> adapters(options.adapters.empty() ? 0 : sorted.size(), nullptr);
  for (auto const& [name, lora] : options.adapters) {
    auto const at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) { throw argument_error(lora.path().string() + ": the adapter is of '" + name + "', which is no expert"); }
    auto const e = static_cast<std::size_t>(at - names.begin());
    lora.check_fits(sorted[e]);
    adapters[e] = &lora;
    inputs.push_back(lora.path());
  }
  check_output(out, inputs, options.overwrite);
  merge_plan const plan = plan_merge(base, sorted, names, options.tensors, options.out_dtype);
  grouped_description description;
  description.method = "channel_merge";
  description.recipe = detail::recipe_json(method.settings());
  if (options.weights) { description.recipe["column_weights"] = options.weights->path().filename().string(); }
  description.seed = detail::recipe_seed(method.settings());
  typename detail::engine_backend<typename Method::backend_type>::template of<Method> const engine(method, be, options.device);
  detail::job_options const job{options.max_shard_bytes, options.overwrite, options.hash_inputs, options.block_rows,
                                options.on_progress, options.device.timeline, options.weights ? &*options.weights : nullptr, std::move(adapters)};
  if (job.timeline != nullptr) { job.timeline->reached(stream_timeline::ready); }
  return detail::merge_job(engine.host, engine.merger, base, sorted, names, plan, job).run(out, std::move(description));
}

BRAID_NAMESPACE_END
