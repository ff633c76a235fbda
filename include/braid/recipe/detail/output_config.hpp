#pragma once

/// config.json of a merged model: that of one input, with what the merge has changed.

#include <braid/recipe/layer_names.hpp>
#include <braid/recipe/run_plan.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

/// The name of a type in configs; empty where it has none there.
inline std::string_view config_name(dtype t) noexcept {
  switch (t) {
    case dtype::f32: return "float32";
    case dtype::f16: return "float16";
    case dtype::bf16: return "bfloat16";
    case dtype::f8_e4m3: return "float8_e4m3fn";
    case dtype::f8_e5m2: return "float8_e5m2";
    default: return {};
  }
}

/// Where a layer of the output takes its entry of a list with one for each layer.
struct layer_origin {
  std::size_t model;
  int layer;
};

/// Sets a field that is there, on top or in the text model's part.
inline void set_field(nlohmann::json& config, std::string const& key, nlohmann::json const& value) {
  if (config.contains(key)) { config[key] = value; }
  for (std::string_view const part : text_configs) {
    auto const it = config.find(std::string(part));
    if (it != config.end() && it->is_object() && it->contains(key)) { (*it)[key] = value; }
  }
}

/// Sets the number of layers, and cuts and joins the lists that have an entry for each of them.
inline void set_layers(run_plan& plan, std::string_view stack, std::vector<layer_origin> const& layers) {
  auto const key = layer_count_key(plan.config, stack);
  if (!key) {
    plan.notes.push_back("config.json says no number of layers that braid knows of; the output has " +
                         std::to_string(layers.size()));
    return;
  }
  for (auto const& list : per_layer_lists(plan.config, stack)) {
    nlohmann::json const own = plan.config.at(list);
    nlohmann::json joined = nlohmann::json::array();
    for (layer_origin const& from : layers) {
      nlohmann::json const& other = plan.models[from.model].files.config();
      auto const at = static_cast<std::size_t>(from.layer);
      bool const has_it = other.contains(list) && other.at(list).is_array() && at < other.at(list).size();
      joined.push_back(has_it ? other.at(list)[at] : own[std::min(at, own.size() - 1)]);
    }
    plan.config[list] = std::move(joined);
  }
  plan.config[*key] = layers.size();
}

/// Sets types, vocabulary, and whether embeddings are tied.
inline void set_tensors(run_plan& plan) {
  if (plan.config.empty()) { return; }
  std::set<dtype> types;
  run_tensor const* embedding = nullptr;
  run_tensor const* head = nullptr;
  for (run_tensor const& t : plan.tensors) {
    if (is_computable(t.out)) { types.insert(t.out); }
    tensor_role const role = role_of(t.name);
    if (role == tensor_role::token_embedding && t.shape.size() == 2 && embedding == nullptr) { embedding = &t; }
    if (role == tensor_role::output_head && t.shape.size() == 2 && head == nullptr) { head = &t; }
  }
  if (types.size() == 1 && !config_name(*types.begin()).empty()) {
    for (char const* const key : {"torch_dtype", "dtype"}) { set_field(plan.config, key, config_name(*types.begin())); }
  }
  if (plan.vocabulary) { set_field(plan.config, "vocab_size", plan.vocabulary->rows); }
  if (!plan.vocabulary && embedding != nullptr && embedding->sources.size() > 1) {
    for (run_source const& s : embedding->inputs()) {
      if (s.tensor->shape != embedding->shape) { set_field(plan.config, "vocab_size", embedding->shape[0]); }
    }
  }
  auto const tied = plan.config.find("tie_word_embeddings");
  if (head != nullptr && embedding != nullptr && tied != plan.config.end() && *tied == true) {
    *tied = false;
    plan.notes.push_back("some models store " + head->name +
                         " and others tie it to the embedding: the output stores it, and tie_word_embeddings is false");
  }
}

}  // namespace recipe::detail
BRAID_NAMESPACE_END
