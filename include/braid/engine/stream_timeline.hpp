#pragma once

#include <braid/config.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

BRAID_NAMESPACE_BEGIN

/// Where the time of a merge goes, for benchmarks: what `device_options::timeline` points to notes when each step began for the
/// first time and ended for the last, and how long all threads together were in it.
class stream_timeline {
 public:
  enum step : std::size_t {
    read,     ///< rows from files to where devices copy from
    start,    ///< copies and kernels enqueued
    wait,     ///< for a device, by the one thread that does
    collect,  ///< results put in order
    write,    ///< rows to the file
    release,  ///< pages of inputs given back
    steps
  };
  enum milestone : std::size_t {
    ready,      ///< lanes and memory are there
    begun,      ///< the output's directory and side files are
    streamed,   ///< all tensors are merged
    committed,  ///< the checkpoint has its name
    milestones
  };
  static constexpr std::array<char const*, steps> step_names{"read", "start", "wait", "collect", "write", "release"};
  static constexpr std::array<char const*, milestones> milestone_names{"ready", "begun", "streamed", "committed"};

  struct times {
    double first = 0.0;  ///< began; seconds since `restart`
    double last = 0.0;   ///< ended
    double sum = 0.0;    ///< of all threads
    std::int64_t count = 0;
  };

  stream_timeline() { restart(); }

  void restart() noexcept {
    start_ = clock::now();
    for (auto& s : steps_) {
      s.first = never;
      s.last = 0;
      s.sum = 0;
      s.count = 0;
    }
    for (auto& m : milestones_) { m = 0; }
  }

  [[nodiscard]] times of(step s) const noexcept {
    auto const& x = steps_[s];
    std::int64_t const count = x.count;
    return {count == 0 ? 0.0 : seconds(x.first), seconds(x.last), seconds(x.sum), count};
  }
  /// Seconds since `restart`; 0 where it wasn't reached.
  [[nodiscard]] double at(milestone m) const noexcept { return seconds(milestones_[m]); }

  void reached(milestone m) noexcept { milestones_[m] = now(); }

  /// A thread's step, until this goes. Without a timeline nothing is measured.
  class timed {
   public:
    timed(stream_timeline* on, step s) noexcept : on_(on), step_(s), from_(on == nullptr ? 0 : on->now()) {}
    timed(timed const&) = delete;
    timed& operator=(timed const&) = delete;
    ~timed() {
      if (on_ != nullptr) { on_->add(step_, from_, on_->now()); }
    }

   private:
    stream_timeline* on_;
    step step_;
    std::int64_t from_;
  };

 private:
  using clock = std::chrono::steady_clock;
  static constexpr std::int64_t never = INT64_MAX;
  struct sums {
    std::atomic<std::int64_t> first{never}, last{0}, sum{0}, count{0};  // nanoseconds
  };

  [[nodiscard]] static double seconds(std::int64_t nanoseconds) noexcept { return static_cast<double>(nanoseconds) * 1e-9; }
  [[nodiscard]] std::int64_t now() const noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(clock::now() - start_).count();
  }
  void add(step s, std::int64_t from, std::int64_t to) noexcept {
    sums& x = steps_[s];
    for (auto known = x.first.load(); from < known && !x.first.compare_exchange_weak(known, from);) {}
    for (auto known = x.last.load(); to > known && !x.last.compare_exchange_weak(known, to);) {}
    x.sum += to - from;
    ++x.count;
  }

  clock::time_point start_;
  std::array<sums, steps> steps_;
  std::array<std::atomic<std::int64_t>, milestones> milestones_{};
};

BRAID_NAMESPACE_END
