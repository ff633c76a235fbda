#pragma once

#include <braid/recipe/detail/parser_base.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

/// Keys of a recipe that people look for among the parameters.
inline constexpr auto top_level_settings = std::to_array<std::string_view>(
    {"seed", "style", "scope", "dtype", "out_dtype", "merge_method", "base_model"});

/// Reads `parameters` mappings: every name must be known, and every value must be one that the parameter can have.
class parameter_parser : public parser_base {
 protected:
  using parser_base::parser_base;

  [[nodiscard]] parameters settings(yaml_value const& owner) {
    parameters all;
    yaml_value const* const v = owner.find("parameters");
    if (v == nullptr) { return all; }
    check_map(*v, "parameters");
    for (yaml_entry const& e : v->entries) {
      if (e.value.is_null()) { continue; }
      known_parameter const* const p = parameter(e);
      all.push_back({e.key, read_setting(e.value, p), e.at});
      if (p != nullptr) { check_values(all.back(), *p); }
    }
    return all;
  }

  known_method const* method_ = nullptr;

 private:
  /// nullptr, and a warning, where the name is a parameter of other methods only.
  [[nodiscard]] known_parameter const* parameter(yaml_entry const& e) {
    if (known_parameter const* const p = find_parameter(*method_, e.key)) {
      if (!p->has_effect) {
        warn(e.at, "the parameter '" + e.key + "' changes nothing in the method '" + std::string(method_->name) + "'");
      }
      return p;
    }
    std::string owners;
    for (known_method const& m : known_methods()) {
      if (find_parameter(m, e.key) != nullptr) { owners += (owners.empty() ? "" : ", ") + std::string(m.name); }
    }
    if (!owners.empty()) {
      warn(e.at, "the method '" + std::string(method_->name) + "' has no parameter '" + e.key + "' (" + owners +
                     (owners.find(',') == std::string::npos ? " has" : " have") + "): it is ignored");
      return nullptr;
    }
    if (std::find(top_level_settings.begin(), top_level_settings.end(), e.key) != top_level_settings.end()) {
      refuse(e.at, "'" + e.key + "' is no parameter: write it beside merge_method");
    }
    std::vector<std::string_view> names;
    for (known_parameter const& p : method_->parameters) { names.push_back(p.name); }
    refuse(e.at, "unknown parameter " + braid::detail::in_quotes(e.key) + suggestion(e.key, names));
  }

  [[nodiscard]] setting read_setting(yaml_value const& v, known_parameter const* p) const {
    setting s;
    if (v.is_list() && !v.items.empty() && v.items.front().is_map()) {
      for (yaml_value const& item : v.items) { s.conditions.push_back(read_conditional(item)); }
    } else if (v.is_map()) {
      s.conditions.push_back(read_conditional(v));
    } else {
      s.conditions.push_back(read_values(v));
    }
    if (p == nullptr) { return s; }
    for (std::size_t i = 0; i + 1 < s.conditions.size(); ++i) {
      if (s.conditions[i].filter.matches_all()) {
        refuse(s.conditions[i + 1].at, "this is never reached: the filter before it, on line " +
                                           std::to_string(s.conditions[i].at.line) + ", matches every tensor");
      }
    }
    return s;
  }

  [[nodiscard]] conditional read_conditional(yaml_value const& v) const {
    if (!v.is_map()) {
      refuse(v.at, "a list of filters holds mappings {filter: ..., value: ...}, this is " + std::string(kind_name(v)));
    }
    check_keys(v, conditional_keys, "a filtered value");
    yaml_value const* const x = v.find("value");
    if (x == nullptr) { refuse(v.at, "a filtered value must have the key 'value'"); }
    conditional c = read_values(*x);
    c.at = v.at;
    if (yaml_value const* const f = v.find("filter")) {
      c.filter = at_place(f->at, [&] { return name_filter(text(*f, "filter")); });
    }
    return c;
  }

  [[nodiscard]] conditional read_values(yaml_value const& v) const {
    conditional c;
    c.at = v.at;
    c.gradient = v.is_list();
    if (v.is_scalar()) { c.values.push_back({v.text, v.at}); }
    if (v.is_map()) { refuse(v.at, "a value must be a scalar or a list of scalars, this is a mapping"); }
    for (yaml_value const& item : v.items) {
      if (item.is_map()) { refuse(item.at, "a gradient holds scalars; filters can't stand among them"); }
      c.values.push_back({text(item, "a value of a gradient"), item.at});
    }
    return c;
  }

  void check_values(parameter_setting const& s, known_parameter const& p) const {
    for (conditional const& c : s.what.conditions) {
      for (scalar const& x : c.values) {
        if (read_value(x.text, p.kind, p.choices)) { continue; }
        std::string names;
        for (std::string_view const k : p.choices) { names += (names.empty() ? "" : ", ") + std::string(k); }
        std::string const wanted = p.kind == value_kind::number    ? "a finite number"
                                   : p.kind == value_kind::integer ? "a whole number"
                                   : p.kind == value_kind::boolean ? "true or false"
                                   : p.kind == value_kind::text    ? "one of " + names
                                                                   : "true, false or one of " + names;
        refuse(x.at, "the parameter '" + s.name + "' must be " + wanted + ", not " + braid::detail::in_quotes(x.text) +
                         suggestion(x.text, p.choices));
      }
    }
  }
};

}  // namespace recipe::detail
BRAID_NAMESPACE_END
