#pragma once

#include <braid/recipe/detail/yaml_value.hpp>
#include <braid/recipe/method_table.hpp>
#include <braid/recipe/recipe.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

/// Top-level keys, mergekit's and braid's.
inline constexpr auto recipe_keys = std::to_array<std::string_view>(
    {"merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype",
     "tokenizer_source", "tokenizer", "chat_template", "name", "out_path", "seed", "style", "scope"});
inline constexpr auto entry_keys = std::to_array<std::string_view>({"model", "parameters", "name"});
inline constexpr auto source_keys = std::to_array<std::string_view>({"model", "layer_range", "parameters"});
inline constexpr auto slice_keys =
    std::to_array<std::string_view>({"sources", "base_model", "parameters", "residual_weight"});
inline constexpr auto module_keys = std::to_array<std::string_view>({"models", "slices", "parameters"});
inline constexpr auto model_keys = std::to_array<std::string_view>({"model", "lora", "override_architecture"});
inline constexpr auto path_keys = std::to_array<std::string_view>({"path", "revision"});
inline constexpr auto conditional_keys = std::to_array<std::string_view>({"filter", "value"});

/// What the parsers of a recipe's parts share: messages with a place, checks of keys and kinds.
class parser_base {
 public:
  [[noreturn]] void refuse(place at, std::string const& what) const {
    throw argument_error(recipe::to_text(file_, at) + ": " + what);
  }
  void warn(place at, std::string what) { warnings_.push_back({at, std::move(what)}); }

  /// Calls `read` and gives what it complains about a place.
  template <class Read>
  auto at_place(place at, Read const& read) const {
    try {
      return read();
    } catch (argument_error const& e) { refuse(at, e.what()); }
  }

  /// "; did you mean 'x'?", or nothing.
  static std::string suggestion(std::string_view word, std::span<std::string_view const> known) {
    std::string_view best;
    std::size_t least = word.size() / 2 + 1;
    if (word.size() > 100) { return {}; }
    for (std::string_view const k : known) {
      if (std::size_t const d = braid::detail::edit_distance(word, k); d < least) {
        least = d;
        best = k;
      }
    }
    return best.empty() ? std::string() : "; did you mean '" + std::string(best) + "'?";
  }

  void check_map(yaml_value const& v, std::string_view what) const {
    if (!v.is_map()) { refuse(v.at, std::string(what) + " must be a mapping, this is " + std::string(kind_name(v))); }
  }
  void check_keys(yaml_value const& v, std::span<std::string_view const> known, std::string_view what) const {
    check_map(v, what);
    for (yaml_entry const& e : v.entries) {
      if (std::find(known.begin(), known.end(), e.key) == known.end()) {
        refuse(e.at, "unknown key " + braid::detail::in_quotes(e.key) + " in " + std::string(what) +
                         suggestion(e.key, known));
      }
    }
  }
  yaml_value const& list(yaml_value const& v, std::string_view what) const {
    if (!v.is_list() || v.items.empty()) {
      refuse(v.at, std::string(what) + " must be a list with something in it, this is " +
                       std::string(v.is_list() ? "an empty one" : kind_name(v)));
    }
    return v;
  }
  std::string const& text(yaml_value const& v, std::string_view what) const {
    if (!v.is_scalar()) {
      refuse(v.at, std::string(what) + " must be a single value, this is " + std::string(kind_name(v)));
    }
    return v.text;
  }
  std::int64_t integer(yaml_value const& v, std::string_view what, std::int64_t least) const {
    auto const x = read_value(text(v, what), value_kind::integer);
    if (!x || std::get<std::int64_t>(*x) < least) {
      refuse(v.at, std::string(what) + " must be a whole number, " + std::to_string(least) + " or more, not " +
                       braid::detail::in_quotes(v.text));
    }
    return std::get<std::int64_t>(*x);
  }
  int small_integer(yaml_value const& v, std::string_view what, int least) const {
    auto const x = integer(v, what, least);
    if (x > 1'000'000) { refuse(v.at, std::string(what) + " is too large: " + v.text); }
    return static_cast<int>(x);
  }
  std::string choice(yaml_value const& v, std::string_view what, std::span<std::string_view const> known) const {
    std::string const& word = text(v, what);
    if (std::find(known.begin(), known.end(), word) == known.end()) {
      std::string names;
      for (std::string_view const k : known) { names += (names.empty() ? "" : ", ") + std::string(k); }
      refuse(v.at, std::string(what) + " can't be " + braid::detail::in_quotes(word) + suggestion(word, known) +
                       " (one of " + names + ")");
    }
    return word;
  }

  /// A model, as text or as a mapping.
  [[nodiscard]] model_reference model(yaml_value const& v) const {
    if (v.is_scalar()) {
      return at_place(v.at, [&] { return parse_model_reference(v.text); });
    }
    check_keys(v, model_keys, "a model");
    yaml_value const* const inner = v.find("model");
    if (inner == nullptr) { refuse(v.at, "a model must have the key 'model'"); }
    model_reference m{path(*inner)};
    if (yaml_value const* const lora = v.find("lora")) { m.lora = path(*lora); }
    if (yaml_value const* const arch = v.find("override_architecture")) {
      m.override_architecture = text(*arch, "override_architecture");
    }
    return m;
  }

 protected:
  explicit parser_base(std::string file) : file_(std::move(file)) {}

  [[nodiscard]] model_path path(yaml_value const& v) const {
    if (v.is_scalar()) {
      return at_place(v.at, [&] { return parse_model_path(v.text); });
    }
    check_keys(v, path_keys, "a model's path");
    yaml_value const* const p = v.find("path");
    if (p == nullptr || text(*p, "path").empty()) { refuse(v.at, "a model's path must have the key 'path'"); }
    yaml_value const* const revision = v.find("revision");
    return {p->text, revision == nullptr ? std::string() : text(*revision, "revision")};
  }

  std::string file_;
  std::vector<warning> warnings_;
};

}  // namespace recipe::detail
BRAID_NAMESPACE_END
