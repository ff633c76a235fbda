#pragma once

#include "pipelines.hpp"

namespace program {

/// `--dry-run` of a channel merge: what happens to each tensor, and the bytes that the merge reads, writes at most, and
/// needs in memory. Reads no weights but those that may be tied.
/// @throws as the merge for models that can't be merged
void print_channel_plan(merge_job const& job, chosen_method const& chosen);

}  // namespace program
