#pragma once

#include <braid/io/detail/posix.hpp>
#include <braid/io/detail/text.hpp>
#include <braid/io/format_code.hpp>

#include <filesystem>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Parses the text of a JSON object that people may have edited.
/// @param where the file, for messages
/// @param code of the format_error that is thrown where the text isn't JSON, isn't an object, nests deeper than
///        100 levels, or has a key twice in one object
inline nlohmann::json parse_json(std::string const& text, std::filesystem::path const& where, format_code code) {
  using event = nlohmann::json::parse_event_t;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  auto const watch = [&](int depth, event what, nlohmann::json& value) {
    switch (what) {
      case event::object_start: keys.emplace_back(); break;
      case event::object_end: keys.pop_back(); break;
      case event::key:
        if (!keys.back().insert(value.get_ref<std::string const&>()).second) {
          refuse(code, where, "has the key " + in_quotes(value.get_ref<std::string const&>()) + " twice in one object");
        }
        break;
      default: break;
    }
    if (depth > 100) { refuse(code, where, "nests deeper than 100 levels"); }
    return true;
  };
  // The parser takes a zero byte for the end of its input.
  if (std::size_t const zero = text.find('\0'); zero != std::string::npos) {
    refuse(code, where, "isn't valid JSON (a zero byte at byte " + std::to_string(zero + 1) + ")");
  }
  try {
    nlohmann::json value = nlohmann::json::parse(text, watch);
    if (!value.is_object()) { refuse(code, where, "must be a JSON object"); }
    return value;
  } catch (nlohmann::json::parse_error const& e) {
    refuse(code, where, "isn't valid JSON (at byte " + std::to_string(e.byte) + ")");
  } catch (nlohmann::json::exception const&) { refuse(code, where, "isn't valid JSON (a number out of range)"); }
}

inline nlohmann::json read_json(std::filesystem::path const& path, format_code code) {
  return parse_json(read_text(path), path, code);
}

}  // namespace detail
BRAID_NAMESPACE_END
