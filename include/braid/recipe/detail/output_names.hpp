#pragma once

/// Which tensors the output has, from the names in the inputs: layers of slices numbered anew, everything else once.

#include <braid/recipe/layer_names.hpp>
#include <braid/recipe/open_models.hpp>
#include <braid/recipe/resolve.hpp>

#include <set>

BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

/// A tensor of the output, and what its sources call it.
struct output_name {
  std::string name;
  std::size_t slice = 0;
  double position = 0.0;            // of gradients
  std::vector<std::string> inputs;  // [sources] of the slice
};

/// Whether a name belongs to another part of the model than its text layers and their embeddings and head.
inline bool is_of_another_tower(std::string_view name) {
  for (std::string_view const part : {"vision", "visual", "audio", "projector", "speech"}) {
    if (name.find(part) != std::string_view::npos) { return true; }
  }
  return false;
}

/// How many layers each list of layers of a model has.
inline std::map<std::string, int, std::less<>> layer_stacks(checkpoint const& model) {
  std::map<std::string, int, std::less<>> all;
  for (tensor_meta const& t : model.tensors()) {
    if (auto const l = layer_of(t.name)) {
      int& n = all[std::string(l->stack)];
      n = std::max(n, l->layer + 1);
    }
  }
  return all;
}

/// The list of layers that recipes number: that of the text model, else the one with most tensors. "" where there is none.
inline std::string main_stack(checkpoint const& model) {
  std::map<std::string, std::size_t> tensors;
  for (tensor_meta const& t : model.tensors()) {
    if (auto const l = layer_of(t.name)) { ++tensors[std::string(l->stack)]; }
  }
  std::string best;
  auto const rank = [&](std::string const& stack) {
    return std::pair(!is_of_another_tower(stack), tensors.at(stack));
  };
  for (auto const& [stack, count] : tensors) {
    if (best.empty() || rank(stack) > rank(best)) { best = stack; }
  }
  return best;
}

/// Whether a module of the recipe has a tensor: its name is a part of the tensor's, between dots. A module without such
/// tensors ("default", "text_decoder") has those that no other one has.
inline bool names_module(std::string_view tensor, std::string_view module) {
  std::string const dotted = "." + std::string(tensor) + ".";
  return dotted.find("." + std::string(module) + ".") != std::string::npos;
}

/// The module of a recipe that has a tensor.
inline std::size_t module_of(merge_recipe const& r, std::string_view tensor, std::size_t rest) {
  if (r.modules.size() == 1) { return 0; }
  for (std::size_t m = 0; m < r.modules.size(); ++m) {
    if (names_module(tensor, r.modules[m].name)) { return m; }
  }
  return rest;
}

/// Finds all tensors of one module of the output.
class output_namer {
 public:
  output_namer(merge_recipe const& r, std::vector<opened_model> const& models, std::size_t module,
               std::vector<output_slice> const& slices)
      : recipe_(r), models_(models), module_(module), slices_(slices), layers_(output_layers(slices)) {
    rest_ = r.modules.size();
    for (std::size_t m = 0; m < r.modules.size() && rest_ == r.modules.size(); ++m) {
      bool const named = std::any_of(models.begin(), models.end(), [&](opened_model const& x) {
        auto const& all = x.files.tensors();
        return std::any_of(all.begin(), all.end(), [&](auto const& t) { return names_module(t.name, r.modules[m].name); });
      });
      if (!named) { rest_ = m; }
    }
    for (opened_model const& m : models) { stacks_.push_back(main_stack(m.files)); }
  }

  /// By name.
  [[nodiscard]] std::map<std::string, output_name> find() const {
    std::map<std::string, output_name> all;
    for (std::size_t l = 0; l < layers_.size(); ++l) { layer(l, all); }
    std::size_t const last = slices_.size() - 1;
    for (std::size_t slice : std::set<std::size_t>{0, last}) {
      for (std::size_t i = 0; i < slices_[slice].sources.size(); ++i) { outside(slice, last, model(slice, i), all); }
    }
    return all;
  }

  [[nodiscard]] std::size_t model(std::size_t slice, std::size_t source) const {
    auto const& wanted = slices_[slice].sources[source].model;
    auto const it = std::find_if(models_.begin(), models_.end(), [&](auto const& m) { return m.reference == wanted; });
    return static_cast<std::size_t>(it - models_.begin());
  }

  [[nodiscard]] std::size_t layer_count() const noexcept { return layers_.size(); }
  [[nodiscard]] std::vector<output_layer> const& layers() const noexcept { return layers_; }
  [[nodiscard]] std::string const& stack(std::size_t model) const { return stacks_[model]; }

 private:
  /// Tensors of one layer of the output, under the names of every source that has them.
  void layer(std::size_t at, std::map<std::string, output_name>& all) const {
    output_layer const& l = layers_[at];
    for (std::size_t i = 0; i < l.from.size(); ++i) {
      std::size_t const m = model(l.slice, i);
      std::string const prefix = stacks_[m] + std::to_string(l.from[i]) + ".";
      for (tensor_meta const& t : models_[m].files.tensors()) {
        if (stacks_[m].empty() || !t.name.starts_with(prefix) || module_of(recipe_, t.name, rest_) != module_) { continue; }
        std::string const name = with_layer(t.name, static_cast<int>(at));
        if (all.count(name) != 0) { continue; }
        output_name o{name, l.slice, l.t, {}};
        for (int const from : l.from) { o.inputs.push_back(with_layer(t.name, from)); }
        all.emplace(name, std::move(o));
      }
    }
  }

  /// Tensors outside the numbered layers: embeddings and other towers of the first slice, final norm and head of the last.
  void outside(std::size_t slice, std::size_t last, std::size_t m, std::map<std::string, output_name>& all) const {
    auto const stacks = layer_stacks(models_[m].files);
    for (tensor_meta const& t : models_[m].files.tensors()) {
      auto const l = layer_of(t.name);
      if ((l && l->stack == stacks_[m]) || module_of(recipe_, t.name, rest_) != module_) { continue; }
      bool const in_front = l.has_value() || stands_before_layers(t.name) || is_of_another_tower(t.name);
      if (slice != (in_front ? 0 : last) || all.count(t.name) != 0) { continue; }
      output_name o{t.name, slice, 0.0, {}};
      if (l) { o.position = gradient_position(l->layer, stacks.find(l->stack)->second); }
      o.inputs.assign(slices_[slice].sources.size(), t.name);
      all.emplace(t.name, std::move(o));
    }
  }

  merge_recipe const& recipe_;
  std::vector<opened_model> const& models_;
  std::size_t module_;
  std::vector<output_slice> const& slices_;
  std::vector<output_layer> layers_;
  std::size_t rest_ = 0;             // the module that has what no other has
  std::vector<std::string> stacks_;  // of each model
};

}  // namespace recipe::detail
BRAID_NAMESPACE_END
