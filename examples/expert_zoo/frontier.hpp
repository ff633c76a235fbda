#pragma once

#include "keeper.hpp"

#include "../zoo_support/frontier_point.hpp"

#include <string>

namespace zoo {

struct frontier_options {
  std::string points = "*";  ///< only points whose "FAMILY: NAME" matches
  std::uint64_t seed = 0;    ///< the first; where anything is random, four more follow
  prompt_range prompts{};
  bool through_files = false;  ///< braid's own points go through a grouped checkpoint on disk instead of memory
};

/// Measures every point of the zoo at `dir`, each once, and prints them as they come.
frontier measure_frontier(std::string const& dir, frontier_options const& options);

}  // namespace zoo
