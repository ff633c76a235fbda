#pragma once

/// What this process has in memory.

#include <cstdint>
#include <fstream>
#include <string>

namespace zoo {

/// Bytes, as Linux counts them.
struct resident {
  std::uint64_t file = 0;       ///< mapped files, the program among them: shared with everybody who maps them
  std::uint64_t anonymous = 0;  ///< its own
};

/// All zero where there is no /proc.
inline resident resident_memory() {
  resident r;
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    auto const kib = [&](char const* field, std::uint64_t& bytes) {
      if (line.starts_with(field)) { bytes = std::stoull(line.substr(line.find(':') + 1)) * 1024; }
    };
    kib("RssFile:", r.file);
    kib("RssAnon:", r.anonymous);
  }
  return r;
}

}  // namespace zoo
