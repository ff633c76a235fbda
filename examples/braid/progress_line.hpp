#pragma once

#include <braid/engine/report.hpp>

#include <chrono>

namespace program {

/// Shows how far a merge is, on standard error: on a terminal in one line that is rewritten a few times a second and
/// gone at the end, elsewhere a line every ten seconds and one at the end.
class progress_line {
 public:
  progress_line();
  progress_line(progress_line const&) = delete;
  progress_line& operator=(progress_line const&) = delete;
  /// Leaves an empty line for whatever comes next, which may be an error.
  ~progress_line();

  void show(braid::progress const& p);

  /// The merge is complete.
  void finish(braid::report const& r);

 private:
  using clock = std::chrono::steady_clock;

  void clear();

  bool terminal_;
  bool shown_ = false;
  clock::time_point next_;
};

}  // namespace program
