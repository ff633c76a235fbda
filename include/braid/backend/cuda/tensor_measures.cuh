#pragma once

/// Measures of whole tensors in device memory, taken before the merge by the policies that need them.

#include <braid/backend/cuda/algorithms/add_rows.cuh>
#include <braid/backend/cuda/algorithms/execution.cuh>
#include <braid/backend/cuda/any_rows.cuh>
#include <braid/backend/cuda/lane_gram.cuh>
#include <braid/backend/cuda/nonfinite.cuh>
#include <braid/backend/cuda/row_statistics.cuh>
#include <braid/backend/cuda/select_deltas.cuh>

#include <cmath>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// squared[channel, expert] = the squared length of a delta in the one order of sums. Half a warp takes an expert.
template <class Rows>
BRAID_KERNEL void squared_lengths(Rows const* models, int experts, index_t cols, float const* root, float* squared) {
  index_t const channel = blockIdx.x;
  int const lane = static_cast<int>(threadIdx.x) % sum_order::lanes;
  int const halves = static_cast<int>(blockDim.x) / sum_order::lanes;
  unsigned const mask = 0xFFFFu << (threadIdx.x & 16u);
  std::byte const* const base = models[0].row(channel);
  for (int e = static_cast<int>(threadIdx.x) / sum_order::lanes; e < experts; e += halves) {
    Rows const& model = models[1 + e];
    std::byte const* const row = model.row(channel);
    float total = 0.0f;
    for (index_t begin = 0; begin < cols; begin += sum_order::segment) {
      index_t const end = begin + sum_order::segment < cols ? begin + sum_order::segment : cols;
      float sum = 0.0f;
#pragma unroll 8
      for (index_t c = begin + lane; c < end; c += sum_order::lanes) {
        float x = model.at(row, c) - models[0].at(base, c);
        if (root != nullptr) { x = root[c] * x; }
        sum = sum + x * x;
      }
#pragma unroll
      for (int width = sum_order::lanes / 2; width > 0; width /= 2) {
        sum = sum + __shfl_down_sync(mask, sum, static_cast<unsigned>(width), sum_order::lanes);
      }
      total = total + sum;
    }
    if (lane == 0) { squared[channel * experts + e] = total; }
  }
}

}  // namespace detail

namespace ops {

/// Lengths of the experts' deltas over a tensor, as ops::delta_norms<cpu> defines them. Waits.
template <>
struct delta_norms<cuda> {
  std::vector<double> operator()(cuda const& be, tensor_channels const& tensor) const {
    std::size_t const experts = tensor.experts.size();
    std::vector<double> norms(experts, 0.0);
    if (tensor.channels > 0 && tensor.cols > 0) {
      detail::current_device const current(be.device());
      auto const models = detail::upload_rows(be, tensor);
      auto const root = detail::upload(be, detail::root_weights(tensor));
      auto const there = be.make_buffer<float>(static_cast<std::size_t>(tensor.channels) * experts);
      auto const threads = static_cast<unsigned>(experts < 16 ? (experts * 16 + 31) / 32 * 32 : 256);
      detail::squared_lengths<<<static_cast<unsigned>(tensor.channels), threads, 0, be.stream()>>>(
          static_cast<detail::any_rows const*>(models.data()), static_cast<int>(experts), tensor.cols, static_cast<float const*>(root.data()), there.data());
      detail::check_cuda(cudaGetLastError(), "starting a measuring pass");
      auto const sums = be.make_buffer<double>(static_cast<std::size_t>(detail::blocks_of_rows(tensor.channels)) * experts);
      detail::run_algorithm(be, "adding rows", [&](auto const& policy) {
        detail::add_rows(policy, static_cast<float const*>(there.data()), tensor.channels, static_cast<index_t>(experts), sums.data());
      });
      auto const of_blocks = detail::download(be, sums);
      for (std::size_t i = 0; i < of_blocks.size(); ++i) { norms[i % experts] += of_blocks[i]; }
    }
    for (double& n : norms) { n = std::isfinite(n) ? std::sqrt(n) : 0.0; }
    return norms;
  }
};

/// The cuts that keep exactly `keep` elements of each expert's delta. Waits.
template <>
struct magnitude_cuts<cuda> {
  std::vector<magnitude_cut> operator()(cuda const& be, tensor_channels const& tensor, index_t keep) const {
    std::size_t const experts = tensor.experts.size();
    index_t const elements = tensor.channels * tensor.cols;
    if (keep <= 0) { return std::vector<magnitude_cut>(experts, magnitude_cut{0xFFFFFFFFu, -1}); }
    if (keep >= elements) { return std::vector<magnitude_cut>(experts, magnitude_cut{0u, elements}); }
    detail::current_device const current(be.device());
    detail::device_method_workspace work(be);
    detail::device_block const block(be, tensor);
    return detail::select_deltas(work, block.get(), tensor.cols, std::vector<index_t>(experts, keep), detail::radix_select::order::largest);
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
