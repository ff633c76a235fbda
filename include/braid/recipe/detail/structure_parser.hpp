#pragma once

#include <braid/recipe/detail/parameter_parser.hpp>
#include <braid/recipe/detail/tokenizer_parser.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

inline constexpr auto type_names = std::to_array<std::pair<std::string_view, dtype>>({
    {"float32", dtype::f32},
    {"float16", dtype::f16},
    {"bfloat16", dtype::bf16},
    {"float8_e4m3fn", dtype::f8_e4m3},
    {"float8_e5m2", dtype::f8_e5m2},
});

/// Reads the whole of a recipe.
class structure_parser : public tokenizer_parser<parameter_parser> {
 public:
  explicit structure_parser(std::string file) : tokenizer_parser(std::move(file)) {}

  [[nodiscard]] merge_recipe parse(yaml_value const& v) {
    check_keys(v, recipe_keys, "a recipe");
    merge_recipe r;
    r.file = file_;
    r.merge_method = read_method(v);
    if (yaml_value const* const base = v.find("base_model")) { r.base_model = model(*base); }
    r.settings = settings(v);
    read_modules(v, r);
    if (yaml_value const* const t = v.find("dtype")) { r.input_type = type(*t, "dtype"); }
    if (yaml_value const* const t = v.find("out_dtype")) { r.output_type = type(*t, "out_dtype"); }
    r.tokenizer = tokenizer(v);
    if (yaml_value const* const t = v.find("chat_template")) { r.chat_template = chat_template(*t); }
    for (char const* const key : {"name", "out_path"}) {
      if (yaml_value const* const x = v.find(key)) {
        warn(x->at, "'" + std::string(key) + "' is for several recipes in one file; here it is ignored");
      }
    }
    if (yaml_value const* const seed = v.find("seed")) {
      r.seed = static_cast<std::uint64_t>(integer(*seed, "seed", 0));
    }
    constexpr auto styles = std::to_array<std::string_view>({"mergekit", "paper"});
    if (yaml_value const* const style = v.find("style")) { r.style = choice(*style, "style", styles); }
    constexpr auto scopes = std::to_array<std::string_view>({"row", "tensor", "model", "global"});
    if (yaml_value const* const scope = v.find("scope")) {
      r.trim_scope = choice(*scope, "scope", scopes);
      if (r.trim_scope == "global") { r.trim_scope = "model"; }
    }
    r.warnings = std::move(warnings_);
    return r;
  }

 private:
  [[nodiscard]] std::string read_method(yaml_value const& v) {
    yaml_value const* const name = v.find("merge_method");
    if (name == nullptr) { refuse(v.at, "the key 'merge_method' is missing"); }
    std::vector<std::string_view> names;
    for (known_method const& m : known_methods()) { names.push_back(m.name); }
    std::string method = choice(*name, "merge_method", names);
    method_ = find_method(method);
    return method;
  }

  void read_modules(yaml_value const& v, merge_recipe& r) {
    int forms = 0;
    for (char const* const key : {"models", "slices", "modules"}) { forms += v.find(key) != nullptr ? 1 : 0; }
    if (forms != 1) {
      refuse(v.at, forms == 0 ? "one of the keys 'models', 'slices' and 'modules' must say what is merged"
                              : "only one of the keys 'models', 'slices' and 'modules' may be there");
    }
    if (yaml_value const* const modules = v.find("modules")) {
      check_map(*modules, "modules");
      for (yaml_entry const& e : modules->entries) {
        check_keys(e.value, module_keys, "the module '" + e.key + "'");
        if ((e.value.find("models") == nullptr) == (e.value.find("slices") == nullptr)) {
          refuse(e.at, "the module '" + e.key + "' must have either 'models' or 'slices'");
        }
        output_module m = module(e.value, r);
        m.name = e.key;
        m.at = e.at;
        m.settings = settings(e.value);
        r.modules.push_back(std::move(m));
      }
      if (r.modules.empty()) { refuse(modules->at, "modules must have a module in it"); }
    } else {
      r.modules.push_back(module(v, r));
      r.modules.front().at = v.at;
    }
  }

  /// `models` or `slices` of a mapping.
  [[nodiscard]] output_module module(yaml_value const& v, merge_recipe const& r) {
    output_module m;
    if (yaml_value const* const models = v.find("models")) {
      for (yaml_value const& item : list(*models, "models").items) { m.models.push_back(entry(item, m.models)); }
      std::vector<model_reference> inputs;
      for (model_entry const& e : m.models) { inputs.push_back(e.model); }
      check_inputs(models->at, inputs, r.base_model, true);
    }
    if (yaml_value const* const slices = v.find("slices")) {
      if (method_->name == "channel_merge") { refuse(slices->at, "channel_merge takes whole models: write 'models'"); }
      for (yaml_value const& item : list(*slices, "slices").items) { m.slices.push_back(slice(item, r)); }
    }
    return m;
  }

