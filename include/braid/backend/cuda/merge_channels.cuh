#pragma once

#include <braid/backend/channel_block.hpp>
#include <braid/backend/cuda.cuh>
#include <braid/backend/cuda/device_merged.cuh>
#include <braid/backend/cuda/fused_merge.cuh>
#include <braid/backend/cuda/general_merge.cuh>
#include <braid/backend/cuda/nonfinite.cuh>
#include <braid/backend/cuda/residual_merge.cuh>
#include <braid/cluster/any.hpp>
#include <braid/cluster/exact.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Whether a clustering is the search that the fused kernel knows.
template <class Cluster>
bool searches_all(Cluster const& cluster) {
  if constexpr (std::same_as<Cluster, cluster::any>) {
    return std::holds_alternative<cluster::exact>(cluster.choice);
  } else {
    return std::same_as<Cluster, cluster::exact>;
  }
}

/// Bytes of shared memory of a device's blocks and multiprocessors.
struct shared_limits {
  std::size_t block = 0;
  std::size_t processor = 0;
};
inline shared_limits shared_limits_of(int device) {
  int block = 0;
  int processor = 0;
  check_cuda(cudaDeviceGetAttribute(&block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking a device what it is");
  check_cuda(cudaDeviceGetAttribute(&processor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "asking a device what it is");
  return {static_cast<std::size_t>(block), static_cast<std::size_t>(processor)};
}

/// Small arrays of a context in device memory.
struct device_context {
  device_buffer<float> root_weight;
  device_context(cuda const& be, tensor_context const& context) {
    if (context.root_weight.empty()) { return; }
    root_weight = be.make_buffer<float>(context.root_weight.size());
    be.to_device(root_weight.data(), context.root_weight.data(), context.root_weight.size());
  }
};

}  // namespace detail

namespace ops {

/// Channel Merging of all channels of a tensor in device memory. Usual cases (one storage type of bf16, f16 or f32, up to 10
/// experts, exact clustering with one of braid's similarities, rows up to 65536 columns) take one pass: each input is read
/// once, each output written once. Others take a measuring pass, clustering on the host's threads, and a merging pass.
/// The same bytes as on the CPU either way; where inputs hold NaN and that is allowed, NaNs' payloads may differ. A budget needs
/// the several passes. Residuals are coded behind the merge, a block a channel.
template <class Prune, class Similarity, class Cluster, class Consensus, class Residual>
struct merge_channels<cuda, Prune, Similarity, Cluster, Consensus, Residual> {
  Prune const& prune;
  Similarity const& similarity;
  Cluster const& cluster;
  Consensus const& consensus;
  Residual const& residual;
  int groups;
  float lambda;

  static_assert(std::is_trivially_copyable_v<Consensus>, "braid: a consensus for the device is trivially copyable");
  static_assert(detail::coded_on_device<Residual>,
                "braid: braid::cuda encodes residuals with braid's own policies (sign_bits, ternary, trellis, any, palette); a policy of your "
                "own is host code: use braid::cpu");

  /// Enqueues, except where the host has to cluster.
  /// @param source   device memory
  /// @param coded    where residuals go, if there may be any: as `detail::residual_places` says, with memory
  void enqueue(cuda const& be, tensor_context const& context, tensor_channels const& source, detail::device_merged const& out,
               detail::device_residuals const& coded = {}) const {
    detail::current_device const current(be.device());
    device_buffer<residual_code> chosen;
    merge(be, context, source, out, chosen);
    detail::code_residuals(be, residual, context, source, out, coded, chosen.data());
  }

  /// The plans of a pass that needs no more than the tensor's measures.
  static constexpr bool plans_ahead = Prune::measures == statistic::none || Prune::measures == statistic::tensor_cut;

 private:
  void merge(cuda const& be, tensor_context const& context, tensor_channels const& source, detail::device_merged const& out,
             device_buffer<residual_code>& chosen) const {
    if (source.channels == 0 || source.cols == 0) {
      if (source.channels > 0) {
        detail::check_cuda(cudaMemsetAsync(out.label, 0, static_cast<std::size_t>(source.channels) * source.experts.size(), be.stream()),
                           "clearing labels");
      }
      return;
    }
    if (!start_fused(be, context, source, out)) {
      detail::general_merge(be, prune, similarity, cluster, consensus, groups, lambda, context, source, out, codes_of(residual), chosen);
    }
  }

  [[nodiscard]] bool start_fused(cuda const& be, tensor_context const& context, tensor_channels const& source,
                                 detail::device_merged const& out) const {
    if constexpr (!plans_ahead) {
      return false;
    } else {
      auto const experts = static_cast<int>(source.experts.size());
      bool const clusters = groups > 1 && groups < experts;
      auto const known = detail::similarity_on_device(similarity);
      if (context.budget != nullptr || experts > detail::most_tile_experts || source.transposed != 0 || (clusters && (!detail::searches_all(cluster) || !known))) {
        return false;
      }
      bool one_type = source.out == source.base.type;
      for (auto const& e : source.experts) { one_type = one_type && e.type == source.out; }
      if (!one_type) { return false; }
      switch (source.out) {
        case dtype::bf16: return start_typed<bfloat16>(be, context, source, out, clusters, known);
        case dtype::f16: return start_typed<float16>(be, context, source, out, clusters, known);
        case dtype::f32: return start_typed<float>(be, context, source, out, clusters, known);
        default: return false;
      }
    }
  }

  template <class T>
  [[nodiscard]] bool start_typed(cuda const& be, tensor_context const& context, tensor_channels const& source,
                                 detail::device_merged const& out, bool clusters,
                                 std::optional<detail::device_similarity> const& known) const {
    auto const experts = static_cast<int>(source.experts.size());
    auto const limits = detail::shared_limits_of(be.device());
    detail::tile_plan const plan = detail::plan_tile(source.cols, experts, sizeof(T), limits.block, limits.processor);
    if (plan.cluster == 0) { return false; }
    using plan_type = decltype(detail::plan_ahead(prune, context, 0));
    detail::fused_arguments<plan_type, Consensus> a{plan, {}, source.channels, source.cols, experts, groups, lambda, clusters, context.allow_nonfinite, false,
                                                    {}, {}, consensus, {}, {}, {}, false, {}, out, {}, source.first_channel};
    detail::device_context const there(be, context);
    a.terms.root_weight = there.root_weight.data();
    if (known) {
      a.similarity = *known;
      a.terms.signs = known->of_signs();
    }
    a.models[0] = {source.base.data, source.base.stride};
    for (int e = 0; e < experts; ++e) {
      auto const slot = static_cast<std::size_t>(e);
      a.models[e + 1] = {source.experts[slot].data, source.experts[slot].stride};
      a.plans[e] = detail::plan_ahead(prune, context, e);
      a.norms[e] = context.norms.empty() ? 0.0 : context.norms[slot];
    }
    if (experts <= 4) {
      detail::start_fused_merge<T, 4>(a, be.device(), be.stream());
    } else {
      detail::start_fused_merge<T, detail::most_tile_experts>(a, be.device(), be.stream());
    }
    return true;
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
