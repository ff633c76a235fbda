#pragma once

/// From a recipe and its models to a plan: which tensors are made of what, with which numbers.

#include <braid/engine/merge_plan.hpp>
#include <braid/recipe/detail/output_config.hpp>
#include <braid/recipe/detail/output_names.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe {

struct plan_options {
  bool allow_truncated_vocabulary = false;  // embeddings and heads of different lengths are cut to the shortest
};

namespace detail {

/// What two types are computed in, and written as where nothing else is said: the one that holds both.
inline dtype promoted(dtype a, dtype b) noexcept {
  if (a == b) { return a; }
  auto const small = [](dtype t) { return size_of(t) == 1; };
  if (small(a) && !small(b)) { return b; }
  if (small(b) && !small(a)) { return a; }
  return dtype::f32;
}

inline double as_number(value const& v) {
  return std::visit(
      [](auto const& x) -> double {
        if constexpr (std::is_same_v<std::decay_t<decltype(x)>, std::string>) {
          return x == "none" ? 0.0 : 1.0;  // of `rescale`
        } else {
          return static_cast<double>(x);
        }
      },
      v);
}

class planner {
 public:
  planner(merge_recipe r, std::vector<opened_model> models, plan_options const& options)
      : options_(options), method_(*find_method(r.merge_method)) {
    plan_.recipe = std::move(r);
    plan_.models = std::move(models);
  }

  [[nodiscard]] run_plan make() {
    plan_.config_model = config_model();
    plan_.config = plan_.models[plan_.config_model].files.config();
    plan_vocabulary();
    for (std::size_t m = 0; m < plan_.recipe.modules.size(); ++m) { plan_module(m); }
    if (plan_.tensors.empty()) { throw argument_error(plan_.recipe.file + ": the output has no tensor"); }
    std::stable_sort(plan_.tensors.begin(), plan_.tensors.end(), [](run_tensor const& a, run_tensor const& b) {
      return size_of(a.out) != size_of(b.out) ? size_of(a.out) > size_of(b.out) : a.name < b.name;
    });
    for (std::size_t i = 0; i + 1 < plan_.tensors.size(); ++i) {
      if (plan_.tensors[i].name == plan_.tensors[i + 1].name) {
        throw argument_error(plan_.recipe.file + ": tensor " + braid::detail::in_quotes(plan_.tensors[i].name) +
                             " is in two modules");
      }
    }
    find_dropped();
    set_tensors(plan_);
    auto const& architecture = plan_.models[plan_.config_model].reference.override_architecture;
    if (!architecture.empty() && !plan_.config.empty()) { plan_.config["architectures"] = {architecture}; }
    return std::move(plan_);
  }

 private:
  [[nodiscard]] std::size_t number_of(model_reference const& wanted) const {
    auto const it = std::find_if(plan_.models.begin(), plan_.models.end(),
                                 [&](opened_model const& m) { return m.reference == wanted; });
    return static_cast<std::size_t>(it - plan_.models.begin());
  }

  /// The base model, else the first one whose layers come first.
  [[nodiscard]] std::size_t config_model() const {
    if (plan_.recipe.base_model) { return number_of(*plan_.recipe.base_model); }
    output_module const& m = plan_.recipe.modules.front();
    return number_of(m.models.empty() ? m.slices.front().sources.front().model : m.models.front().model);
  }

  void plan_module(std::size_t which) {
    output_module const& module = plan_.recipe.modules[which];
    auto const slices = slices_of(plan_.recipe, module, [&](model_reference const& m) {
      checkpoint const& files = plan_.models[number_of(m)].files;
      auto const stacks = layer_stacks(files);
      auto const it = stacks.find(main_stack(files));
      return it == stacks.end() ? 0 : it->second;
    });
    output_namer const names(plan_.recipe, plan_.models, which, slices);
    for (auto const& [name, o] : names.find()) { plan_tensor(module, slices[o.slice], o, names); }
    if (!module.slices.empty()) {
      std::vector<layer_origin> origins;
      for (output_layer const& l : names.layers()) {
        auto const& s = slices[l.slice];
        auto const& base = s.base_model ? s.base_model : plan_.recipe.base_model;
        std::size_t at = 0;
        for (std::size_t i = 0; i < s.sources.size(); ++i) { at = base && s.sources[i].model == *base ? i : at; }
        origins.push_back({names.model(l.slice, at), l.from[at]});
      }
      set_layers(plan_, names.stack(plan_.config_model), origins);
    }
  }

