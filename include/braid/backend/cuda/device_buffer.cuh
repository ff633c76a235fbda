#pragma once

/// Errors of the CUDA runtime, and memory in the order of a stream.

#include <braid/backend/cuda/kernel.cuh>
#include <braid/core/error.hpp>

#include <memory>
#include <string>
#include <utility>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// @throws backend_error unless `status` is success
inline void check_cuda(cudaError_t status, char const* doing) {
  if (status == cudaSuccess) { return; }
  (void)cudaGetLastError();  // a failed call must not fail the next one too
  throw backend_error("braid::cuda: " + std::string(doing) + ": " + cudaGetErrorString(status) + " (" +
                      cudaGetErrorName(status) + ")");
}

/// Makes a device the current one of this thread, and gives the old one back.
class current_device {
 public:
  explicit current_device(int device) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device) { check_cuda(cudaSetDevice(device), "cudaSetDevice"); }
    changed_ = before_ != device;
  }
  current_device(current_device const&) = delete;
  current_device& operator=(current_device const&) = delete;
  ~current_device() {
    if (changed_) { (void)cudaSetDevice(before_); }
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

/// A stream, destroyed with its last user if it was made here.
struct device_stream {
  int device = 0;
  cudaStream_t stream = nullptr;
  bool owned = false;

  device_stream(int d, cudaStream_t s, bool o) noexcept : device(d), stream(s), owned(o) {}
  device_stream(device_stream const&) = delete;
  device_stream& operator=(device_stream const&) = delete;
  ~device_stream() {
    if (owned) { (void)cudaStreamDestroy(stream); }
  }
};

}  // namespace detail

/// `size()` elements of device memory, uninitialised. Taken and given back in the order of a stream, so it may go while
/// work that uses it is still queued there.
template <class T>
class device_buffer {
 public:
  device_buffer() = default;

  /// @throws backend_error where the device has too little memory
  device_buffer(std::shared_ptr<detail::device_stream const> on, std::size_t n) : on_(std::move(on)), size_(n) {
    if (n == 0) { return; }
    detail::current_device const current(on_->device);
    void* p = nullptr;
    std::string const doing = "taking " + std::to_string(n * sizeof(T)) + " bytes of device memory";
    detail::check_cuda(cudaMallocAsync(&p, n * sizeof(T), on_->stream), doing.c_str());
    data_ = static_cast<T*>(p);
  }
  device_buffer(device_buffer&& other) noexcept
      : on_(std::move(other.on_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  device_buffer& operator=(device_buffer&& other) noexcept {
    std::swap(on_, other.on_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  device_buffer(device_buffer const&) = delete;
  device_buffer& operator=(device_buffer const&) = delete;
  ~device_buffer() {
    if (data_ == nullptr) { return; }
    int before = on_->device;  // of this thread, which may work on another device
    if (cudaGetDevice(&before) == cudaSuccess && before != on_->device) { (void)cudaSetDevice(on_->device); }
    (void)cudaFreeAsync(data_, on_->stream);
    if (before != on_->device) { (void)cudaSetDevice(before); }
  }

  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::shared_ptr<detail::device_stream const> on_;
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

BRAID_NAMESPACE_END
