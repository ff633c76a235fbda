#pragma once

/// Which layers go where, and the value that each parameter has for each tensor.

#include <braid/recipe/method_table.hpp>
#include <braid/recipe/recipe.hpp>

#include <functional>
#include <map>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// The levels of a recipe that may set a parameter, from the one that is asked first; nullptr: there is none.
struct levels {
  parameters const* source = nullptr;  // of a model, or of a slice's source; for values of a model only
  parameters const* slice = nullptr;
  parameters const* module = nullptr;
  parameters const* global = nullptr;
};

/// Levels for the values of a tensor (`source` null), or of one source of a slice.
[[nodiscard]] inline levels levels_of(merge_recipe const& r, output_module const& m, output_slice const& s,
                                      source const* from = nullptr) {
  return {from == nullptr ? nullptr : &from->settings, &s.settings, &m.settings, &r.settings};
}

/// The value of a parameter for one tensor: of the source, else the slice, else the module, else the global one, else
/// the parameter's default. A level whose filters all miss is passed over.
/// @param tensor  the tensor's name, which filters see: for values of a model its name there, else that in the output
/// @param t       `gradient_position`, or 0 for tensors outside the layers
/// @param paper   whether the default is that of the papers' style
/// @return nothing where nobody sets it and it has no default
/// @throws argument_error naming parameter and tensor, where a value can't be meant
[[nodiscard]] inline std::optional<value> resolve_setting(levels const& where, known_parameter const& p,
                                                          std::string_view tensor, double t, bool paper = false) {
  for (parameters const* const level : {where.source, where.slice, where.module, where.global}) {
    setting const* const s = level == nullptr ? nullptr : find(*level, p.name);
    if (s == nullptr) { continue; }
    try {
      if (auto v = evaluate(*s, tensor, t, p.kind, p.choices)) { return v; }
    } catch (argument_error const& e) { throw argument_error("parameter '" + std::string(p.name) + "': " + e.what()); }
  }
  std::string_view const fallback = p.fallback(paper);
  return fallback.empty() || fallback == "-" ? std::nullopt : read_value(fallback, p.kind, p.choices);
}

/// Every parameter of a method for one tensor of the output. Parameters that are unset and may be aren't there.
struct resolved_parameters {
  using values = std::map<std::string, value, std::less<>>;
  values of_tensor;
  std::vector<values> of_model;  // [sources], in their order; that of the base has the parameters that the base has too
};

/// Resolves all parameters of a tensor.
/// @param inputs  [sources] the tensor's name in each source
/// @param output  its name in the output
/// @throws argument_error naming parameter, model and tensor, where a required one isn't set
[[nodiscard]] inline resolved_parameters resolve(merge_recipe const& r, output_module const& m, output_slice const& s,
                                                 std::vector<std::string> const& inputs, std::string_view output,
                                                 double t) {
  known_method const& method = *find_method(r.merge_method);
  auto const& base = s.base_model ? s.base_model : r.base_model;
  resolved_parameters all;
  all.of_model.resize(s.sources.size());
  bool const paper = r.style == "paper";
  auto const put = [&](resolved_parameters::values& to, levels const& where, known_parameter const& p,
                       std::string_view tensor, model_reference const* model) {
    if (auto v = resolve_setting(where, p, tensor, t, paper)) {
      to.emplace(p.name, std::move(*v));
    } else if (p.required(paper)) {
      throw argument_error(r.file + ": the method '" + r.merge_method + "' needs the parameter '" +
                           std::string(p.name) + "' for " + (model == nullptr ? "" : to_text(*model) + ", ") +
                           "tensor " + braid::detail::in_quotes(tensor) +
                           "; write it under 'parameters', without a filter for all tensors");
    }
  };
  for (known_parameter const& p : method.parameters) {
    if (p.scope == parameter_scope::tensor) {
      put(all.of_tensor, levels_of(r, m, s), p, output, nullptr);
      continue;
    }
    for (std::size_t i = 0; i < s.sources.size(); ++i) {
      if (p.scope == parameter_scope::non_base && base && s.sources[i].model == *base) { continue; }
      put(all.of_model[i], levels_of(r, m, s, &s.sources[i]), p, inputs[i], &s.sources[i].model);
    }
  }
  return all;
}

/// The slices of a module. Whole models are one slice of all their layers, with the base model as the last source where
/// it isn't listed.
/// @param layers  the number of layers of a model in this module
/// @throws argument_error where whole models differ in their number of layers, or a slice asks for layers that aren't
/// there
[[nodiscard]] inline std::vector<output_slice> slices_of(merge_recipe const& r, output_module const& m,
                                                         std::function<int(model_reference const&)> const& layers) {
  if (m.models.empty()) {
    for (output_slice const& s : m.slices) {
      for (source const& x : s.sources) {
        if (int const n = layers(x.model); x.last > n) {
          throw argument_error(to_text(r.file, x.at) + ": layer_range [" + std::to_string(x.first) + ", " +
                               std::to_string(x.last) + "] goes beyond the " + std::to_string(n) + " layers of " +
                               to_text(x.model));
        }
      }
    }
    return m.slices;
  }
  output_slice all;
  all.at = m.at;
  auto const add = [&](model_reference const& model, parameters const& settings, place at) {
    all.sources.push_back({model, 0, layers(model), settings, at});
    if (all.sources.back().last != all.layers()) {
      throw argument_error(to_text(r.file, at) + ": " + to_text(model) + " has " +
                           std::to_string(all.sources.back().last) + " layers and " +
                           to_text(all.sources.front().model) + " " + std::to_string(all.layers()) +
                           "; write 'slices' to choose layers");
    }
  };
  for (model_entry const& e : m.models) { add(e.model, e.settings, e.at); }
  auto const is_base = [&](model_entry const& e) { return r.base_model && e.model == *r.base_model; };
  if (r.base_model && std::none_of(m.models.begin(), m.models.end(), is_base)) { add(*r.base_model, {}, m.at); }
  return {all};
}

/// One layer of the output.
struct output_layer {
  std::size_t slice;      // of the module
  double t;               // where gradients stand: anew from 0 to 1 in each slice
  std::vector<int> from;  // [sources] of the slice: the layer of each that it is merged from
};

/// All layers of the output, in order.
[[nodiscard]] inline std::vector<output_layer> output_layers(std::vector<output_slice> const& slices) {
  std::vector<output_layer> all;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    for (int l = 0; l < slices[i].layers(); ++l) {
      output_layer layer{i, gradient_position(l, slices[i].layers()), {}};
      for (source const& x : slices[i].sources) { layer.from.push_back(x.first + l); }
      all.push_back(std::move(layer));
    }
  }
  return all;
}

}  // namespace recipe
BRAID_NAMESPACE_END