  /// A tensor of a model, or the one that it is tied to.
  [[nodiscard]] tensor_meta const* stored(std::size_t model, std::string const& name) const {
    checkpoint const& files = plan_.models[model].files;
    if (tensor_meta const* const t = files.find(name)) { return t; }
    auto const tied = files.config().find("tie_word_embeddings");
    if (tied != files.config().end() && *tied == false) { return nullptr; }
    std::vector<std::string_view> names;
    for (tensor_meta const& t : files.tensors()) { names.push_back(t.name); }
    auto const candidates = tie_candidates(name, names);
    return candidates.empty() ? nullptr : files.find(candidates.front());
  }

  [[nodiscard]] run_source source_of(std::size_t model, tensor_meta const* t) const {
    return {model, t, plan_.models[model].delta(t->name)};
  }

  void plan_tensor(output_module const& module, output_slice const& slice, output_name const& o, output_namer const& names) {
    run_tensor t;
    t.name = o.name;
    t.position = o.position;
    auto const& base_model = slice.base_model ? slice.base_model : plan_.recipe.base_model;
    std::vector<std::size_t> numbers;  // of the sources' places in the slice
    std::string lacking;
    std::optional<std::size_t> base_at;
    for (std::size_t i = 0; i < slice.sources.size(); ++i) {
      bool const is_base = method_.base != base_use::ignored && base_model && slice.sources[i].model == *base_model;
      std::size_t const m = names.model(o.slice, i);
      tensor_meta const* const meta = stored(m, o.inputs[i]);
      if (is_base && !base_at) {
        base_at = i;
        if (meta != nullptr) { t.base = source_of(m, meta); }
      } else if (meta != nullptr) {
        t.sources.push_back(source_of(m, meta));
        numbers.push_back(i);
      }
      if (meta == nullptr) { lacking += (lacking.empty() ? "" : ", ") + to_text(plan_.models[m].reference); }
    }
    if (method_.base == base_use::required && !base_at) {
      throw argument_error(to_text(plan_.recipe.file, slice.at) + ": the method '" + plan_.recipe.merge_method +
                           "' needs the base model among the sources of each slice");
    }
    choose_step(t, base_at.has_value(), lacking);
    check_shapes(t);
    choose_type(t);
    if (t.what == tensor_step::merge) { set_parameters(t, module, slice, o, numbers); }
    plan_.tensors.push_back(std::move(t));
  }

  /// Merges what can be merged; else copies it from the base, or from the first model that has it.
  void choose_step(run_tensor& t, bool base_in_slice, std::string const& lacking) {
    auto const copy = [&](std::string why) {
      t.what = tensor_step::copy;
      run_source const from = t.base ? *t.base : t.sources.front();
      t.note = "copied from " + to_text(plan_.models[from.model].reference) + ": " + std::move(why);
      t.sources = {from};
      t.base.reset();
    };
    std::vector<run_source> const inputs = t.inputs();
    for (run_source const& s : inputs) {
      if (is_computable(s.tensor->type)) { continue; }
      return copy("it is " + std::string(braid::name_of(s.tensor->type)) + ", which is never averaged");
    }
    if (lacking.empty()) { return; }
    bool const needs_base = method_.base == base_use::required || (method_.base == base_use::optional && base_in_slice);
    if (needs_base && !t.base) { return copy(lacking + " lacks it"); }
    if (static_cast<int>(t.sources.size()) < method_.least) { return copy(lacking + " lacks it"); }
    if (t.sources.empty()) { return copy("only the base has it"); }
    t.note = "merged without " + lacking + ", which lacks it";
  }

  /// A matrix with a row for each token, or a vector with an element for each.
  [[nodiscard]] static bool is_per_token(run_tensor const& t, run_source const& s) {
    tensor_role const role = role_of(t.name);
    bool const matrix = (role == tensor_role::token_embedding || role == tensor_role::output_head) && s.tensor->shape.size() == 2;
    bool const vector = role == tensor_role::bias && s.tensor->shape.size() == 1 && t.name.ends_with(".bias") &&
                        role_of(t.name.substr(0, t.name.size() - 4) + "weight") == tensor_role::output_head;
    return matrix || vector;
  }

