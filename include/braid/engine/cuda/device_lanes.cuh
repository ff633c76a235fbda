#pragma once

/// How blocks reach devices: a block takes a lane, is copied into it by a thread of the host, and leaves it when the device has
/// merged it and copied the result to where it will be written from. While one lane's rows are read, another's are on the bus, a
/// third's in a kernel, a fourth's on their way back; no thread of the host waits for any of them but the one whose turn it is.

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
    fit_here(input_bytes);
    fit(inputs, input_bytes);
    fit(results, result_bytes);
  }
  void fit_here(std::size_t bytes) {
    current_device const current(be.device());
    here.fit(rounded(bytes));
  }

  /// What `fit` takes.
  [[nodiscard]] static std::size_t rounded(std::size_t bytes) noexcept {
    constexpr std::size_t unit = std::size_t{1} << 18;
    return (bytes + unit - 1) / unit * unit;
  }

 private:
  void fit(device_buffer<std::byte>& there, std::size_t bytes) const {
    if (there.size() >= bytes) { return; }
    there = {};
    there = be.make_buffer<std::byte>(rounded(bytes));
  }
};

/// Page-locked memory for the results of blocks.
class pinned_memory final : public block_memory {
 public:
  explicit pinned_memory(int device) : device_(device) {}
  [[nodiscard]] std::byte* take(std::size_t bytes) const override {
    current_device const current(device_);
    return locked_pool::of_process().take(bytes);
  }
  void give_back(std::byte* at, std::size_t bytes) const noexcept override { locked_pool::of_process().give_back(at, bytes); }

 private:
  int device_;
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
    free_.resize(devices.size());
    for (std::size_t i = 0; i < count; ++i) {
      lanes_.push_back({device_lane(devices[i % devices.size()]), i % devices.size()});
      free_[i % devices.size()].push_back(i);
    }
  }

  [[nodiscard]] std::size_t count() const noexcept { return lanes_.size(); }

  device_lanes(device_lanes const&) = delete;
  device_lanes& operator=(device_lanes const&) = delete;
  ~device_lanes() {
    lanes_.clear();
    locked_pool::of_process().trim();
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
      if (std::uncaught_exceptions() > failures_) { (void)cudaStreamSynchronize((**this).be.stream()); }
      from_.give_back(lane_);
    }
    [[nodiscard]] device_lane& operator*() const noexcept { return from_.lanes_[lane_].lane; }

   private:
    device_lanes& from_;
    std::size_t lane_;
    int failures_ = std::uncaught_exceptions();
  };

 private:
  struct lane_of {
    device_lane lane;
    std::size_t device;  // place in the list of devices
  };

  /// Of the device that has the most free ones, so that devices share blocks evenly; the one that was used last, whose memory is
  /// still in caches.
  std::size_t take(int device) {
    std::unique_lock lock(mutex_);
    std::vector<std::size_t>* from = nullptr;
    freed_.wait(lock, [&] {
      from = nullptr;
      for (auto& free : free_) {
        bool const fits = !free.empty() && (device == any_device || lanes_[free.back()].lane.be.device() == device);
        if (fits && (from == nullptr || free.size() > from->size())) { from = &free; }
      }
      return from != nullptr;
    });
    std::size_t const lane = from->back();
    from->pop_back();
    return lane;
  }
  void give_back(std::size_t lane) {
    {
      std::lock_guard const lock(mutex_);
      free_[lanes_[lane].device].push_back(lane);
    }
    freed_.notify_all();  // not every lane is right for everybody
  }

  std::vector<std::unique_ptr<kept_device_memory>> memory_;
  std::vector<lane_of> lanes_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<std::vector<std::size_t>> free_;  // of each device
};

}  // namespace detail
BRAID_NAMESPACE_END
