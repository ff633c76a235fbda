#pragma once

#include "arguments.hpp"

#include <braid/engine/selection.hpp>
#include <braid/io/checkpoint.hpp>

namespace program {

/// The same with experts MODEL+ADAPTER split into models and adapters. Without a name an expert is called as its adapter is.
/// A directory of that name, with its plus sign, is a model.
[[nodiscard]] merge_arguments split_adapters(merge_arguments args);

/// `--expert`: opens every model under its name.
/// @throws braid::argument_error  for a bad name, or two of one name; others as `braid::checkpoint`
[[nodiscard]] std::vector<braid::checkpoint> open_experts(merge_arguments const& args);

/// `--merge`, `--keep`, `--from-base` and `--channel-axis`.
/// @throws braid::argument_error  for a malformed one
[[nodiscard]] braid::selection choose_tensors(merge_arguments const& args);

/// A note on each pattern that decides nothing: a misspelt one would otherwise go unnoticed.
/// @param names  of all tensors
[[nodiscard]] std::vector<std::string> idle_patterns(braid::selection const& tensors,
                                                     std::vector<std::string_view> const& names);

/// `--dtype`; nothing where it wasn't given.
/// @throws braid::argument_error  for an unknown one
[[nodiscard]] std::optional<braid::dtype> choose_dtype(merge_arguments const& args);

}  // namespace program
