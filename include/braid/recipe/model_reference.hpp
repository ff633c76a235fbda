#pragma once

#include <braid/core/error.hpp>
#include <braid/io/detail/text.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// A directory, or a repository's name on the Hugging Face Hub, and which of its revisions.
struct model_path {
  std::string path;
  std::string revision{};  // a branch, a tag or a commit; empty: main

  friend bool operator==(model_path const&, model_path const&) = default;
};

/// A model as recipes name it, with an adapter where there is one. Says nothing about where its files are:
/// `find_model`.
struct model_reference {
  model_path model;
  std::optional<model_path> lora{};
  std::string override_architecture{};  // of config.json's "architectures"; empty: as it stands there

  friend bool operator==(model_reference const&, model_reference const&) = default;
};

/// "path" or "path@revision".
[[nodiscard]] inline std::string to_text(model_path const& p) {
  return p.revision.empty() ? p.path : p.path + "@" + p.revision;
}

/// "path[@revision][+lora[@revision]]".
[[nodiscard]] inline std::string to_text(model_reference const& m) {
  return m.lora ? to_text(m.model) + "+" + to_text(*m.lora) : to_text(m.model);
}

/// Reads "path" or "path@revision".
/// @throws argument_error where there is no path, an empty revision, or more than one '@'
[[nodiscard]] inline model_path parse_model_path(std::string_view text) {
  auto const at = text.find('@');
  model_path p{std::string(text.substr(0, at)), {}};
  if (p.path.empty()) { throw argument_error("the model " + braid::detail::in_quotes(text) + " has no path"); }
  if (at == std::string_view::npos) { return p; }
  p.revision = text.substr(at + 1);
  if (p.revision.empty() || p.revision.find('@') != std::string::npos) {
    throw argument_error("the model " + braid::detail::in_quotes(text) +
                         " must have one revision after '@'; for a path with '@' in it write {model: {path: ...}}");
  }
  return p;
}

/// Reads "path[@revision][+lora[@revision]]".
/// @throws argument_error as `parse_model_path`, and where there is more than one '+'
[[nodiscard]] inline model_reference parse_model_reference(std::string_view text) {
  auto const plus = text.find('+');
  if (plus == std::string_view::npos) { return {parse_model_path(text)}; }
  if (text.find('+', plus + 1) != std::string_view::npos) {
    throw argument_error("the model " + braid::detail::in_quotes(text) +
                         " must have one adapter after '+'; for a path with '+' in it write {model: {path: ...}}");
  }
  return {parse_model_path(text.substr(0, plus)), parse_model_path(text.substr(plus + 1))};
}

}  // namespace recipe
BRAID_NAMESPACE_END
