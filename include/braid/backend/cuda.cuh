#pragma once

#include <braid/backend/backend.hpp>
#include <braid/backend/cuda/arithmetic_probe.cuh>
#include <braid/backend/cuda/device_buffer.cuh>

#include <type_traits>

BRAID_NAMESPACE_BEGIN

/// An NVIDIA GPU (compute capability 9.0 or 10.0, whose blocks have 227 KiB of shared memory) and a stream on it. Copies share
/// the stream. Results are those of braid::cpu, bit for bit; a program must be compiled with `--fmad=false`, and without
/// `--use_fast_math`, which the constructor checks (CMake: link `braid::cuda`).
///
/// Operations of this class enqueue; those of braid::ops and the methods say when they wait. Use one from one thread at a
/// time; threads that want to work at once take an executor each.
class cuda {
 public:
  static constexpr memory_space space = memory_space::device;

  template <class T>
  using buffer = device_buffer<T>;

  /// Makes a stream of its own.
  /// @throws argument_error for a device that there isn't, backend_error for one that is too old, or where the program's
  ///         device code was compiled to round differently
  explicit cuda(int device = 0) {
    check_device(device);
    detail::current_device const current(device);
    cudaStream_t stream = nullptr;
    detail::check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
    on_ = std::make_shared<detail::device_stream const>(device, stream, true);
    detail::check_arithmetic(device, stream);
  }

  /// Works on the caller's stream, which must outlive all copies and all memory taken through them.
  cuda(int device, cudaStream_t stream) {
    check_device(device);
    on_ = std::make_shared<detail::device_stream const>(device, stream, false);
    detail::check_arithmetic(device, stream);
  }

  /// Uninitialised device memory, from the order of the stream on.
  /// @throws backend_error
  template <class T>
  [[nodiscard]] buffer<T> make_buffer(std::size_t n) const {
    static_assert(std::is_trivially_copyable_v<T>, "braid: device memory holds trivially copyable elements");
    return buffer<T>(on_, n);
  }

  /// Enqueues f(0) ... f(count - 1), in any order. `f` is a trivially copyable functor whose call operator is BRAID_HD or
  /// __device__; lambdas need flags of the caller's own.
  template <class F>
  void for_each(index_t count, F const& f) const;

  /// Enqueues a copy of `n` elements.
  template <class T>
  void to_device(T* to, T const* from, std::size_t n) const {
    copy(to, from, n * sizeof(T), cudaMemcpyHostToDevice);
  }
  template <class T>
  void to_host(T* to, T const* from, std::size_t n) const {
    copy(to, from, n * sizeof(T), cudaMemcpyDeviceToHost);
  }

  /// Waits for all that was enqueued. @throws backend_error for what failed meanwhile
  void synchronize() const {
    detail::current_device const current(on_->device);
    detail::check_cuda(cudaStreamSynchronize(on_->stream), "waiting for the device");
  }

  [[nodiscard]] int device() const noexcept { return on_->device; }
  [[nodiscard]] cudaStream_t stream() const noexcept { return on_->stream; }
  [[nodiscard]] std::string_view name() const noexcept { return "cuda"; }

 private:
  static void check_device(int device) {
    int count = 0;
    detail::check_cuda(cudaGetDeviceCount(&count), "looking for devices");
    if (device < 0 || device >= count) {
      throw argument_error("braid::cuda: there is no device " + std::to_string(device) + "; this machine has " +
                           std::to_string(count) + ", counted from 0");
    }
    int major = 0;
    detail::check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking a device what it is");
    if (major < 9) {
      throw backend_error("braid::cuda: device " + std::to_string(device) + " has compute capability " + std::to_string(major) +
                          ".x; 9.0 (Hopper) or later is needed: use braid::cpu");
    }
  }

  void copy(void* to, void const* from, std::size_t bytes, cudaMemcpyKind kind) const {
    if (bytes == 0) { return; }
    detail::current_device const current(on_->device);
    detail::check_cuda(cudaMemcpyAsync(to, from, bytes, kind, on_->stream), "copying");
  }

  std::shared_ptr<detail::device_stream const> on_;
};

namespace detail {

template <class F>
BRAID_KERNEL void for_each_kernel(index_t count, F const f) {
  index_t const step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) { f(i); }
}

}  // namespace detail

template <class F>
void cuda::for_each(index_t count, F const& f) const {
  static_assert(std::is_trivially_copyable_v<F>, "braid: a functor for the device is trivially copyable");
  if (count <= 0) { return; }
  constexpr index_t threads = 256;
  constexpr index_t most_blocks = 1 << 20;
  index_t const blocks = (count + threads - 1) / threads;
  detail::current_device const current(on_->device);
  detail::for_each_kernel<<<static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks), static_cast<unsigned>(threads), 0,
                            on_->stream>>>(count, f);
  detail::check_cuda(cudaGetLastError(), "starting for_each");
}

static_assert(backend<cuda>);

BRAID_NAMESPACE_END
