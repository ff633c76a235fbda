#pragma once

#include <braid/core/error.hpp>
#include <braid/io/detail/text.hpp>

#include <optional>
#include <regex>
#include <string>
#include <string_view>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// Which tensors a setting is for.
///
/// | written          | matches                                                                             |
/// |------------------|-------------------------------------------------------------------------------------|
/// | nothing, `*`, "" | every tensor                                                                        |
/// | `re:PATTERN`     | names in which the ECMAScript regular expression is found; `^` and `$` tie it down  |
/// | else             | names that contain it, letter for letter                                            |
class name_filter {
 public:
  name_filter() = default;

  /// @throws argument_error where the regular expression is malformed
  explicit name_filter(std::string text) : text_(std::move(text)) {
    if (!text_.starts_with("re:")) { return; }
    try {
      pattern_.emplace(text_.substr(3), std::regex::ECMAScript | std::regex::optimize);
    } catch (std::regex_error const&) {
      throw argument_error(
          "the filter " + braid::detail::in_quotes(text_) +
          " isn't a regular expression (ECMAScript); write a filter without re: to match text as it is");
    }
  }

  [[nodiscard]] std::string const& text() const noexcept { return text_; }
  [[nodiscard]] bool matches_all() const noexcept { return text_.empty() || text_ == "*"; }

  [[nodiscard]] bool matches(std::string_view tensor) const {
    if (matches_all()) { return true; }
    if (pattern_) { return std::regex_search(tensor.begin(), tensor.end(), *pattern_); }
    return tensor.find(text_) != std::string_view::npos;
  }

 private:
  std::string text_;
  std::optional<std::regex> pattern_;
};

}  // namespace recipe
BRAID_NAMESPACE_END
