#pragma once

/// YAML text as a plain tree in which every value knows its line and column: the one place that knows yaml-cpp.

#include <braid/core/error.hpp>
#include <braid/io/detail/text.hpp>
#include <braid/recipe/place.hpp>

#include <cstddef>
#include <sstream>
#include <utility>
#include <vector>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

struct yaml_entry;

struct yaml_value {
  enum class kind_type : unsigned char { null, scalar, list, map };
  kind_type kind = kind_type::null;
  std::string text{};  // of a scalar, without quotes
  place at{};
  std::vector<yaml_value> items{};  // of a list
  std::vector<yaml_entry> entries;  // of a map, in the order of the text

  [[nodiscard]] bool is_null() const noexcept { return kind == kind_type::null; }
  [[nodiscard]] bool is_scalar() const noexcept { return kind == kind_type::scalar; }
  [[nodiscard]] bool is_list() const noexcept { return kind == kind_type::list; }
  [[nodiscard]] bool is_map() const noexcept { return kind == kind_type::map; }

  /// nullptr where the map has no such key, or a null under it: YAML writes "not set" in both ways.
  [[nodiscard]] yaml_value const* find(std::string_view key) const noexcept;
};

struct yaml_entry {
  std::string key;
  place at;
  yaml_value value;
};

inline yaml_value const* yaml_value::find(std::string_view key) const noexcept {
  for (yaml_entry const& e : entries) {
    if (e.key == key) { return e.value.is_null() ? nullptr : &e.value; }
  }
  return nullptr;
}

/// What a value is, for messages.
[[nodiscard]] inline std::string_view kind_name(yaml_value const& v) noexcept {
  switch (v.kind) {
    case yaml_value::kind_type::null: return "nothing";
    case yaml_value::kind_type::scalar: return "a single value";
    case yaml_value::kind_type::list: return "a list";
    case yaml_value::kind_type::map: break;
  }
  return "a mapping";
}

/// Turns yaml-cpp's nodes into the tree. Aliases are copied, "<<" is merged in (own keys first, then the earlier
/// mapping).
class yaml_reader {
 public:
  explicit yaml_reader(std::string file) : file_(std::move(file)) {}

  [[noreturn]] void refuse(place at, std::string const& what) const {
    throw argument_error(recipe::to_text(file_, at) + ": " + what);
  }

  /// @throws argument_error with line and column, for what isn't YAML, and for anything but one document
  [[nodiscard]] yaml_value read(std::string const& source) {
    YAML::Node document;
    try {
      check_documents(source);
      document = YAML::Load(source);
    } catch (YAML::Exception const& e) {
      refuse(e.mark.is_null() ? place{} : place_of(e.mark), "isn't valid YAML (" + e.msg + ")");
    }
    if (document.IsNull()) { refuse({}, "is empty; a recipe is a mapping with merge_method in it"); }
    return convert(document, 0);
  }

 private:
  /// Where documents begin; all else is passed by.
  struct document_starts final : YAML::EventHandler {
    std::vector<YAML::Mark> starts;
    void OnDocumentStart(YAML::Mark const& mark) override { starts.push_back(mark); }
    void OnDocumentEnd() override {}
    void OnNull(YAML::Mark const&, YAML::anchor_t) override {}
    void OnAlias(YAML::Mark const&, YAML::anchor_t) override {}
    void OnScalar(YAML::Mark const&, std::string const&, YAML::anchor_t, std::string const&) override {}
    void OnSequenceStart(YAML::Mark const&, std::string const&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(YAML::Mark const&, std::string const&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
  };

  /// Not YAML::LoadAll, which makes documents without end of a text such as ",a".
  void check_documents(std::string const& source) const {
    std::istringstream in(source);
    YAML::Parser parser(in);
    document_starts seen;
    while (seen.starts.size() < 2 && parser.HandleNextDocument(seen)) {}
    if (seen.starts.size() < 2) { return; }
    if (seen.starts[1].pos == seen.starts[0].pos) {
      refuse(place_of(seen.starts[0]), "isn't valid YAML (unexpected character)");
    }
    refuse(place_of(seen.starts[1]), "a second document begins here; write one recipe a file");
  }

  static place place_of(YAML::Mark const& mark) {
    return mark.is_null() ? place{} : place{mark.line + 1, mark.column + 1};
  }

  yaml_value convert(YAML::Node const& n, int depth) {
    yaml_value v;
    v.at = place_of(n.Mark());
    // Aliases may refer to what they are in, or multiply: both end here.
    if (depth > 40) { refuse(v.at, "nests deeper than 40 levels"); }
    if (++values_ > 100'000) { refuse(v.at, "has more than 100000 values, aliases counted where they are used"); }
    switch (n.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null: break;
      case YAML::NodeType::Scalar:
        v.kind = yaml_value::kind_type::scalar;
        v.text = n.Scalar();
        break;
      case YAML::NodeType::Sequence:
        v.kind = yaml_value::kind_type::list;
        for (YAML::Node const& item : n) { v.items.push_back(convert(item, depth + 1)); }
        break;
      case YAML::NodeType::Map: convert_map(n, depth, v); break;
    }
    return v;
  }

  void convert_map(YAML::Node const& n, int depth, yaml_value& v) {
    v.kind = yaml_value::kind_type::map;
    std::vector<yaml_value> merged;
    for (auto const& pair : n) {
      place const at = place_of(pair.first.Mark());
      if (!pair.first.IsScalar()) { refuse(at, "a key must be a name"); }
      std::string const& key = pair.first.Scalar();
      yaml_value value = convert(pair.second, depth + 1);
      if (key == "<<") {
        if (value.is_list()) {
          for (yaml_value& item : value.items) { merged.push_back(std::move(item)); }
        } else {
          merged.push_back(std::move(value));
        }
        continue;
      }
      if (has(v, key)) { refuse(at, "the key " + braid::detail::in_quotes(key) + " is there twice"); }
      v.entries.push_back({key, at, std::move(value)});
    }
    for (yaml_value& m : merged) {
      if (!m.is_map()) { refuse(m.at, "'<<' needs a mapping, this is " + std::string(kind_name(m))); }
      for (yaml_entry& e : m.entries) {
        if (!has(v, e.key)) { v.entries.push_back(std::move(e)); }
      }
    }
  }

  static bool has(yaml_value const& v, std::string_view key) noexcept {
    for (yaml_entry const& e : v.entries) {
      if (e.key == key) { return true; }
    }
    return false;
  }

  std::string file_;
  std::size_t values_ = 0;
};

}  // namespace recipe::detail
BRAID_NAMESPACE_END
