#pragma once

#include <braid/serve/labelled_query.hpp>

#include <string>
#include <vector>

namespace program {

using query = braid::labelled_query<std::string>;

/// `--queries`: everything that the files have, in the order given; a directory's files by name.
/// @param arguments     NAME=PATH or PATH
/// @param need_experts  whether a JSON line without "expert" is an error
/// @throws braid::io_error  where a file can't be read, braid::argument_error  where it isn't of its layout or has no queries
[[nodiscard]] std::vector<query> read_queries(std::vector<std::string> const& arguments, bool need_experts);

}  // namespace program
