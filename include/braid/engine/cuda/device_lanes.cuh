#pragma once

/// How blocks reach devices: threads of the host take a lane each, copy a block into it, and wait until the device has
/// merged it and copied the result to where it will be written from. While one lane's rows are read, another's are on the bus, a third's in a kernel, a fourth's on their way back.

#include <braid/backend/cuda.cuh>
#include <braid/backend/cuda/pinned_bytes.cuh>
#include <braid/engine/detail/block_stream.hpp>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A way through a device for one block at a time: a stream, and memory on both sides that is used again.
struct device_lane {
  cuda be;
  pinned_bytes here;
  device_buffer<std::byte> inputs;
  device_buffer<std::byte> results;

  explicit device_lane(int device) : be(device) {}

  /// Makes room for a block, and for others that are a little larger.
  void fit(std::size_t input_bytes, std::size_t result_bytes) {
    here.fit(input_bytes);
    fit(inputs, input_bytes);
    fit(results, result_bytes);
  }

 private:
  void fit(device_buffer<std::byte>& there, std::size_t bytes) const {
    if (there.size() >= bytes) { return; }
    there = {};
    there = be.make_buffer<std::byte>(in_large_pages(bytes));
  }
};

/// Page-locked memory for the results of blocks.
class pinned_memory final : public block_memory {
 public:
  [[nodiscard]] std::byte* take(std::size_t bytes) const override { return take_pinned(in_large_pages(bytes)); }
  void give_back(std::byte* at, std::size_t bytes) const noexcept override { give_back_pinned(at, in_large_pages(bytes)); }
};

/// While it lives, a device keeps memory that is given back to it for the next who takes some.
class kept_device_memory {
 public:
  explicit kept_device_memory(int device) {
    check_cuda(cudaDeviceGetDefaultMemPool(&pool_, device), "asking a device for its memory pool");
    check_cuda(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &before_), "asking a memory pool");
    std::uint64_t all = ~std::uint64_t{0};
    check_cuda(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &all), "setting up a memory pool");
  }
  kept_device_memory(kept_device_memory const&) = delete;
  kept_device_memory& operator=(kept_device_memory const&) = delete;
  ~kept_device_memory() {
    (void)cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &before_);
    (void)cudaMemPoolTrimTo(pool_, static_cast<std::size_t>(before_));
  }

 private:
  cudaMemPool_t pool_ = nullptr;
  std::uint64_t before_ = 0;
};

/// The lanes of all devices.
class device_lanes {
 public:
  /// @param count of all devices together
  device_lanes(std::vector<int> const& devices, std::size_t count) {
    for (int const d : devices) { memory_.push_back(std::make_unique<kept_device_memory>(d)); }
    lanes_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) { lanes_.emplace_back(devices[i % devices.size()]); }
    for (std::size_t i = count; i > 0; --i) { free_.push_back(&lanes_[i - 1]); }
  }

  device_lanes(device_lanes const&) = delete;
  device_lanes& operator=(device_lanes const&) = delete;
  ~device_lanes() {
    lanes_.clear();
    while (!memory_.empty()) { memory_.pop_back(); }  // backwards: of a device that is named twice, the first knows how it was
  }

  static constexpr int any_device = -1;

  /// A lane, until this goes.
  class taken {
   public:
    explicit taken(device_lanes& from, int device = any_device) : from_(from), lane_(from.take(device)) {}
    taken(taken const&) = delete;
    taken& operator=(taken const&) = delete;
    ~taken() {
      // What failed may have left copies under way, from and to memory that somebody else gets next.
      if (std::uncaught_exceptions() > failures_) { (void)cudaStreamSynchronize(lane_->be.stream()); }
      from_.give_back(lane_);
    }
    [[nodiscard]] device_lane& operator*() const noexcept { return *lane_; }

   private:
    device_lanes& from_;
    device_lane* lane_;
    int failures_ = std::uncaught_exceptions();
  };

 private:
  device_lane* take(int device) {
    std::unique_lock lock(mutex_);
    auto const fits = [&](device_lane const* l) { return device == any_device || l->be.device() == device; };
    auto found = free_.end();
    freed_.wait(lock, [&] {
      found = std::find_if(free_.begin(), free_.end(), fits);  // the one that has rested longest: devices take turns
      return found != free_.end();
    });
    device_lane* const lane = *found;
    free_.erase(found);
    return lane;
  }
  void give_back(device_lane* lane) {
    {
      std::lock_guard const lock(mutex_);
      free_.push_back(lane);
    }
    freed_.notify_all();  // not every lane is right for everybody
  }

  std::vector<std::unique_ptr<kept_device_memory>> memory_;
  std::vector<device_lane> lanes_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<device_lane*> free_;
};

/// Places in a piece of memory, one after the other, each aligned for copies.
class memory_layout {
 public:
  [[nodiscard]] std::size_t place(std::size_t bytes) noexcept {
    std::size_t const at = size_;
    size_ += (bytes + 255) / 256 * 256;
    return at;
  }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::size_t size_ = 0;
};

}  // namespace detail
BRAID_NAMESPACE_END