  void check_shapes(run_tensor& t) {
    auto const inputs = t.inputs();
    run_source const& first = inputs.front();
    t.shape = first.tensor->shape;
    bool const per_token = is_per_token(t, first);
    if (plan_.vocabulary && per_token) { rearrange(t); }
    for (run_source const& s : inputs) {
      std::vector<index_t> theirs = s.tensor->shape;
      if (per_token && theirs.size() == t.shape.size() && (!t.owners.empty() || options_.allow_truncated_vocabulary)) {
        if (t.owners.empty() && theirs[0] != t.shape[0]) {
          t.shape[0] = std::min(t.shape[0], theirs[0]);
          t.note += (t.note.empty() ? "" : "; ") + std::string("cut to ") + std::to_string(t.shape[0]) + " rows";
        }
        theirs[0] = t.shape[0];
      }
      if (theirs == t.shape) { continue; }
      throw shape_error("tensor " + braid::detail::in_quotes(t.name) + " is " + braid::detail::shape_text(s.tensor->shape) +
                        " in " + to_text(plan_.models[s.model].reference) + ", but " +
                        braid::detail::shape_text(first.tensor->shape) + " in " +
                        to_text(plan_.models[first.model].reference) +
                        (per_token ? ": bring the models to one vocabulary (tokenizer: {source: union}), or cut them to the shortest (--allow "
                                     "truncated-vocabulary)"
                                   : ": only models of one architecture can be merged"));
    }
  }

  /// Brings a tensor to the output's vocabulary.
  void rearrange(run_tensor& t) {
    for (std::size_t const m : plan_.owners) {
      tensor_meta const* const meta = stored(m, t.name);
      if (meta == nullptr || meta->shape.size() != t.shape.size() || !is_computable(meta->type)) {
        throw shape_error("tensor " + braid::detail::in_quotes(t.name) + " can't be brought to one vocabulary: " +
                          to_text(plan_.models[m].reference) + " lacks it, or has it in another form");
      }
      if (meta->shape[0] != owner_rows_[t.owners.size()]) {
        throw shape_error("tensor " + braid::detail::in_quotes(t.name) + " of " + to_text(plan_.models[m].reference) +
                          " has " + std::to_string(meta->shape[0]) + " rows, and the embedding " +
                          std::to_string(owner_rows_[t.owners.size()]));
      }
      t.owners.push_back(source_of(m, meta));
    }
    t.shape[0] = plan_.vocabulary->rows;
  }

  void choose_type(run_tensor& t) const {
    auto const inputs = t.inputs();
    t.out = inputs.front().tensor->type;
    if (!is_computable(t.out)) { return; }
    for (run_source const& s : inputs) { t.out = promoted(t.out, s.tensor->type); }
    if (plan_.recipe.input_type) { t.out = *plan_.recipe.input_type; }
    if (plan_.recipe.output_type) { t.out = *plan_.recipe.output_type; }
  }

  void set_parameters(run_tensor& t, output_module const& module, output_slice const& slice, output_name const& o,
                      std::vector<std::size_t> const& numbers) {
    auto const resolved = resolve(plan_.recipe, module, slice, o.inputs, t.name, o.position);
    for (auto const& [name, v] : resolved.of_tensor) {
      known_parameter const* const known = find_parameter(method_, name);
      if (!known->has_effect) { continue; }
      t.parameters.of_tensor[name] = as_number(v);
      if (auto const* const word = std::get_if<std::string>(&v); word != nullptr && *word != "none") {
        t.rescaling = *word == "l1" ? rescale::l1 : rescale::inverse_keep;
      }
    }
    for (known_parameter const& p : method_.parameters) {
      if (p.scope == parameter_scope::tensor || !p.has_effect) { continue; }
      method_parameters::per_model values;
      for (std::size_t const i : numbers) {
        auto const it = resolved.of_model[i].find(p.name);
        values.push_back(it == resolved.of_model[i].end() ? std::nullopt : std::optional<double>(as_number(it->second)));
      }
      t.parameters.of_model[std::string(p.name)] = std::move(values);
    }
  }

