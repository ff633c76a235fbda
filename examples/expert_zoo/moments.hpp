#pragma once

#include <filesystem>
#include <string>

namespace zoo {

/// Lets each expert answer the last prompts of its own task and writes the second moments of the inputs of every merged
/// weight, averaged over the experts, to `file`.
/// @param prompts of each task
void write_input_moments(std::string const& dir, std::string const& file, int prompts);

}  // namespace zoo
