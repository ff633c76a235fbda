#pragma once

#include <braid/backend/cuda/device_buffer.cuh>

#include <cstddef>
#include <cstdint>
#include <utility>

#include <sys/mman.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Large pages; `pinned_bytes` are multiples of them.
inline constexpr std::size_t large_page = std::size_t{1} << 21;
inline std::size_t in_large_pages(std::size_t bytes) noexcept { return (bytes + large_page - 1) / large_page * large_page; }

/// Page-locked memory that any device copies from and to at full speed, while the host goes on. Of large pages where the
/// system has them: locking takes time for every page, and cudaHostAlloc about half a millisecond for a megabyte.
/// @param bytes  whole large pages
/// @throws backend_error
inline std::byte* take_pinned(std::size_t bytes) {
  std::string const doing = "taking " + std::to_string(bytes) + " bytes of page-locked memory";
  void* const p = ::mmap(nullptr, bytes + large_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) { check_cuda(cudaErrorMemoryAllocation, doing.c_str()); }
  std::byte* const whole = static_cast<std::byte*>(p);
  std::size_t const before = (large_page - reinterpret_cast<std::uintptr_t>(whole) % large_page) % large_page;
  std::byte* const at = whole + before;
  if (before != 0) { ::munmap(whole, before); }
  ::munmap(at + bytes, large_page - before);  // what is left over is never nothing
  (void)::madvise(at, bytes, MADV_HUGEPAGE);
  for (std::size_t i = 0; i < bytes; i += 4096) { at[i] = std::byte{0}; }  // pages exist from here on
  cudaError_t const locked = cudaHostRegister(at, bytes, cudaHostRegisterPortable);
  if (locked != cudaSuccess) {
    ::munmap(at, bytes);
    check_cuda(locked, doing.c_str());
  }
  return at;
}
inline void give_back_pinned(std::byte* at, std::size_t bytes) noexcept {
  (void)cudaHostUnregister(at);
  ::munmap(at, bytes);
}

/// Such memory with an owner.
class pinned_bytes {
 public:
  pinned_bytes() = default;
  pinned_bytes(pinned_bytes&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  pinned_bytes& operator=(pinned_bytes&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  pinned_bytes(pinned_bytes const&) = delete;
  pinned_bytes& operator=(pinned_bytes const&) = delete;
  ~pinned_bytes() { release(); }

  /// Makes room; what was there is lost if there was less.
  /// @throws backend_error
  void fit(std::size_t n) {
    if (n <= size_) { return; }
    release();
    data_ = take_pinned(in_large_pages(n));
    size_ = in_large_pages(n);
  }

  [[nodiscard]] std::byte* data() const noexcept { return data_; }

 private:
  void release() noexcept {
    if (data_ != nullptr) { give_back_pinned(data_, size_); }
    data_ = nullptr;
    size_ = 0;
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace detail
BRAID_NAMESPACE_END
