#pragma once

namespace program {

/// Exit status: fine, an error, a mistake in the command line. `braid diff` has diff(1)'s: equal, different, an error.
enum exit_status : int { success = 0, failure = 1, usage_error = 2 };

/// Parses the command line and runs the command that it names.
/// @param failed  set to the exit status that an exception thrown from here stands for
int run_command_line(int argc, char** argv, int& failed);

}  // namespace program
