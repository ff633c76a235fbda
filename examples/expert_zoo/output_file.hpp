#pragma once

/// Files that the user asks for with an option.

#include <braid/core/error.hpp>

#include <filesystem>
#include <fstream>
#include <string>

namespace zoo {

[[noreturn]] inline void refuse_file(std::string const& file, std::string const& option) {
  throw braid::io_error(file + ": can't be written; give " + option +
                        " a file in a directory that exists and is yours");
}

/// Throws now where `write_file` would throw later because of the directory. An empty name is fine.
inline void check_writable(std::string const& file, std::string const& option) {
  if (!file.empty() && !std::filesystem::is_directory(std::filesystem::absolute(file).parent_path())) {
    refuse_file(file, option);
  }
}

inline void write_file(std::string const& file, std::string const& option, std::string const& text) {
  std::ofstream out(file, std::ios::trunc | std::ios::binary);
  out << text;
  out.close();
  if (!out) { refuse_file(file, option); }
}

}  // namespace zoo
