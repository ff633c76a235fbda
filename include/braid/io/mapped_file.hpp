#pragma once

#include <braid/io/detail/posix.hpp>

#include <filesystem>
#include <span>
#include <utility>

#include <sys/mman.h>

BRAID_NAMESPACE_BEGIN

/// A whole file, mapped read-only. Moves, doesn't copy. Reading pages that another process has cut off the file
/// since it was opened raises SIGBUS, as with every mapping: don't truncate checkpoints that are in use.
class mapped_file {
 public:
  mapped_file() = default;

  /// @throws io_error if it can't be opened or isn't a regular file
  explicit mapped_file(std::filesystem::path path) : path_(std::move(path)) {
    // Without O_NONBLOCK, opening a pipe would wait for a writer.
    detail::unique_fd const fd = detail::open_file(path_, O_RDONLY | O_NONBLOCK);
    size_ = static_cast<std::size_t>(detail::regular_file_size(fd.get(), path_));
    if (size_ == 0) { return; }  // an empty mapping is an error to the system
    void* const p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (p == MAP_FAILED) { detail::io_failure(path_, "mmap", errno); }
    data_ = static_cast<std::byte*>(p);
  }

  mapped_file(mapped_file&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    if (this != &other) {
      unmap();
      path_ = std::move(other.path_);
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  mapped_file(mapped_file const&) = delete;
  mapped_file& operator=(mapped_file const&) = delete;
  ~mapped_file() { unmap(); }

  [[nodiscard]] std::span<std::byte const> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }

  /// Takes the whole pages inside `[offset, offset + length)` out of the process's resident memory. They stay valid
  /// and are read again when touched. What lies outside the file is ignored.
  void release(std::uint64_t offset, std::uint64_t length) const noexcept {
    if (offset >= size_) { return; }
    std::uint64_t const end = length > size_ - offset ? size_ : offset + length;
    auto const page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    std::uint64_t const first = (offset + page - 1) / page * page;
    std::uint64_t const last = end == size_ ? end : end / page * page;  // nobody else has the rest of the last page
    if (first < last) { ::madvise(data_ + first, static_cast<std::size_t>(last - first), MADV_DONTNEED); }
  }

 private:
  void unmap() noexcept {
    if (data_ != nullptr) { ::munmap(data_, size_); }
    data_ = nullptr;
  }

  std::filesystem::path path_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

BRAID_NAMESPACE_END
