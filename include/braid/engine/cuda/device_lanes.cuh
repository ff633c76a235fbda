#pragma once

/// How blocks reach devices: threads of the host take a lane each, copy a block into it, wait for the device, and copy the
/// result out. While one lane's rows are read, another's are on the bus, a third's in a kernel, a fourth's on their way back.

#include <braid/backend/cuda.cuh>
#include <braid/backend/cuda/pinned_bytes.cuh>

#include <condition_variable>
#include <mutex>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A way through a device for one block at a time: a stream, and memory on both sides that is used again.
struct device_lane {
  cuda be;
  pinned_bytes up;
  pinned_bytes down;
  device_buffer<std::byte> inputs;
  device_buffer<std::byte> results;

  explicit device_lane(int device) : be(device) {}

  /// Makes room for a block.
  void fit(std::size_t up_bytes, std::size_t down_bytes) {
    up.fit(up_bytes);
    down.fit(down_bytes);
    if (inputs.size() < up_bytes) {
      inputs = {};
      inputs = be.make_buffer<std::byte>(up_bytes);
    }
    if (results.size() < down_bytes) {
      results = {};
      results = be.make_buffer<std::byte>(down_bytes);
    }
  }
};

/// The lanes of all devices.
class device_lanes {
 public:
  /// @param count of all devices together
  device_lanes(std::vector<int> const& devices, std::size_t count) {
    lanes_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) { lanes_.emplace_back(devices[i % devices.size()]); }
    for (std::size_t i = count; i > 0; --i) { free_.push_back(&lanes_[i - 1]); }
  }

  /// A lane, until this goes.
  class taken {
   public:
    explicit taken(device_lanes& from) : from_(from), lane_(from.take()) {}
    taken(taken const&) = delete;
    taken& operator=(taken const&) = delete;
    ~taken() { from_.give_back(lane_); }
    [[nodiscard]] device_lane& operator*() const noexcept { return *lane_; }

   private:
    device_lanes& from_;
    device_lane* lane_;
  };

 private:
  device_lane* take() {
    std::unique_lock lock(mutex_);
    freed_.wait(lock, [&] { return !free_.empty(); });
    device_lane* const lane = free_.front();  // the one that has rested longest: devices take turns
    free_.erase(free_.begin());
    return lane;
  }
  void give_back(device_lane* lane) {
    {
      std::lock_guard const lock(mutex_);
      free_.push_back(lane);
    }
    freed_.notify_one();
  }

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
