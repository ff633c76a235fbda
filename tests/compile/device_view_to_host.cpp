// A device pointer, handed to code that reads it on the host.
// expect: memory_space::device

#include <braid/core/tensor_view.hpp>

float first_element(braid::tensor_view<float const> on_host) { return on_host(0, 0); }

int main() {
  float* const device_pointer = nullptr;
  braid::tensor_view<float, braid::memory_space::device> const on_device(device_pointer, 2, 3);
  return static_cast<int>(first_element(on_device));
}
