#pragma once

#include <braid/engine/report.hpp>

#include <chrono>

namespace program {

/// Shows how far a merge is, on standard error: on a terminal in one line that is rewritten a few times a second and
/// gone at the end, elsewhere a line every ten seconds and one at the end.
class progress_line {
 public:
  /// @param notes  shown once the merge is on its way: what is refused has one line, its error
  explicit progress_line(std::vector<std::string> notes);
  progress_line(progress_line const&) = delete;
  progress_line& operator=(progress_line const&) = delete;
  /// Leaves an empty line for whatever comes next, which may be an error.
  ~progress_line();

  void show(braid::progress const& p);

  /// The merge is complete.
  void finish(braid::report const& r);

 private:
  using clock = std::chrono::steady_clock;

  void show_notes();
  void clear();

  std::vector<std::string> notes_;
  bool terminal_;
  bool shown_ = false;
  clock::time_point next_;
};

}  // namespace program
