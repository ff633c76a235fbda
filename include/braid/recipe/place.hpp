#pragma once

#include <braid/config.hpp>

#include <string>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// Where something stands in the text of a recipe. Both count from 1; 0: nowhere, it is a default.
struct place {
  int line = 0;
  int column = 0;

  friend bool operator==(place const&, place const&) = default;
};

/// Something that deserves a word but stops nothing.
struct warning {
  place at;
  std::string text;
};

/// "FILE:LINE:COLUMN", as compilers write it, so that editors jump there.
[[nodiscard]] inline std::string to_text(std::string const& file, place at) {
  return at.line == 0 ? file : file + ":" + std::to_string(at.line) + ":" + std::to_string(at.column);
}

}  // namespace recipe
BRAID_NAMESPACE_END
