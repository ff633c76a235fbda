#pragma once

/// Layers in tensor names, and the number of layers in configs, whatever the architecture.

#include <braid/engine/tensor_names.hpp>
#include <braid/io/detail/text.hpp>

#include <charconv>
#include <optional>

#include <nlohmann/json.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// Where in a tensor's name its layer stands.
struct layer_name {
  std::string_view stack;  // what comes before the number, dot included: "model.layers.", "encoder.block."
  int layer = 0;
  std::string_view rest;  // what comes after it, dot included: ".mlp.up_proj.weight"
};

namespace detail {
/// Names of lists of layers. Other numbers in names count experts, heads, or steps of a small sequence.
inline constexpr auto layer_lists = std::to_array<std::string_view>(
    {"layers", "layer", "h", "block", "blocks", "resblocks", "transformer_blocks", "decoder_layers", "encoder_layers"});
}  // namespace detail

/// Finds the layer in a tensor's name: the first number after a list of layers.
/// "model.layers.12.mlp.experts.3.w1.weight" is layer 12; "encoder.block.2.layer.0.SelfAttention.q.weight" is layer 2.
/// @return nothing for tensors outside the layers; views into `tensor`
[[nodiscard]] inline std::optional<layer_name> layer_of(std::string_view tensor) noexcept {
  std::string_view before;
  for (std::size_t begin = 0; begin < tensor.size();) {
    std::size_t const end = std::min(tensor.find('.', begin), tensor.size());
    std::string_view const part = tensor.substr(begin, end - begin);
    int layer = 0;
    auto const [stop, problem] = std::from_chars(part.data(), part.data() + part.size(), layer);
    bool const number = problem == std::errc{} && stop == part.data() + part.size() && part.front() != '-';
    if (number &&
        std::find(detail::layer_lists.begin(), detail::layer_lists.end(), before) != detail::layer_lists.end()) {
      return layer_name{tensor.substr(0, begin), layer, tensor.substr(end)};
    }
    before = part;
    begin = end + 1;
  }
  return std::nullopt;
}

/// The name of the same tensor in another layer; the name itself for tensors outside the layers.
[[nodiscard]] inline std::string with_layer(std::string_view tensor, int layer) {
  auto const found = layer_of(tensor);
  if (!found) { return std::string(tensor); }
  return std::string(found->stack) + std::to_string(layer) + std::string(found->rest);
}

/// Whether a tensor outside the layers stands before them (embeddings) rather than after (final norm, head): recipes of
/// slices take the one from the first slice's models and the other from the last's.
[[nodiscard]] inline bool stands_before_layers(std::string_view tensor) {
  tensor_role const role = role_of(tensor);
  return role == tensor_role::token_embedding || role == tensor_role::other_embedding;
}

namespace detail {
inline constexpr auto layer_count_keys = std::to_array<std::string_view>(
    {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers"});
inline constexpr auto text_configs = std::to_array<std::string_view>({"text_config", "llm_config", "language_config"});
}  // namespace detail

/// Where config.json has the number of layers of a stack, as a JSON pointer such as "/num_hidden_layers" or
/// "/text_config/num_hidden_layers".
/// @param stack  of `layer_name`; tells encoder from decoder where a model has both. "": the only stack
/// @return nothing where no known key is there
[[nodiscard]] inline std::optional<nlohmann::json::json_pointer> layer_count_key(nlohmann::json const& config,
                                                                                 std::string_view stack = {}) {
  using pointer = nlohmann::json::json_pointer;
  auto const found = [&](pointer const& key) { return config.contains(key) && config.at(key).is_number_integer(); };
  bool const decoder = stack.find("decoder") != std::string_view::npos;
  bool const encoder = !decoder && stack.find("encoder") != std::string_view::npos;
  if (decoder || encoder) {
    for (char const* const key :
         {decoder ? "/decoder_layers" : "/encoder_layers", decoder ? "/num_decoder_layers" : "/num_layers"}) {
      if (pointer const p(key); found(p)) { return p; }
    }
  }
  for (std::string_view const key : detail::layer_count_keys) {
    if (pointer const p("/" + std::string(key)); found(p)) { return p; }
  }
  for (std::string_view const part : detail::text_configs) {
    for (std::string_view const key : detail::layer_count_keys) {
      if (pointer const p("/" + std::string(part) + "/" + std::string(key)); found(p)) { return p; }
    }
  }
  return std::nullopt;
}

/// The number of layers that a config gives; nothing where it gives none.
[[nodiscard]] inline std::optional<int> layer_count(nlohmann::json const& config, std::string_view stack = {}) {
  auto const key = layer_count_key(config, stack);
  if (!key) { return std::nullopt; }
  auto const n = config.at(*key).get<std::int64_t>();
  if (n < 0 || n > 1'000'000) { return std::nullopt; }
  return static_cast<int>(n);
}

/// Lists in a config that have an entry for each layer ("layer_types"), as JSON pointers: they are to be cut and joined
/// as the layers are.
[[nodiscard]] inline std::vector<nlohmann::json::json_pointer> per_layer_lists(nlohmann::json const& config,
                                                                               std::string_view stack = {}) {
  std::vector<nlohmann::json::json_pointer> all;
  auto const key = layer_count_key(config, stack);
  auto const n = layer_count(config, stack);
  if (!key || !n) { return all; }
  auto const owner = key->parent_pointer();
  for (auto const& [name, entries] : config.at(owner).items()) {
    bool const of_layers = name.find("layer") != std::string::npos;
    if (of_layers && entries.is_array() && entries.size() == static_cast<std::size_t>(*n)) { all.push_back(owner / name); }
  }
  return all;
}

}  // namespace recipe
BRAID_NAMESPACE_END
