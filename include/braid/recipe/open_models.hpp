#pragma once

/// The checkpoints and adapters that a recipe names, opened.

#include <braid/recipe/adapter.hpp>
#include <braid/recipe/find_model.hpp>
#include <braid/recipe/recipe.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// A model of a recipe, with its adapter where it has one.
struct opened_model {
  model_reference reference;
  checkpoint files;
  std::optional<adapter> lora{};
  std::filesystem::path lora_path{};

  /// What the adapter adds to a tensor; nullptr where it leaves it as it is, or there is none.
  [[nodiscard]] lora_delta const* delta(std::string_view tensor) const noexcept {
    return lora ? lora->find(tensor) : nullptr;
  }
};

/// Finds and opens every model of a recipe, each once, in the order of `models_of`.
/// @throws argument_error, io_error, format_error: of `find_model`, `checkpoint` and `adapter`; an adapter that doesn't
///         fit its model
[[nodiscard]] inline std::vector<opened_model> open_models(merge_recipe const& r, model_search const& where) {
  std::vector<opened_model> all;
  for (model_reference const& reference : models_of(r)) {
    opened_model m{reference, checkpoint(find_model(reference.model, where), to_text(reference))};
    if (reference.lora) {
      m.lora_path = find_model(*reference.lora, where, model_content::adapter);
      m.lora.emplace(m.lora_path);
      m.lora->check_fits(m.files);
    }
    all.push_back(std::move(m));
  }
  return all;
}

}  // namespace recipe
BRAID_NAMESPACE_END
