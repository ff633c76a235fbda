#pragma once

/// In place of the header of that name: copies that are done when they begin.

#include <braid/backend/cuda/kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

inline void copy_16(void* shared, void const* global) {
  check_copy(shared, global, 16);
  std::memcpy(shared, global, 16);
}
inline void copy_16(void* shared, void const* global, int bytes) {
  check_copy(shared, global, 16);
  std::memset(shared, 0, 16);
  std::memcpy(shared, global, static_cast<std::size_t>(bytes));
}
inline void close_copies() noexcept {}
template <int Open>
void wait_for_all_but() noexcept {}

}  // namespace detail::ptx
BRAID_NAMESPACE_END
