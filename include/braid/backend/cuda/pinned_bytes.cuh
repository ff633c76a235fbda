#pragma once

#include <braid/backend/cuda/device_buffer.cuh>

#include <cstddef>
#include <utility>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Bytes of host memory that any device copies from and to at full speed, while the host goes on.
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
    void* p = nullptr;
    std::string const doing = "taking " + std::to_string(n) + " bytes of page-locked memory";
    check_cuda(cudaHostAlloc(&p, n, cudaHostAllocPortable), doing.c_str());
    data_ = static_cast<std::byte*>(p);
    size_ = n;
  }

  [[nodiscard]] std::byte* data() const noexcept { return data_; }

 private:
  void release() noexcept {
    if (data_ != nullptr) { (void)cudaFreeHost(data_); }
    data_ = nullptr;
    size_ = 0;
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace detail
BRAID_NAMESPACE_END
