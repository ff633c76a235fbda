#pragma once

#include "keeper.hpp"

#include "../zoo_support/frontier_point.hpp"

#include <memory>
#include <string>

namespace zoo {

struct frontier_options {
  std::string points = "*";  ///< only points whose "FAMILY: NAME" matches
  std::uint64_t seed = 0;    ///< the first; where anything is random, four more follow
  prompt_range prompts{};
  bool through_files =
      false;            ///< merges go through a grouped checkpoint on disk instead of memory, where braid::run can
  std::string moments;  ///< a file of column weights; points with them are measured too, and its prompts never asked
};

/// Measures every point of the zoo at `dir`, each once, and prints them as they come.
frontier measure_frontier(std::string const& dir, frontier_options const& options);

}  // namespace zoo
