#pragma once

/// A new directory for merged checkpoints, gone at the end.

#include <braid/core/error.hpp>

#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>

namespace zoo {

class scratch {
 public:
  scratch() {
    std::error_code problem;
    std::string name = (std::filesystem::temp_directory_path(problem) / "expert_zoo-XXXXXX").string();
    if (!problem && ::mkdtemp(name.data()) == nullptr) { problem = {errno, std::generic_category()}; }
    if (problem) {
      throw braid::io_error("no temporary directory (" + problem.message() +
                            "): set TMPDIR to a directory with room for a merged checkpoint");
    }
    path_ = name;
  }
  scratch(scratch const&) = delete;
  scratch& operator=(scratch const&) = delete;
  ~scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace zoo
