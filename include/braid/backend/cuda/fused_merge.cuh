#pragma once

/// Starts the fused kernels.

#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/ring_kernel.cuh>

#include <algorithm>
#include <limits>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Enqueues the kernel through whose blocks channels stream, where the merge is a usual one. @return whether it is
template <class T, class Plan, class Consensus>
[[nodiscard]] bool start_ring_merge(fused_arguments<Plan, Consensus>& a, int device, cudaStream_t stream) {
  bool usual = a.clusters && a.whole_copies && !a.terms.signs && a.terms.root_weight == nullptr;
  if constexpr (plan_of_threshold<Plan>) {
    a.random = random_merge(a.plans, a.experts, a.first + a.channels, a.cols);
    usual = usual && a.random.usable;
  }
  auto const limit = static_cast<std::size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  a.ring = plan_ring(a.cols, a.experts, sizeof(T), limit - sizeof(ring_state) - 128, !plan_keeps_all<Plan>);
  if (!usual || a.ring.slots == 0 || a.channels > std::numeric_limits<std::int32_t>::max() / 2) { return false; }
  auto const kernel = ring_merge_kernel<T, Plan, Consensus>;
  allow_shared_memory(kernel, true);
  auto const blocks = std::min<index_t>(a.channels, device_attribute(cudaDevAttrMultiProcessorCount, device));
  launch(kernel, {.blocks = static_cast<std::size_t>(blocks), .threads = a.ring.warps.threads(), .shared_bytes = a.ring.shared_bytes, .early = true},
         stream, "starting a merge", a);
  return true;
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
  if constexpr (Most <= most_warp_experts) {
    if (start_ring_merge<T>(a, device, stream)) { return; }
  }
  auto const kernel = fused_merge_kernel<T, Most, Plan, Consensus>;
  allow_shared_memory(kernel, true);
  launch(kernel,
         {.blocks = static_cast<std::size_t>(a.channels) * static_cast<std::size_t>(a.plan.cluster),
          .threads = a.plan.threads,
          .shared_bytes = a.plan.shared_bytes,
          .cluster = a.plan.cluster},
         stream, "starting a merge", a);
}

}  // namespace detail
BRAID_NAMESPACE_END
