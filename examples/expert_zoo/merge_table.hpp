#pragma once

#include "keeper.hpp"

#include <string>

namespace zoo {

struct table_options {
  std::string rows = "*";  ///< only rows whose names match
  std::uint64_t seed = 0;  ///< for random pruning and random groups
  prompt_range prompts{};
};

/// Merges the zoo at `dir` in several ways, prints a row for each, and writes the same to `json` unless that is empty.
void print_merge_table(std::string const& dir, table_options const& options, std::string const& json);

}  // namespace zoo