  void plan_vocabulary() {
    if (!plan_.recipe.tokenizer) { return; }
    tokenizer_section const& section = *plan_.recipe.tokenizer;
    std::vector<vocabulary> vocabularies(plan_.models.size());
    std::vector<vocabulary_owner> owners;
    std::optional<std::size_t> base;
    for (std::size_t m = 0; m < plan_.models.size(); ++m) {
      opened_model const& model = plan_.models[m];
      std::optional<index_t> rows;
      for (tensor_meta const& t : model.files.tensors()) {
        if (role_of(t.name) == tensor_role::token_embedding && t.shape.size() == 2 && !rows) { rows = t.shape[0]; }
      }
      if (!rows) {
        throw argument_error("the model " + to_text(model.reference) + " has no embedding that braid knows; 'tokenizer' needs one");
      }
      auto const file = model.files.path() / "tokenizer.json";
      std::error_code none;
      bool const has_one = std::filesystem::exists(file, none);
      if (has_one) { vocabularies[m] = read_vocabulary(braid::detail::read_json(file, format_code::tokenizer_json), file); }
      if (plan_.recipe.base_model && model.reference == *plan_.recipe.base_model) { base = owners.size(); }
      owners.push_back({model.reference, has_one ? &vocabularies[m] : nullptr, static_cast<int>(*rows)});
      plan_.owners.push_back(m);
      owner_rows_.push_back(*rows);
    }
    plan_.vocabulary = recipe::plan_vocabulary(section, owners, base);
    for (std::string const& note : plan_.vocabulary->notes) { plan_.notes.push_back(note); }
    for (std::size_t m = 0; m < owners.size(); ++m) {
      std::string const note = filling_note(*plan_.vocabulary, m, owners[m].rows);
      if (!note.empty()) { plan_.notes.push_back("vocabulary of " + to_text(owners[m].model) + ": " + note); }
    }
    plan_.tokenizer_model = section.source == tokenizer_section::source_type::model ? number_of(*section.model) : base.value_or(0);
  }

  /// Accounts for every tensor of every input.
  void find_dropped() {
    std::set<std::pair<std::size_t, std::string_view>> used;
    std::map<std::string_view, run_tensor const*> copies;
    for (run_tensor const& t : plan_.tensors) {
      if (t.what == tensor_step::copy) { copies[t.name] = &t; }
      for (run_source const& s : t.inputs()) { used.emplace(s.model, s.tensor->name); }
      for (run_source const& s : t.owners) { used.emplace(s.model, s.tensor->name); }
    }
    for (std::size_t m = 0; m < plan_.models.size(); ++m) {
      std::string const stack = main_stack(plan_.models[m].files);
      for (tensor_meta const& t : plan_.models[m].files.tensors()) {
        if (used.count({m, t.name}) != 0) { continue; }
        auto const l = layer_of(t.name);
        std::string why = "it is taken from other models";
        if (l && l->stack == stack) { why = "its layer is in no slice"; }
        if (auto const copy = copies.find(t.name); copy != copies.end()) { why = copy->second->note; }
        plan_.dropped.push_back({m, t.name, std::move(why)});
      }
    }
  }

  plan_options options_;
  known_method const& method_;
  run_plan plan_;
  std::vector<index_t> owner_rows_;  // of embeddings
};

}  // namespace detail

/// Plans a recipe over its models. Reads metadata, configs and tokenizers, no weights.
///
/// Every tensor of the inputs is in `tensors` or in `dropped`. What some models lack is merged without them, or copied
/// where the method can't do that; what isn't of a type that braid computes with is copied from the base, or from the
/// first model. A head that no model stores stays tied; one that some store is stored, and the others give their embedding.
/// @param r       not of `merge_method: channel_merge`, which makes a grouped checkpoint: `braid::run`
/// @param models  of `open_models`
/// @throws argument_error (parameters, slices, modules), shape_error (naming tensor and models), format_error (tokenizers)
[[nodiscard]] inline run_plan plan(merge_recipe r, std::vector<opened_model> models, plan_options const& options = {}) {
  if (r.merge_method == "channel_merge") {
    throw argument_error(r.file + ": channel_merge makes a grouped checkpoint, which braid::run writes");
  }
  return detail::planner(std::move(r), std::move(models), options).make();
}

}  // namespace recipe
BRAID_NAMESPACE_END
