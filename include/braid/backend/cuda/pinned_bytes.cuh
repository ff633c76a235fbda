#pragma once

#include <braid/backend/cuda/device_buffer.cuh>
#include <braid/core/detail/free_ranges.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <new>
#include <utility>

#include <sys/mman.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A piece of page-locked memory that any device copies from and to at full speed, while the host goes on. Of large pages where
/// the system has them: locking takes time for every page, and cudaHostAlloc about half a millisecond for a megabyte.
class locked_memory {
 public:
  static constexpr std::size_t large_page = std::size_t{1} << 21;

  /// @param bytes  at least; whole large pages are taken
  /// @throws backend_error
  explicit locked_memory(std::size_t bytes) : size_((bytes + large_page - 1) / large_page * large_page) {
    std::string const doing = "taking " + std::to_string(size_) + " bytes of page-locked memory";
    check_cuda(cudaGetDevice(&device_), "cudaGetDevice");
    void* const p = ::mmap(nullptr, size_ + large_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) { check_cuda(cudaErrorMemoryAllocation, doing.c_str()); }
    std::byte* const whole = static_cast<std::byte*>(p);
    std::size_t const before = (large_page - reinterpret_cast<std::uintptr_t>(whole) % large_page) % large_page;
    data_ = whole + before;
    if (before != 0) { ::munmap(whole, before); }
    ::munmap(data_ + size_, large_page - before);  // what is left over is never nothing
    (void)::madvise(data_, size_, MADV_HUGEPAGE);
    for (std::size_t i = 0; i < size_; i += 4096) { data_[i] = std::byte{0}; }  // pages exist from here on
    cudaError_t const locked = cudaHostRegister(data_, size_, cudaHostRegisterPortable | cudaHostRegisterMapped);
    if (locked != cudaSuccess) {
      ::munmap(data_, size_);
      check_cuda(locked, doing.c_str());
    }
  }
  locked_memory(locked_memory const&) = delete;
  locked_memory& operator=(locked_memory const&) = delete;
  ~locked_memory() {
    // With the device that locked it, since another would be woken for that; and what fails must not fail the next call.
    int before = device_;
    if (cudaGetDevice(&before) == cudaSuccess && before != device_) { (void)cudaSetDevice(device_); }
    if (cudaHostUnregister(data_) != cudaSuccess) { (void)cudaGetLastError(); }
    if (before != device_) { (void)cudaSetDevice(before); }
    ::munmap(data_, size_);
  }

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::size_t size_;
  int device_ = 0;
  std::byte* data_ = nullptr;
};

/// The page-locked memory of the process, in few large pieces. Locking and unlocking takes longer than a small merge, and longer
/// the more devices there are, so pieces stay for the next who needs memory; up to `kept` bytes of them until the process ends.
class locked_pool {
 public:
  /// @param piece  bytes of a piece, unless more are asked for
  explicit locked_pool(std::size_t piece) : usual_piece_(piece) {}

  static constexpr std::size_t kept = std::size_t{256} << 20;

  /// Never destroyed, like the next: when the process ends, the runtime may be gone before static objects are.
  static locked_pool& of_process() {
    static locked_pool* const pool = new locked_pool(std::size_t{32} << 20);
    return *pool;
  }
  /// For a few numbers, which then neither wait for megabytes nor lie between blocks.
  static locked_pool& of_numbers() {
    static locked_pool* const pool = new locked_pool(locked_memory::large_page);
    return *pool;
  }

  /// Makes sure that `bytes` are free, with all threads of the host: pages have to be cleared.
  /// @throws backend_error
  template <class Executor>
  void reserve(Executor const& host, int device, std::size_t bytes) {
    std::size_t free = 0;
    {
      std::lock_guard const lock(mutex_);
      for (piece const& p : pieces_) { free += p.ranges.free_bytes(); }
    }
    if (free >= bytes) { return; }
    host.for_each(static_cast<std::ptrdiff_t>((bytes - free + usual_piece_ - 1) / usual_piece_), [&](auto) {
      current_device const current(device);
      std::list<piece> one;
      one.emplace_back(usual_piece_);
      std::lock_guard const lock(mutex_);
      pieces_.splice(pieces_.end(), one);
    });
  }

  /// Of the thread's current device, where some has to be locked.
  /// @throws backend_error
  [[nodiscard]] std::byte* take(std::size_t bytes) {
    bytes = rounded(bytes);
    std::lock_guard const lock(mutex_);
    for (piece& p : pieces_) {
      if (auto const at = p.ranges.take(bytes)) { return p.memory.data() + *at; }
    }
    piece& p = add(bytes);
    return p.memory.data() + *p.ranges.take(bytes);
  }

  /// @param bytes  as taken
  void give_back(std::byte* at, std::size_t bytes) noexcept {
    std::lock_guard const lock(mutex_);
    auto const its = std::find_if(pieces_.begin(), pieces_.end(), [&](piece const& p) {
      return std::less_equal<>()(p.memory.data(), at) && std::less<>()(at, p.memory.data() + p.memory.size());
    });
    try {
      its->ranges.give_back(static_cast<std::size_t>(at - its->memory.data()), rounded(bytes));
    } catch (std::bad_alloc const&) {  // then nobody gets it any more
    }
    if (its->ranges.free_bytes() < its->memory.size()) { return; }
    std::size_t all = 0;
    for (piece const& p : pieces_) { all += p.memory.size(); }
    if (all > kept) { pieces_.erase(its); }
  }

  /// Gives back what nobody has, down to `kept` bytes; at the end of a run.
  void trim() noexcept {
    std::lock_guard const lock(mutex_);
    std::size_t all = 0;
    for (piece const& p : pieces_) { all += p.memory.size(); }
    for (auto p = pieces_.begin(); p != pieces_.end() && all > kept;) {
      if (p->ranges.free_bytes() < p->memory.size()) {
        ++p;
        continue;
      }
      all -= p->memory.size();
      p = pieces_.erase(p);
    }
  }

 private:
  struct piece {
    locked_memory memory;
    free_ranges ranges;
    explicit piece(std::size_t bytes) : memory(bytes), ranges(memory.size()) {}
  };

  static std::size_t rounded(std::size_t bytes) noexcept { return (std::max<std::size_t>(bytes, 1) + 4095) / 4096 * 4096; }

  piece& add(std::size_t bytes) { return pieces_.emplace_back(std::max(bytes, usual_piece_)); }

  std::size_t usual_piece_;
  std::mutex mutex_;
  std::list<piece> pieces_;
};

/// Page-locked memory with an owner.
class pinned_bytes {
 public:
  explicit pinned_bytes(locked_pool& pool = locked_pool::of_process()) : pool_(&pool) {}
  pinned_bytes(pinned_bytes&& other) noexcept
      : pool_(other.pool_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  pinned_bytes& operator=(pinned_bytes&& other) noexcept {
    std::swap(pool_, other.pool_);
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
    data_ = pool_->take(n);
    size_ = n;
  }

  [[nodiscard]] std::byte* data() const noexcept { return data_; }

 private:
  void release() noexcept {
    if (data_ != nullptr) { pool_->give_back(data_, size_); }
    data_ = nullptr;
    size_ = 0;
  }

  locked_pool* pool_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace detail
BRAID_NAMESPACE_END
