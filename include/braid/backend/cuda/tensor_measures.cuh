#pragma once

/// Measures of whole tensors in device memory, taken before the merge by the policies that need them.

#include <braid/backend/cuda/algorithms/add_rows.cuh>
#include <braid/backend/cuda/algorithms/execution.cuh>
#include <braid/backend/cuda/any_rows.cuh>
#include <braid/backend/cuda/lane_gram.cuh>
#include <braid/backend/cuda/nonfinite.cuh>
#include <braid/backend/cuda/row_statistics.cuh>

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

inline constexpr unsigned magnitude_bins = 2048;

/// counts[expert, bin] += elements whose magnitude's bits begin with the expert's prefix, by the `bits` bits above `shift`.
template <class Rows>
BRAID_KERNEL void count_magnitudes(Rows const* models, int experts, index_t channels, index_t cols, int shift, int bits,
                                   std::uint32_t const* prefix, unsigned long long* counts) {
  __shared__ std::uint32_t bins[magnitude_bins];
  for (unsigned b = threadIdx.x; b < magnitude_bins; b += blockDim.x) { bins[b] = 0; }
  __syncthreads();
  auto const expert = static_cast<int>(blockIdx.y);
  std::uint32_t const wanted = prefix[expert];
  for (index_t channel = blockIdx.x; channel < channels; channel += gridDim.x) {
    magnitude_row const row(models, expert, channel);
    for (index_t c = threadIdx.x; c < cols; c += blockDim.x) {
      std::uint32_t const key = row(c);
      if (static_cast<std::uint64_t>(key) >> (shift + bits) == wanted) { atomicAdd(&bins[key >> shift & ((1u << bits) - 1u)], 1u); }
    }
  }
  __syncthreads();
  for (unsigned b = threadIdx.x; b < magnitude_bins; b += blockDim.x) {
    if (bins[b] != 0) { atomicAdd(&counts[static_cast<unsigned>(expert) * magnitude_bins + b], static_cast<unsigned long long>(bins[b])); }
  }
}

