#pragma once

#include <braid/config.hpp>

#include <cstddef>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Places of several arrays in a piece of memory, one after the other, each aligned for copies.
class memory_layout {
 public:
  /// Where the next array, of so many bytes, begins.
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
