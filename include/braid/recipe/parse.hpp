#pragma once

/// Reads recipes. Needs yaml-cpp: link braid::recipe.

#include <braid/io/detail/posix.hpp>
#include <braid/recipe/detail/structure_parser.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// Reads a recipe. A pure function of its text: no other file is touched.
/// @param text  YAML, one document
/// @param file  what messages call it
/// @return the recipe; `warnings` has what mergekit knows and doesn't use, and parameters of other methods
/// @throws argument_error "FILE:LINE:COLUMN: ...", where the text isn't YAML, a key or a parameter is unknown (with the
///         nearest known one), a value can't be meant, or inputs don't fit the method
[[nodiscard]] inline merge_recipe parse(std::string const& text, std::string file = "recipe") {
  detail::yaml_reader reader(file);
  detail::yaml_value const tree = reader.read(text);
  merge_recipe r = detail::structure_parser(std::move(file)).parse(tree);
  r.text = text;
  return r;
}

/// Reads a recipe from a file. Paths of models stay as they are written.
/// @throws io_error where the file can't be read; argument_error as `parse`
[[nodiscard]] inline merge_recipe parse_file(std::filesystem::path const& path) {
  return parse(braid::detail::read_text(path), path.string());
}

}  // namespace recipe
BRAID_NAMESPACE_END