  [[nodiscard]] model_entry entry(yaml_value const& v, std::vector<model_entry> const& before) {
    check_keys(v, entry_keys, "an entry of models");
    yaml_value const* const which = v.find("model");
    if (which == nullptr) { refuse(v.at, "an entry of models must have the key 'model'"); }
    model_entry e{model(*which)};
    e.at = v.at;
    for (model_entry const& other : before) {
      if (other.model == e.model) { refuse(v.at, "the model " + to_text(e.model) + " is there twice"); }
    }
    e.settings = settings(v);
    if (yaml_value const* const name = v.find("name")) { e.name = text(*name, "name"); }
    return e;
  }

  [[nodiscard]] output_slice slice(yaml_value const& v, merge_recipe const& r) {
    check_keys(v, slice_keys, "a slice");
    yaml_value const* const sources = v.find("sources");
    if (sources == nullptr) { refuse(v.at, "a slice must have the key 'sources'"); }
    output_slice s;
    s.at = v.at;
    std::vector<model_reference> inputs;
    for (yaml_value const& item : list(*sources, "sources").items) {
      s.sources.push_back(read_source(item));
      source const& x = s.sources.back();
      if (x.last - x.first != s.layers()) {
        refuse(x.at, "this source has " + std::to_string(x.last - x.first) + " layers and the first of its slice " +
                         std::to_string(s.layers()) + "; all must have as many");
      }
      if (std::find(inputs.begin(), inputs.end(), x.model) != inputs.end()) {
        refuse(x.at, "the model " + to_text(x.model) + " is there twice in one slice");
      }
      inputs.push_back(x.model);
    }
    if (yaml_value const* const base = v.find("base_model")) { s.base_model = model(*base); }
    s.settings = settings(v);
    if (yaml_value const* const w = v.find("residual_weight")) {
      warn(w->at, "'residual_weight' is known and has no effect");
    }
    check_inputs(s.at, inputs, s.base_model ? s.base_model : r.base_model, false);
    return s;
  }

  [[nodiscard]] source read_source(yaml_value const& v) {
    check_keys(v, source_keys, "a source");
    yaml_value const* const which = v.find("model");
    yaml_value const* const range = v.find("layer_range");
    if (which == nullptr || range == nullptr) { refuse(v.at, "a source must have the keys 'model' and 'layer_range'"); }
    if (!range->is_list() || range->items.size() != 2) {
      refuse(range->at, "layer_range must be [first, last], the last not counted");
    }
    source s{model(*which)};
    s.at = v.at;
    s.first = small_integer(range->items[0], "the first layer", 0);
    s.last = small_integer(range->items[1], "the last layer", 0);
    if (s.last <= s.first) {
      refuse(range->at, "layer_range [" + std::to_string(s.first) + ", " + std::to_string(s.last) +
                            "] holds no layer: the last isn't counted");
    }
    s.settings = settings(v);
    return s;
  }

  /// @param added  whether a base that isn't among the inputs becomes one
  void check_inputs(place at, std::vector<model_reference> const& inputs, std::optional<model_reference> const& base,
                    bool added) const {
    std::string const method = "the method '" + std::string(method_->name) + "' ";
    bool const listed = base && std::find(inputs.begin(), inputs.end(), *base) != inputs.end();
    if (method_->base == base_use::required && !base) { refuse(at, method + "needs a base_model"); }
    if (method_->base != base_use::ignored && base && !listed && !added) {
      refuse(at, "the base model " + to_text(*base) + " must be one of the slice's sources");
    }
    bool const counts_base = method_->base == base_use::ignored;
    auto const n =
        static_cast<int>(inputs.size()) + (counts_base ? (base && !listed && added ? 1 : 0) : (listed ? -1 : 0));
    if (n >= method_->least && (method_->most == 0 || n <= method_->most)) { return; }
    std::string const wanted = method_->most == method_->least ? std::to_string(method_->least)
                               : n < method_->least            ? std::to_string(method_->least) + " or more"
                                                               : "at most " + std::to_string(method_->most);
    refuse(at, method + "needs " + wanted + (method_->least == 1 && method_->most == 1 ? " model" : " models") +
                   (counts_base ? "" : " besides the base") + "; there " + (n == 1 ? "is " : "are ") +
                   std::to_string(n));
  }

  [[nodiscard]] dtype type(yaml_value const& v, std::string_view key) const {
    std::string_view name = text(v, key);
    if (name.starts_with("torch.")) { name.remove_prefix(6); }
    for (auto const& [known, t] : type_names) {
      if (known == name) { return t; }
    }
    if (name == "float64" || name == "int64") {
      refuse(v.at, std::string(key) + " can't be " + std::string(name) +
                       ": braid merges in float32; write float32, or leave it out");
    }
    std::vector<std::string_view> names;
    for (auto const& [known, t] : type_names) { names.push_back(known); }
    (void)choice(v, key, names);
    refuse(v.at, std::string(key) + " can't be " + braid::detail::in_quotes(v.text));
  }

  [[nodiscard]] std::string chat_template(yaml_value const& v) const {
    constexpr auto known = std::to_array<std::string_view>({"auto", "alpaca", "chatml", "exaone", "llama3", "mistral"});
    std::string const& t = text(v, "chat_template");
    if (t.size() >= 20 && t.find('{') != std::string::npos) { return t; }
    return choice(v, "chat_template, if it isn't a Jinja template,", known);
  }
};

}  // namespace recipe::detail
BRAID_NAMESPACE_END
