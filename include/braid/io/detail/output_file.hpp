#pragma once

#include <braid/io/detail/posix.hpp>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/vfs.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A file that many threads fill at once.
///
/// pwrite() holds a lock of the file, so that one thread writes at a time, whatever their number; on a disk that is fast
/// enough, in a tmpfs it is what a merge waits for. In a tmpfs room is therefore reserved in pieces, which all threads fill
/// at once through a mapping. As the room is there, no page of the mapping can be without memory (SIGBUS). A piece that
/// can't be reserved, and everything on other file systems, is written with pwrite(), which says what is wrong if it is.
class output_file {
 public:
  struct options {
    std::optional<bool> mapped = {};      // none: in a tmpfs
    std::optional<std::uint64_t> piece = {};  // bytes reserved at a time, a multiple of pages; none: chosen
    std::optional<std::size_t> ahead = {};    // how many pieces ahead of the one that is filled, at least 1; none: chosen
  };

  /// @param most_bytes  the file will not be larger; what is written beyond it is not mapped
  /// @param shown       what messages call it
  output_file(unique_fd fd, std::uint64_t most_bytes, std::filesystem::path shown, options o)
      : shown_(std::move(shown)), fd_(std::move(fd)), most_(most_bytes) {
    struct stat info {};
    large_pages_ = ::fstat(fd_.get(), &info) == 0 && static_cast<std::uint64_t>(info.st_blksize) == large_page;
    // Small pages are worth reserving many at a time; large ones are so fast to reserve that threads should share little.
    piece_ = o.piece.value_or(large_pages_ ? large_page : 16 * large_page);
    // Clearing a large page takes longer than filling a part of it: it is done before any thread gets there.
    ahead_ = o.ahead.value_or(large_pages_ ? 16 : 1);
    if (most_ == 0 || !(o.mapped ? *o.mapped : is_in_memory())) { return; }
    pieces_ = std::vector<piece>(static_cast<std::size_t>((most_ + piece_ - 1) / piece_));  // may fail, and nobody would unmap
    void* const at = ::mmap(nullptr, static_cast<std::size_t>(most_), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (at == MAP_FAILED) { return; }
    map_ = static_cast<std::byte*>(at);
  }
  output_file(unique_fd fd, std::uint64_t most_bytes, std::filesystem::path shown)
      : output_file(std::move(fd), most_bytes, std::move(shown), options{}) {}
  output_file(output_file const&) = delete;
  output_file& operator=(output_file const&) = delete;
  ~output_file() { unmap(); }

  /// Any order, any thread; every byte once.
  /// @throws io_error if the system refuses (a full disk)
  void write(std::uint64_t offset, std::span<std::byte const> data) {
    while (map_ != nullptr && !data.empty() && offset < most_) {
      auto const number = static_cast<std::size_t>(offset / piece_);
      std::uint64_t const in_piece = size_of_piece(number) - (offset - number * piece_);
      auto const part = data.first(static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), in_piece)));
      if (!fill(number, offset, part)) { write_all(fd_.get(), part, offset, shown_); }
      offset += part.size();
      data = data.subspan(part.size());
    }
    write_all(fd_.get(), data, offset, shown_);
  }

  /// Gives the file its size, makes it durable and closes it. After all writes.
  void finish(std::uint64_t size) {
    unmap();
    while (reserved_ && ::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) {
      if (errno != EINTR) { io_failure(shown_, "cutting off reserved room", errno); }
    }
    sync_file(fd_.get(), shown_);
    fd_.close(shown_);
  }

 private:
  static constexpr std::uint64_t large_page = std::uint64_t{1} << 21;
  static constexpr std::size_t worth_populating = std::size_t{1} << 16;

  struct piece {
    std::mutex mutex;
    bool tried = false;         // to reserve it
    bool reserved = false;
    bool used = false;          // somebody has brought bytes
    std::uint64_t missing = 0;  // bytes
  };

  [[nodiscard]] bool is_in_memory() const noexcept {
    constexpr long tmpfs_magic = 0x01021994;
    struct statfs info {};
    return ::fstatfs(fd_.get(), &info) == 0 && static_cast<long>(info.f_type) == tmpfs_magic;
  }

  [[nodiscard]] std::uint64_t size_of_piece(std::size_t number) const noexcept { return std::min(piece_, most_ - number * piece_); }

  /// Copies into a reserved piece. @return false where it isn't: nothing was written then
  [[nodiscard]] bool fill(std::size_t number, std::uint64_t offset, std::span<std::byte const> data) {
    piece& p = pieces_[number];
    bool first = false;
    bool filled = false;
    {
      std::lock_guard const lock(p.mutex);
      first = !std::exchange(p.used, true);
      filled = reserve(number);
    }
    filled = filled && (data.size() < worth_populating || populate(map_ + offset, data.size()));
    if (filled) {
      std::memcpy(map_ + offset, data.data(), data.size());
      std::lock_guard const lock(p.mutex);
      p.missing -= std::min<std::uint64_t>(p.missing, data.size());
      // Whoever still writes would get his pages again.
      if (p.missing == 0) { ::madvise(map_ + number * piece_, static_cast<std::size_t>(size_of_piece(number)), MADV_DONTNEED); }
    }
    if (first && number + ahead_ < pieces_.size()) { prepare(number + ahead_); }
    return filled;
  }

  /// Ahead of those who will need it.
  void prepare(std::size_t number) {
    {
      std::lock_guard const lock(pieces_[number].mutex);
      if (pieces_[number].used || !reserve(number)) { return; }
    }
    if (large_pages_) { (void)populate(map_ + number * piece_, static_cast<std::size_t>(size_of_piece(number))); }
  }

  /// Reserves a piece, once. With its mutex.
  bool reserve(std::size_t number) {
    piece& p = pieces_[number];
    if (std::exchange(p.tried, true)) { return p.reserved; }
    std::uint64_t const first = number * piece_;
    std::uint64_t const size = size_of_piece(number);
    rlimit limit{};
    // Beyond the limit the process would be ended, though the file may never get that large.
    if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur < first + size) { return false; }
    // A signal makes a tmpfs begin again from nothing, so that a timer could do so for ever.
    int failed = -1;
    for (int tries = 0; failed != 0 && tries < 8; ++tries) {
      failed = ::fallocate(fd_.get(), 0, static_cast<off_t>(first), static_cast<off_t>(size));
      if (failed != 0 && errno != EINTR) { break; }
    }
    if (failed != 0) { return false; }
    reserved_ = true;
    p.reserved = true;
    p.missing = size;
    return true;
  }

  /// Pages at once instead of one exception each; a system that can't makes them one by one.
  /// @return false where they can't be had
  [[nodiscard]] static bool populate(std::byte* at, std::size_t size) noexcept {
    constexpr int madv_populate_write = 23;  // Linux 5.14; the headers may be older
    auto const page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    auto const address = reinterpret_cast<std::uintptr_t>(at);
    std::uintptr_t const first = address / page * page;
    std::uintptr_t const last = (address + size + page - 1) / page * page;
    return ::madvise(reinterpret_cast<void*>(first), last - first, madv_populate_write) == 0 || errno == EINVAL;
  }

  void unmap() noexcept {
    if (map_ != nullptr) { ::munmap(map_, static_cast<std::size_t>(most_)); }
    map_ = nullptr;
  }

  std::filesystem::path shown_;
  unique_fd fd_;
  std::uint64_t most_;
  std::uint64_t piece_ = 0;
  std::size_t ahead_ = 1;
  bool large_pages_ = false;
  std::byte* map_ = nullptr;
  std::atomic<bool> reserved_{false};
  std::vector<piece> pieces_;
};

}  // namespace detail
BRAID_NAMESPACE_END
