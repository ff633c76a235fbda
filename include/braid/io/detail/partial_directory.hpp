#pragma once

#include <braid/io/check_output.hpp>

#include <atomic>
#include <cstdio>
#include <utility>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A directory that isn't there until it is whole: made under a hidden name beside its target, renamed when published.
/// If it is never published, nothing is left, not even the parents that were made for it.
class partial_directory {
 public:
  /// Makes the directory, and its parents.
  /// @param target an absolute path without links (`resolved`)
  explicit partial_directory(std::filesystem::path target) : target_(std::move(target)) {
    try {
      make_parents(target_.parent_path());
      path_ = make_sibling("partial");
    } catch (...) {
      remove_parents();
      throw;
    }
  }
  partial_directory(partial_directory const&) = delete;
  partial_directory& operator=(partial_directory const&) = delete;
  ~partial_directory() {
    if (published_) { return; }
    std::error_code ignored;
    try {
      std::filesystem::remove_all(path_, ignored);
    } catch (...) {  // out of memory; there is nobody to tell
    }
    remove_parents();
  }

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }
  [[nodiscard]] std::filesystem::path const& target() const noexcept { return target_; }

  /// Renames the directory to its target, durably. Until then the target is as it was, and stays so if this throws,
  /// unless the message says otherwise.
  /// @param overwrite  an existing target is replaced, and removed afterwards
  /// @param can_exchange  false: as on file systems that can't exchange two names in one step
  void publish(bool overwrite, bool can_exchange = true) {
    std::error_code ec;
    if (overwrite && std::filesystem::exists(target_, ec)) {
      replace(can_exchange);
    } else if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_NOREPLACE) != 0) {
      if (errno != EINVAL && errno != ENOSYS) { io_failure(target_, "renaming the finished directory", errno); }
      // No such flag on this file system. rename() replaces an empty directory, and nothing else.
      if (::rename(path_.c_str(), target_.c_str()) != 0) {
        io_failure(target_, "renaming the finished directory", errno);
      }
    }
    published_ = true;
    sync_directory(target_.parent_path());
    for (auto const& made : parents_) { sync_directory(made.parent_path()); }
    if (!replaced_.empty() && std::filesystem::remove_all(replaced_, ec) == static_cast<std::uintmax_t>(-1)) {
      throw io_error(target_.string() + ": is written and complete, but what it replaced is left in " +
                     replaced_.string() + " and couldn't be removed: " + ec.message());
    }
  }

 private:
  void make_parents(std::filesystem::path const& dir) {
    if (dir == dir.parent_path()) { return; }
    std::error_code ec;
    if (std::filesystem::is_directory(dir, ec)) { return; }
    make_parents(dir.parent_path());
    if (::mkdir(dir.c_str(), 0777) == 0) {
      parents_.push_back(dir);
    } else if (errno != EEXIST) {
      io_failure(dir, "creating the directory", errno);
    }
  }

  void remove_parents() noexcept {
    // Only if empty: somebody else may use them by now.
    for (auto it = parents_.rbegin(); it != parents_.rend(); ++it) { ::rmdir(it->c_str()); }
  }

  [[nodiscard]] std::filesystem::path sibling(char const* role) const {
    static std::atomic<unsigned> count{0};
    std::string const name = target_.filename().string().substr(0, 200);  // file names end at 255 bytes
    return target_.parent_path() /
           ("." + name + "." + role + "-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
  }

  [[nodiscard]] std::filesystem::path make_sibling(char const* role) const {
    for (;;) {
      auto p = sibling(role);
      if (::mkdir(p.c_str(), 0777) == 0) { return p; }
      if (errno != EEXIST) { io_failure(target_, "creating a directory beside it", errno); }
    }
  }

  void replace(bool can_exchange) {
    if (can_exchange) {
      if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
        replaced_ = path_;
        return;
      }
      if (errno != EINVAL && errno != ENOSYS) { io_failure(target_, "replacing the directory", errno); }
    }
    auto const aside = make_sibling("replaced");  // rename() replaces an empty directory
    if (::rename(target_.c_str(), aside.c_str()) != 0) {
      int const reason = errno;
      ::rmdir(aside.c_str());
      io_failure(target_, "moving the old directory aside", reason);
    }
    if (::rename(path_.c_str(), target_.c_str()) != 0) {
      int const reason = errno;
      if (::rename(aside.c_str(), target_.c_str()) != 0) {
        throw io_error(target_.string() + ": couldn't be replaced, and its old content is now in " + aside.string());
      }
      io_failure(target_, "renaming the finished directory", reason);
    }
    replaced_ = aside;
  }

  std::filesystem::path target_;
  std::filesystem::path path_;
  std::filesystem::path replaced_;              // what stood at the target, once published
  std::vector<std::filesystem::path> parents_;  // made here, outermost first
  bool published_ = false;
};

}  // namespace detail
BRAID_NAMESPACE_END
