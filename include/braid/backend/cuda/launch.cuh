#pragma once

/// Starting kernels that need more than <<<>>> says.

#include <braid/backend/cuda/device_buffer.cuh>

#include <mutex>
#include <set>
#include <utility>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "asking a device what it is");
  return value;
}

/// Lets blocks of a kernel have as much dynamic shared memory as the current device gives one; once a kernel and device. The most,
/// and not what this start needs, since other threads may be about to start the same kernel with more.
/// @param all  the kernel wants no first-level cache beside it
/// @throws backend_error
template <class... Parameters>
void allow_shared_memory(void (*kernel)(Parameters...), bool all = false) {
  static std::mutex mutex;
  static std::set<std::pair<void const*, int>> allowed;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  std::pair<void const*, int> const key(reinterpret_cast<void const*>(kernel), device);
  std::lock_guard const lock(mutex);
  if (allowed.count(key) != 0) { return; }
  cudaFuncAttributes own{};
  check_cuda(cudaFuncGetAttributes(&own, kernel), "asking a kernel what it needs");
  int const most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device) - static_cast<int>(own.sharedSizeBytes);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "asking for shared memory");
  if (all) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
               "asking for shared memory");
  }
  allowed.insert(key);
}

/// How a kernel is started.
struct launch_shape {
  std::size_t blocks = 1;
  int threads = 1;
  std::size_t shared_bytes = 0;
  int cluster = 0;     // blocks of a cluster; 0: no clusters
  bool early = false;  // may begin before the kernel ahead on the stream has ended
};

/// Enqueues a kernel. @throws backend_error
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), launch_shape const& shape, cudaStream_t stream, char const* doing, Arguments const&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2]{};
  if (shape.early) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 0) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeClusterDimension;
    a.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    a.val.clusterDim.y = 1;
    a.val.clusterDim.z = 1;
  }
  config.attrs = attributes;
  check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), doing);
}

}  // namespace detail
BRAID_NAMESPACE_END
