#pragma once

#include <braid/core/error.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Throws io_error "PATH: ACTION failed: REASON; ADVICE".
[[noreturn]] inline void io_failure(std::filesystem::path const& path, std::string_view action, int reason) {
  std::string s = path.string();
  s += ": ";
  s += action;
  s += " failed: ";
  s += std::generic_category().message(reason);
  switch (reason) {
    case ENOSPC: s += "; free space on that disk, or write elsewhere"; break;
    case EDQUOT: s += "; free space in your quota, or write elsewhere"; break;
    case EFBIG: s += "; raise the limit on file sizes (ulimit -f), or write smaller shards"; break;
    case EACCES:
    case EPERM: s += "; check the permissions of the file and of the directories above it"; break;
    case EROFS: s += "; write to another disk"; break;
    case EMFILE:
    case ENFILE: s += "; raise the limit on open files (ulimit -n)"; break;
    case ENOENT: s += "; check the path"; break;
    case ENOTDIR: s += "; a file stands where a directory is needed"; break;
    case EBUSY: s += "; it is in use or a mount point: choose a directory inside it"; break;
    case EIO: s += "; the disk reports an error"; break;
    default: break;
  }
  throw io_error(s);
}

/// Owns a file descriptor.
class unique_fd {
 public:
  unique_fd() = default;
  explicit unique_fd(int fd) noexcept : fd_(fd) {}
  unique_fd(unique_fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  unique_fd& operator=(unique_fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = other.fd_;
      other.fd_ = -1;
    }
    return *this;
  }
  unique_fd(unique_fd const&) = delete;
  unique_fd& operator=(unique_fd const&) = delete;
  ~unique_fd() { reset(); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }

  void reset() noexcept {
    if (fd_ >= 0) { ::close(fd_); }
    fd_ = -1;
  }

  /// Closes and reports what the file system held back until now. The descriptor is gone in any case.
  void close(std::filesystem::path const& path) {
    int const fd = fd_;
    fd_ = -1;
    if (fd >= 0 && ::close(fd) != 0 && errno != EINTR) { io_failure(path, "close", errno); }
  }

 private:
  int fd_ = -1;
};

inline unique_fd open_file(std::filesystem::path const& path, int flags) {
  for (;;) {
    int const fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    if (fd >= 0) { return unique_fd(fd); }
    if (errno != EINTR) { io_failure(path, (flags & O_CREAT) != 0 ? "create" : "open", errno); }
  }
}

/// Writes all of `data` at `offset`, through short writes and signals.
inline void write_all(int fd, std::span<std::byte const> data, std::uint64_t offset,
                      std::filesystem::path const& path) {
  while (!data.empty()) {
    ssize_t const n = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) { continue; }
      io_failure(path, "write", errno);
    }
    if (n == 0) { io_failure(path, "write", ENOSPC); }
    data = data.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

/// Reads up to `room.size()` bytes at `offset`, fewer only at the end of the file.
inline std::size_t read_some(int fd, std::span<std::byte> room, std::uint64_t offset,
                             std::filesystem::path const& path) {
  std::size_t done = 0;
  while (done < room.size()) {
    ssize_t const n = ::pread(fd, room.data() + done, room.size() - done, static_cast<off_t>(offset + done));
    if (n < 0) {
      if (errno == EINTR) { continue; }
      io_failure(path, "read", errno);
    }
    if (n == 0) { break; }
    done += static_cast<std::size_t>(n);
  }
  return done;
}

/// Size of an open regular file; anything else is an error.
inline std::uint64_t regular_file_size(int fd, std::filesystem::path const& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) { io_failure(path, "stat", errno); }
  if (!S_ISREG(info.st_mode)) { throw io_error(path.string() + ": isn't a regular file"); }
  return static_cast<std::uint64_t>(info.st_size);
}

inline void sync_file(int fd, std::filesystem::path const& path) {
  while (::fsync(fd) != 0) {
    if (errno == EINTR) { continue; }
    if (errno == EINVAL) { return; }  // a file system without fsync for this kind of file
    io_failure(path, "fsync", errno);
  }
}

/// Makes the names inside a directory durable.
inline void sync_directory(std::filesystem::path const& path) {
  unique_fd const fd = open_file(path, O_RDONLY | O_DIRECTORY);
  sync_file(fd.get(), path);
}

/// A whole small file.
inline std::string read_text(std::filesystem::path const& path) {
  unique_fd const fd = open_file(path, O_RDONLY);
  std::string text(static_cast<std::size_t>(regular_file_size(fd.get(), path)), '\0');
  text.resize(read_some(fd.get(), std::as_writable_bytes(std::span(text)), 0, path));
  return text;
}

}  // namespace detail
BRAID_NAMESPACE_END
