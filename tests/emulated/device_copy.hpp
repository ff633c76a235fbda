#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace braid_test {

/// Memory that begins on 16 bytes, as device memory does.
template <class T>
struct device_copy {
  std::vector<std::byte> memory;
  T* data;
  explicit device_copy(std::vector<T> const& from) : memory(from.size() * sizeof(T) + 16) {
    data = reinterpret_cast<T*>(memory.data() + (16 - reinterpret_cast<std::uintptr_t>(memory.data()) % 16) % 16);
    if (!from.empty()) { std::memcpy(static_cast<void*>(data), from.data(), from.size() * sizeof(T)); }
  }
};

}  // namespace braid_test
