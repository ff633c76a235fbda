#pragma once

#include <braid/io/detail/posix.hpp>

#include <algorithm>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Bytes that wait on disk for their turn: a temporary file that has no name any more, so that it is gone when its owner
/// is, however the process ends.
class spool_file {
 public:
  /// @param directory  where there is room
  /// @param shown      what messages call it
  spool_file(std::filesystem::path const& directory, std::filesystem::path shown)
      : shown_(std::move(shown)), fd_(open_file(directory / ".spool", O_RDWR | O_CREAT | O_EXCL)) {
    if (::unlink((directory / ".spool").c_str()) != 0) { io_failure(shown_, "removing the name of a temporary file", errno); }
  }

  /// @throws io_error if the system refuses (a full disk)
  void append(std::span<std::byte const> data) {
    write_all(fd_.get(), data, size_, shown_);
    size_ += data.size();
  }

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  /// Gives `sink` the bytes `first .. first + count`, in pieces.
  /// @throws io_error if the system refuses
  template <class Sink>
  void read(std::uint64_t first, std::uint64_t count, Sink const& sink) const {
    std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(count, std::uint64_t{1} << 20)));
    for (std::uint64_t done = 0; done < count;) {
      auto const piece = std::span(buffer).first(static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), count - done)));
      if (read_some(fd_.get(), piece, first + done, shown_) != piece.size()) { io_failure(shown_, "read", EIO); }
      sink(std::span<std::byte const>(piece));
      done += piece.size();
    }
  }

 private:
  std::filesystem::path shown_;
  unique_fd fd_;
  std::uint64_t size_ = 0;
};

}  // namespace detail
BRAID_NAMESPACE_END
