#pragma once

#include <braid/config.hpp>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <optional>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Which parts of a piece of memory are free: numbers only, the memory itself is somebody else's.
class free_ranges {
 public:
  explicit free_ranges(std::size_t size) : free_(size) {
    if (size != 0) { ranges_.emplace(0, size); }
  }

  [[nodiscard]] std::size_t free_bytes() const noexcept { return free_; }

  /// The first free range of that size, which is not free any more; nothing where there is none.
  [[nodiscard]] std::optional<std::size_t> take(std::size_t bytes) {
    for (auto it = ranges_.begin(); it != ranges_.end(); ++it) {
      auto const [at, size] = *it;
      if (size < bytes) { continue; }
      if (size > bytes) { ranges_.emplace_hint(std::next(it), at + bytes, size - bytes); }
      ranges_.erase(it);
      free_ -= bytes;
      return at;
    }
    return std::nullopt;
  }

  /// @param at, bytes  as taken
  void give_back(std::size_t at, std::size_t bytes) {
    free_ += bytes;
    auto const next = ranges_.lower_bound(at);
    auto const it = ranges_.emplace_hint(next, at, bytes);
    if (next != ranges_.end() && next->first == at + bytes) {
      it->second += next->second;
      ranges_.erase(next);
    }
    if (it != ranges_.begin()) {
      auto const before = std::prev(it);
      if (before->first + before->second == at) {
        before->second += it->second;
        ranges_.erase(it);
      }
    }
  }

 private:
  std::map<std::size_t, std::size_t> ranges_;  // where free ones begin, and how long they are; none touches the next
  std::size_t free_;
};

}  // namespace detail
BRAID_NAMESPACE_END
