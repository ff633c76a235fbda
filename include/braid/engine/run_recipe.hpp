#pragma once

#include <braid/engine/detail/recipe_job.hpp>
#include <braid/recipe/plan.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// Runs a planned recipe: streams blocks of channels of every tensor through the recipe's method, and writes an ordinary
/// Hugging Face checkpoint, config, tokenizer and model card included, that appears at `out` when it is complete, or not
/// at all.
///
///   auto r = recipe::parse_file("merge.yml");
///   auto models = recipe::open_models(r, {.hub = recipe::default_hub()});
///   recipe::run(recipe::plan(std::move(r), std::move(models)), "merged");
///
/// Memory: `memory_needed`, whatever the size of the model; mapped input pages are given back as soon as they have been
/// used. Results don't depend on threads or blocks.
/// @param plan  of `plan`
/// @param out   directory to create
/// @return what was done; `report::expert_bytes` are the bytes of all inputs that were merged
/// @throws argument_error, shape_error, value_error, format_error, io_error: one line each; then nothing is left at `out`
/// @complexity reads each input once, besides the method's measuring passes
inline report run(run_plan const& plan, std::filesystem::path const& out, run_options const& options = {}, cpu const& be = cpu{}) {
  detail::host_runner runner(be, plan.recipe);
  return detail::recipe_job(be, {&runner}, plan, options).run(out);
}

/// About how many bytes of memory a run needs besides mapped pages of the inputs: blocks on their way, and what each thread
/// gathers.
[[nodiscard]] inline std::uint64_t memory_needed(run_plan const& plan, cpu const& be = cpu{}) {
  std::uint64_t most = 0;
  auto const threads = static_cast<std::uint64_t>(be.threads());
  for (run_tensor const& t : plan.tensors) {
    auto row = std::uint64_t{0};
    for (run_source const& s : t.inputs()) { row += static_cast<std::uint64_t>(t.cols()) * size_of(s.tensor->type); }
    if (row == 0) { continue; }
    std::uint64_t const rows = std::min(std::max<std::uint64_t>(1, (std::uint64_t{1} << 20) / row), static_cast<std::uint64_t>(t.channels()));
    std::uint64_t const out = rows * static_cast<std::uint64_t>(t.cols()) * size_of(t.out);
    std::uint64_t const blocks = braid::detail::blocks_on_their_way(be, static_cast<std::size_t>(out));
    most = std::max(most, blocks * out + threads * rows * row);
  }
  return most;
}

}  // namespace recipe
BRAID_NAMESPACE_END