/// equals[channel, expert] = elements whose magnitude is the expert's cut.
template <class Rows>
BRAID_KERNEL void count_equal_magnitudes(Rows const* models, int experts, index_t cols, std::uint32_t const* cut, std::uint32_t* equals) {
  __shared__ std::uint32_t count;
  index_t const channel = blockIdx.x;
  for (int e = 0; e < experts; ++e) {
    if (threadIdx.x == 0) { count = 0; }
    __syncthreads();
    magnitude_row const row(models, e, channel);
    std::uint32_t mine = 0;
    for (index_t c = threadIdx.x; c < cols; c += blockDim.x) { mine += row(c) == cut[e] ? 1u : 0u; }
    if (mine != 0) { atomicAdd(&count, mine); }
    __syncthreads();
    if (threadIdx.x == 0) { equals[channel * experts + e] = count; }
    __syncthreads();
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

/// The cuts that keep exactly `keep` elements of each expert's delta, by radix selection on the bits of the magnitudes: three
/// passes of 11, 10 and 10 bits, and one more where equals straddle the cut. Waits.
template <>
struct magnitude_cuts<cuda> {
  std::vector<magnitude_cut> operator()(cuda const& be, tensor_channels const& tensor, index_t keep) const {
    std::size_t const experts = tensor.experts.size();
    index_t const elements = tensor.channels * tensor.cols;
    if (keep <= 0) { return std::vector<magnitude_cut>(experts, magnitude_cut{0xFFFFFFFFu, -1}); }
    if (keep >= elements) { return std::vector<magnitude_cut>(experts, magnitude_cut{0u, elements}); }
    detail::current_device const current(be.device());
    auto const models = detail::upload_rows(be, tensor);
    detail::any_rows const* const rows = models.data();

    std::vector<std::uint32_t> prefix(experts, 0);
    std::vector<std::uint64_t> wanted(experts, static_cast<std::uint64_t>(keep));  // of those that begin with the prefix
    std::vector<std::uint64_t> equal(experts, 0);
    constexpr int shifts[] = {20, 10, 0};
    auto const blocks = static_cast<unsigned>(tensor.channels < 1024 ? tensor.channels : 1024);
    for (int const shift : shifts) {
      int const bits = shift == 20 ? 11 : 10;
      auto const there = be.make_buffer<unsigned long long>(experts * detail::magnitude_bins);
      detail::check_cuda(cudaMemsetAsync(there.data(), 0, there.size() * sizeof(unsigned long long), be.stream()), "clearing counts");
      auto const begin = detail::upload(be, prefix);
      detail::count_magnitudes<<<dim3(blocks, static_cast<unsigned>(experts)), 256, 0, be.stream()>>>(
          rows, static_cast<int>(experts), tensor.channels, tensor.cols, shift, bits, static_cast<std::uint32_t const*>(begin.data()), there.data());
      detail::check_cuda(cudaGetLastError(), "starting a selection");
      auto const counts = detail::download(be, there);
      for (std::size_t e = 0; e < experts; ++e) {
        unsigned long long const* const of_expert = counts.data() + e * detail::magnitude_bins;
        std::uint32_t b = (1u << bits) - 1u;
        for (; b > 0 && of_expert[b] < wanted[e]; --b) { wanted[e] -= of_expert[b]; }
        prefix[e] = prefix[e] << bits | b;
        equal[e] = of_expert[b];
      }
    }
    std::vector<magnitude_cut> cuts(experts);
    bool straddles = false;
    for (std::size_t e = 0; e < experts; ++e) {
      cuts[e] = {prefix[e], elements};
      straddles = straddles || equal[e] > wanted[e];
    }
    if (straddles) { find_last_equals(be, tensor, models, prefix, wanted, equal, cuts); }
    return cuts;
  }

 private:
  /// Of the elements that equal the cut, finds the index of the last one that survives.
  static void find_last_equals(cuda const& be, tensor_channels const& tensor, device_buffer<detail::any_rows> const& models,
                               std::vector<std::uint32_t> const& bits, std::vector<std::uint64_t> const& wanted,
                               std::vector<std::uint64_t> const& equal, std::vector<magnitude_cut>& cuts) {
    std::size_t const experts = cuts.size();
    auto const cut = detail::upload(be, bits);
    auto const there = be.make_buffer<std::uint32_t>(static_cast<std::size_t>(tensor.channels) * experts);
    detail::count_equal_magnitudes<<<static_cast<unsigned>(tensor.channels), 256, 0, be.stream()>>>(
        static_cast<detail::any_rows const*>(models.data()), static_cast<int>(experts), tensor.cols, static_cast<std::uint32_t const*>(cut.data()), there.data());
    detail::check_cuda(cudaGetLastError(), "starting a count");
    auto const equals = detail::download(be, there);
    for (std::size_t e = 0; e < experts; ++e) {
      std::uint64_t left = wanted[e];
      if (left == equal[e]) { continue; }
      std::size_t channel = 0;
      for (; equals[channel * experts + e] < left; ++channel) { left -= equals[channel * experts + e]; }
      tensor_channels one = tensor;
      one.experts = {tensor.experts[e]};
      auto const row = detail::download_channel(be, one, static_cast<index_t>(channel));
      detail::channel_workspace work;
      std::vector<float> delta(static_cast<std::size_t>(tensor.cols));
      detail::row_delta(row.block.experts[0].data, row.block.experts[0].type, row.block.base.data, row.block.base.type, tensor.cols, work,
                        delta.data());
      for (index_t c = 0; left > 0; ++c) {
        if (detail::magnitude_bits(delta[static_cast<std::size_t>(c)]) == bits[e] && --left == 0) {
          cuts[e].last = static_cast<index_t>(channel) * tensor.cols + c;
        }
      }
    }
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
