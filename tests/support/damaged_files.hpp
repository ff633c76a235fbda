#pragma once

/// Grouped checkpoints that somebody damaged, and what the reader says of them.

#include "support/catch.hpp"
#include "support/grouped_fixture.hpp"
#include "support/temp_dir.hpp"

#include <braid/io/grouped_checkpoint.hpp>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace braid_test {

/// Code and text of the error; 0 and nothing where the files are accepted.
inline std::pair<int, std::string> refusal(grouped_files const& f) {
  temp_dir dir;
  f.write(dir.path() / "g");
  try {
    braid::grouped_checkpoint const g(dir.path() / "g");
  } catch (braid::format_error const& e) { return {e.code(), e.what()}; }
  return {0, ""};
}

struct damage {
  braid::grouped_code code;
  char const* says;
  std::function<void(grouped_files&)> make;
};

/// Each damage alone, done to `good()`, is refused in one line with its code.
inline void check_refused(grouped_files (*good)(), std::vector<damage> const& all) {
  for (auto const& d : all) {
    auto f = good();
    d.make(f);
    auto const [code, text] = refusal(f);
    CAPTURE(d.says, text);
    CHECK(code == static_cast<int>(d.code));
    CHECK(text.find(d.says) != std::string::npos);
    CHECK(text.find('\n') == std::string::npos);
  }
}

}  // namespace braid_test
