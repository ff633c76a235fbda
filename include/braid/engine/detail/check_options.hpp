#pragma once

/// Options that name tensors, checked against a merge's plan before anything is computed.

#include <braid/engine/column_weights.hpp>
#include <braid/engine/merge_plan.hpp>
#include <braid/recipe/adapter.hpp>

#include <algorithm>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Weights of columns that no merged tensor asks for are a mistake in a name.
/// @throws argument_error  where no merged tensor has any; shape_error as `column_weights::find`
inline void check_weights(column_weights const& weights, merge_plan const& plan, std::vector<std::string>& notes) {
  planned_tensor const* example = nullptr;
  std::size_t merged = 0;
  std::size_t found = 0;
  for (auto const& p : plan.tensors) {
    if (p.what != action::merge) { continue; }
    if (example == nullptr) { example = &p; }
    ++merged;
    if (!weights.find(p.name, p.cols).empty()) { ++found; }
  }
  if (found == 0 && example != nullptr) {
    throw argument_error(weights.path().string() + ": has no weights for any of the " + std::to_string(merged) +
                         " tensors that are merged, such as " + in_quotes(example->name));
  }
  if (found < merged) {
    notes.push_back(std::to_string(merged - found) + " of " + std::to_string(merged) +
                    " merged tensors have no column weights in " + weights.path().string());
  }
}

/// What an adapter changes must be merged: kept rows are copied as they are stored.
/// @param adapters  of the experts, null where there is none
inline void check_adapters(std::vector<recipe::adapter const*> const& adapters, merge_plan const& plan) {
  for (recipe::adapter const* const lora : adapters) {
    if (lora == nullptr) { continue; }
    for (auto const& d : lora->deltas()) {
      auto const it = std::find_if(plan.tensors.begin(), plan.tensors.end(), [&](auto const& p) { return p.name == d.tensor; });
      if (it != plan.tensors.end() && it->what == action::merge && it->transposed == 0) { continue; }
      throw argument_error(lora->path().string() + ": the adapter changes tensor " + in_quotes(d.tensor) +
                           ", which isn't merged row by row: merge it (--merge '" + d.tensor +
                           "'), or merge the adapter into its model first");
    }
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
