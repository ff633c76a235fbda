#pragma once

namespace program {

/// While one lives, Ctrl-C and its like don't end the program at once, which would leave gigabytes of a hidden
/// directory behind: `check()` throws, and whoever writes cleans up. A second signal ends the program.
class interruption {
 public:
  interruption();
  interruption(interruption const&) = delete;
  interruption& operator=(interruption const&) = delete;
  ~interruption();

  /// @throws braid::error  after a signal
  static void check();
};

}  // namespace program
