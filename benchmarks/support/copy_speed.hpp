#pragma once

/// The yardstick of every benchmark: a plain copy whose bytes read plus bytes written are the least bytes of the work,
/// in the same run, on as many threads.

#include <braid/backend/cpu.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

namespace braid_bench {

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Seconds, the median of `runs`, that memcpy needs to read and write `bytes` bytes together.
inline double copy_seconds(braid::cpu const& be, std::size_t bytes, int runs = 5) {
  std::size_t const half = bytes / 2;
  auto const from = std::make_unique_for_overwrite<std::byte[]>(half);
  auto const to = std::make_unique_for_overwrite<std::byte[]>(half);
  auto const threads = static_cast<std::size_t>(be.threads());
  auto const copy = [&] {
    be.for_each(be.threads(), [&](braid::index_t t) {
      std::size_t const begin = half * static_cast<std::size_t>(t) / threads;
      std::size_t const end = half * static_cast<std::size_t>(t + 1) / threads;
      std::memcpy(to.get() + begin, from.get() + begin, end - begin);
    });
  };
  std::memset(from.get(), 1, half);
  copy();  // pages exist from here on
  std::vector<double> seconds;
  for (int run = 0; run < runs; ++run) {
    auto const start = std::chrono::steady_clock::now();
    copy();
    seconds.push_back(seconds_since(start));
  }
  std::nth_element(seconds.begin(), seconds.begin() + runs / 2, seconds.end());
  return seconds[static_cast<std::size_t>(runs / 2)];
}

}  // namespace braid_bench
