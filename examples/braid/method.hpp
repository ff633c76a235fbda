#pragma once

#include "arguments.hpp"
#include "pipelines.hpp"

namespace program {

/// What the options of `braid channel-merge` ask for.
struct chosen_method {
  merge_method method;
  std::string description;         ///< one line: policies and numbers
  std::vector<std::string> notes;  ///< options that were given and have no effect
};

/// Explicit options, else those of the preset, else the defaults.
/// @throws braid::argument_error  for an unknown name, listing the known ones, and for numbers that can't be meant
[[nodiscard]] chosen_method choose_method(merge_arguments const& args);

/// `--merge`, `--keep`, `--from-base` and `--channel-axis`.
/// @throws braid::argument_error  for a malformed one
[[nodiscard]] braid::selection choose_tensors(merge_arguments const& args);

/// Patterns that decide nothing: a misspelt one would otherwise go unnoticed.
/// @param names  of all tensors
[[nodiscard]] std::vector<std::string> idle_patterns(braid::selection const& tensors,
                                                     std::vector<std::string_view> const& names);

/// `--dtype`.
[[nodiscard]] std::optional<braid::dtype> choose_dtype(merge_arguments const& args);

/// `--expert`: opens every model under its name.
[[nodiscard]] std::vector<braid::checkpoint> open_experts(merge_arguments const& args);

}  // namespace program
