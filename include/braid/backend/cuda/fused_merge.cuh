#pragma once

/// Starts the fused kernel.

#include <braid/backend/cuda/device_buffer.cuh>
#include <braid/backend/cuda/fused_kernel.cuh>

#include <algorithm>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// How many channels the device works on at a time: while it does, memory brings the next ones to the L2 cache, whatever the
/// blocks wait for. At most what fits half of that cache.
template <class Arguments>
index_t channels_in_flight(Arguments const& a, int device, void const* kernel) {
  int processors = 0;
  int cache = 0;
  int blocks = 0;
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "asking a device what it is");
  check_cuda(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device), "asking a device what it is");
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, a.plan.threads, a.plan.shared_bytes), "asking what fits a device");
  index_t const row = static_cast<index_t>(a.experts + 1) * a.plan.segments * a.plan.segment_bytes;
  index_t const at_work = static_cast<index_t>(processors) * blocks / a.plan.cluster;
  return std::max<index_t>(1, std::min(at_work, cache / 2 / row));
}

/// Enqueues a fused merge of all channels.
template <class T, int Most, class Plan, class Consensus>
void start_fused_merge(fused_arguments<Plan, Consensus>& a, int device, cudaStream_t stream) {
  auto const on_16 = [](void const* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  a.whole_copies = a.cols * static_cast<index_t>(sizeof(T)) % 16 == 0 && on_16(a.out.group_zero) && on_16(a.out.extra);
  for (int m = 0; m <= a.experts; ++m) { a.whole_copies = a.whole_copies && on_16(a.models[m].data) && a.models[m].stride % 16 == 0; }
  if constexpr (plan_from_words<Plan>) {
    a.keys = philox_keys(a.plans[0].seed);
    a.same_keys = true;
    for (int e = 1; e < a.experts; ++e) { a.same_keys = a.same_keys && a.plans[e].seed == a.plans[0].seed; }
  }
  auto const kernel = fused_merge_kernel<T, Most, Plan, Consensus>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(a.plan.shared_bytes)),
             "asking for shared memory");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
             "asking for shared memory");
  a.ahead = channels_in_flight(a, device, reinterpret_cast<void const*>(kernel));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(a.channels) * static_cast<unsigned>(a.plan.cluster));
  config.blockDim = dim3(static_cast<unsigned>(a.plan.threads));
  config.dynamicSmemBytes = a.plan.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(a.plan.cluster);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, a), "starting a merge");
}

}  // namespace detail
BRAID_NAMESPACE_END
