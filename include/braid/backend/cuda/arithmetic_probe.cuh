#pragma once

/// Results are a promise, and nvcc knows no pragma that keeps a product and a sum apart: only `--fmad=false` does. This
/// looks whether the program's device code was compiled that way.

#include <braid/backend/cuda/device_buffer.cuh>

#include <atomic>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// x[3] = x[0] * x[1] + x[2], x[6] = x[4] / x[5].
template <class Float>
BRAID_KERNEL void arithmetic_probe(Float* x) {
  x[3] = x[0] * x[1] + x[2];
  x[6] = x[4] / x[5];
}

/// Once a device. @throws backend_error where products and sums are fused, or subnormal numbers are lost
inline void check_arithmetic(int device, cudaStream_t stream) {
  static std::atomic<std::uint64_t> checked{0};
  std::uint64_t const bit = std::uint64_t{1} << (static_cast<unsigned>(device) % 64u);
  if ((checked.load() & bit) != 0) { return; }
  current_device const current(device);
  // (1 + 2^-23) * (1 - 2^-24) rounds to 1; fused with -1 the rounding would show. 3 * 2^-127 / 2 is subnormal.
  float x[7] = {1.0f + 0x1p-23f, 1.0f - 0x1p-24f, -1.0f, 0.5f, 0x1.8p-126f, 2.0f, 0.0f};
  auto const on = std::make_shared<device_stream const>(device, stream, false);
  device_buffer<float> const there(on, 7);
  check_cuda(cudaMemcpyAsync(there.data(), x, sizeof x, cudaMemcpyHostToDevice, stream), "copying");
  arithmetic_probe<float><<<1, 1, 0, stream>>>(there.data());
  check_cuda(cudaGetLastError(), "starting a kernel (was the program compiled for this device's architecture?)");
  check_cuda(cudaMemcpyAsync(x, there.data(), sizeof x, cudaMemcpyDeviceToHost, stream), "copying");
  check_cuda(cudaStreamSynchronize(stream), "waiting for the device");
  if (x[3] != 0.0f || x[6] != 0x1.8p-127f) {
    throw backend_error("braid::cuda: this program's device code fuses products with sums, or was compiled for fast maths, so "
                        "that its results would not be those of braid::cpu: give nvcc --fmad=false and no --use_fast_math "
                        "(CMake: link braid::cuda)");
  }
  checked.fetch_or(bit);
}

}  // namespace detail
BRAID_NAMESPACE_END
