#pragma once

#include <braid/core/types.hpp>

#include <concepts>
#include <cstddef>
#include <string_view>

BRAID_NAMESPACE_BEGIN

class cpu;   // backend/cpu.hpp
class cuda;  // named here so that asking for it without its header is a readable error

namespace detail {
struct index_probe {
  BRAID_HD void operator()(index_t) const noexcept {}
};

/// Asked first by the concept: of a class that is only named, the standard library's own complaint helps nobody.
template <class B>
constexpr bool has_header() noexcept {
  static_assert(requires { sizeof(B); },
                "braid: this backend is only named; include <braid/braid.hpp> for braid::cpu, or, in a .cu file, "
                "<braid/cuda.cuh> for braid::cuda");
  return true;
}
}  // namespace detail

/// An executor: where bulk operations run and where their memory lives. User code names one type; the operations are
/// found as specialisations of the class templates in `ops`.
template <class B>
concept backend = detail::has_header<B>() && std::copyable<B> &&
                  requires(B& be, B const& c, std::size_t n, index_t count, detail::index_probe f) {
  { B::space } -> std::convertible_to<memory_space>;
  typename B::template buffer<float>;
  { be.template make_buffer<float>(n) } -> std::same_as<typename B::template buffer<float>>;  // uninitialised or zero
  be.for_each(count, f);  // enqueues f(0) ... f(count - 1), in any order
  be.synchronize();       // waits; throws backend_error
  { c.name() } -> std::convertible_to<std::string_view>;
};

/// Bulk operations, one class template each. A backend specialises those it has; a missing one is one sentence.
namespace ops {

/// Channel Merging of a block of channels: measure, cluster, prune, merge, code what is left.
template <class Backend, class Prune, class Similarity, class Cluster, class Consensus, class Residual>
struct merge_channels {
  static_assert(always_false<Backend>,
                "braid: this backend has no channel_merge; include <braid/braid.hpp> for braid::cpu, or, in a .cu file, "
                "<braid/cuda.cuh> for braid::cuda");
};

/// The same of a whole tensor in memory.
template <class Backend>
struct merge_tensor {
  static_assert(always_false<Backend>,
                "braid: this backend has no channel_merge of tensors in memory; include <braid/braid.hpp> for braid::cpu, or, "
                "in a .cu file, <braid/cuda.cuh> for braid::cuda");
};

/// Lengths of the experts' deltas over a whole tensor.
template <class Backend>
struct delta_norms {
  static_assert(always_false<Backend>,
                "braid: this backend has no delta_norms; include <braid/braid.hpp> for braid::cpu, or, in a .cu file, "
                "<braid/cuda.cuh> for braid::cuda");
};

/// The cut of each expert's delta that keeps a number of elements of a whole tensor.
template <class Backend>
struct magnitude_cuts {
  static_assert(always_false<Backend>,
                "braid: this backend has no magnitude_cuts; include <braid/braid.hpp> for braid::cpu, or, in a .cu file, "
                "<braid/cuda.cuh> for braid::cuda");
};

/// How single-model methods (method/tensor_method.hpp) meet a tensor: blocks of channels, and a thread's workspace.
template <class Backend>
struct tensor_blocks {
  static_assert(always_false<Backend>,
                "braid: this backend has no single-model methods; include <braid/braid.hpp> for braid::cpu, or, in a .cu "
                "file, <braid/cuda.cuh> for braid::cuda");
};

/// How the task-arithmetic family prunes and joins the deltas of a tensor, with a policy of its own for each model.
template <class Backend>
struct delta_pruning {
  static_assert(always_false<Backend>,
                "braid: this backend doesn't prune single-model methods' deltas; include <braid/braid.hpp> for braid::cpu, or, in a "
                ".cu file, <braid/cuda.cuh> for braid::cuda");
};

/// The measuring pass of a storage budget: curves of error against bytes of all channels of a tensor.
template <class Backend, class Similarity, class Cluster>
struct measure_curves {
  static_assert(always_false<Backend>,
                "braid: this backend has no measure_curves; include <braid/braid.hpp> for braid::cpu, or, in a .cu file, "
                "<braid/cuda.cuh> for braid::cuda");
};

/// How the distances of the experts from their mean are spread over the columns of a tensor.
template <class Backend>
struct column_scales {
  static_assert(always_false<Backend>,
                "braid: this backend has no column_scales; include <braid/braid.hpp> for braid::cpu, or, in a .cu file, "
                "<braid/cuda.cuh> for braid::cuda");
};

}  // namespace ops

BRAID_NAMESPACE_END
