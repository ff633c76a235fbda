#pragma once

/// What residuals and budgets have to know of a tensor in device memory before it is merged.

#include <braid/backend/cpu/tensor_measures.hpp>
#include <braid/backend/cuda/general_gram.cuh>
#include <braid/backend/cuda/nonfinite.cuh>

#include <cmath>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// square(c) of a channel: over the experts, the squared distances of a column's deltas from their mean; as spread_body on the CPU.
template <class Rows>
struct channel_spread {
  Rows const* models;
  int experts;
  index_t channel;

  __device__ float operator()(index_t c) const noexcept {
    float const base = models[0].at(models[0].row(channel), c);
    float mean = 0.0f;
    for (int e = 1; e <= experts; ++e) { mean = mean + (models[e].at(models[e].row(channel), c) - base); }
    mean = mean / static_cast<float>(experts);
    float sum = 0.0f;
    for (int e = 1; e <= experts; ++e) {
      float const far = models[e].at(models[e].row(channel), c) - base - mean;
      sum = sum + far * far;
    }
    return sum;
  }
};

/// share[channel] = columns over the sum of the channel's squares; 0 where that says nothing. A warp takes a channel, half of
/// it a segment, every second one.
template <class Rows>
BRAID_KERNEL void spread_totals(Rows const* models, int experts, index_t channels, index_t cols, double* share) {
  index_t const channel = static_cast<index_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (channel >= channels) { return; }
  channel_spread<Rows> const square{models, experts, channel};
  auto const lane = static_cast<index_t>(threadIdx.x % 16);
  bool const second = (threadIdx.x & 16u) != 0;
  float total = 0.0f;
  for (index_t begin = 0; begin < cols; begin += 2 * sum_order::segment) {
    index_t const from = begin + (second ? sum_order::segment : 0);
    index_t const end = from + sum_order::segment < cols ? from + sum_order::segment : cols;
    float sum = 0.0f;
    for (index_t c = from + lane; c < end; c += sum_order::lanes) { sum = sum + square(c); }
    for (int width = sum_order::lanes / 2; width > 0; width /= 2) { sum = sum + __shfl_xor_sync(0xFFFFFFFFu, sum, width); }
    float const other = __shfl_xor_sync(0xFFFFFFFFu, sum, 16);
    total = total + (second ? other : sum);
    total = total + (second ? sum : other);
  }
  bool const finite = (__float_as_uint(total) & 0x7F800000u) != 0x7F800000u;
  if (threadIdx.x % 32 == 0) { share[channel] = total > 0.0f && finite ? static_cast<double>(cols) / static_cast<double>(total) : 0.0; }
}

/// partial[block, column] = the sum, in order, over a block's channels, of their squares' shares. A thread takes a column.
template <class Rows>
BRAID_KERNEL void spread_columns(Rows const* models, int experts, index_t channels, index_t cols, index_t of_block, double const* share, double* partial) {
  index_t const c = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= cols) { return; }
  index_t const first = static_cast<index_t>(blockIdx.y) * of_block;
  index_t const last = first + of_block < channels ? first + of_block : channels;
  double sum = 0.0;
  for (index_t channel = first; channel < last; ++channel) {
    double const s = share[channel];
    if (s > 0.0) { sum += static_cast<double>(channel_spread<Rows>{models, experts, channel}(c)) * s; }
  }
  partial[static_cast<index_t>(blockIdx.y) * cols + c] = sum;
}

}  // namespace detail

namespace ops {

/// The measuring pass of a budget: the device measures, the host's threads draw the curves. Waits.
template <class Similarity, class Cluster>
struct measure_curves<cuda, Similarity, Cluster> {
  Similarity const& similarity;
  Cluster const& cluster;
  int groups;
  residual_code_list codes;
  error_weighting weighting;

  /// @throws detail::nonfinite_found unless the context allows NaN and infinity
  std::shared_ptr<tensor_budget> operator()(cuda const& be, tensor_channels const& tensor, tensor_context& context,
                                            braid::cluster::budget_histogram& histogram) const {
    return detail::budget_of_grams(cpu{}, *this, tensor, context, measure(be, tensor, context), histogram);
  }

 private:
  detail::measured_grams measure(cuda const& be, tensor_channels const& tensor, tensor_context const& context) const {
    auto const experts = static_cast<int>(tensor.experts.size());
    auto const slots = static_cast<std::size_t>(experts);
    auto const entries = static_cast<std::size_t>(detail::tile_pair(experts, 0));
    auto const channels = static_cast<std::size_t>(tensor.channels);
    bool const signs = similarity.operand == gram_operand::signs;
    detail::measured_grams g;
    g.row_of.resize(channels * slots);
    g.dots.resize(channels * entries);
    if (signs) { g.sign_dots.resize(channels * entries); }
    g.squared.assign(slots, 0.0);
    if (channels == 0) { return g; }
    detail::current_device const current(be.device());
    auto const models = detail::upload_rows(be, tensor);
    auto const root = detail::upload(be, context.root_weight);
    std::vector<double> block(slots, 0.0);  // of the squared lengths: blocks of the CPU's measures, added in order
    index_t const most = std::max<index_t>(1, (index_t{64} << 20) / static_cast<index_t>(5 * entries));
    for (index_t first = 0; first < tensor.channels; first += most) {
      index_t const count = std::min(most, tensor.channels - first);
      auto const deltas = detail::measure_run(be, models, experts, context.cols, first, count, {false, root.data()}, true);
      detail::host_measures const of_signs =
          signs ? detail::measure_run(be, models, experts, context.cols, first, count, {true, root.data()}, true) : detail::host_measures{};
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
        std::size_t const channel = static_cast<std::size_t>(first) + i;
        detail::distinct_rows const distinct = detail::distinct_of(deltas.differs.data() + i * entries, experts);
        float const* const dots = deltas.dots.data() + i * entries;
        bool bad = deltas.bad[i] != 0;
        for (int a = 0; a < distinct.count; ++a) {
          for (int b = 0; b <= a; ++b) {
            std::size_t const to = channel * entries + static_cast<std::size_t>(detail::tile_pair(a, b));
            g.dots[to] = detail::dot_of(dots, distinct, a, b);
            if (signs) { g.sign_dots[to] = detail::dot_of(of_signs.dots.data() + i * entries, distinct, a, b); }
          }
          bad = bad || !std::isfinite(detail::dot_of(dots, distinct, a, a));
        }
        if (bad && !context.allow_nonfinite) { detail::report_nonfinite(be, context, tensor, static_cast<index_t>(channel)); }
        for (std::size_t e = 0; e < slots; ++e) {
          int const d = distinct.of_expert[e];
          g.row_of[channel * slots + e] = static_cast<std::uint8_t>(d);
          block[e] += static_cast<double>(detail::dot_of(dots, distinct, d, d));
        }
        if ((channel + 1) % detail::measure_rows == 0 || channel + 1 == channels) {
          for (std::size_t e = 0; e < slots; ++e) {
            g.squared[e] += block[e];
            block[e] = 0.0;
          }
        }
      }
    }
    return g;
  }
};

/// The scales of the residuals' columns, as ops::column_scales<cpu> defines them. Waits.
template <>
struct column_scales<cuda> {
  std::vector<bfloat16> operator()(cuda const& be, tensor_channels const& tensor) const {
    auto const cols = static_cast<std::size_t>(tensor.cols);
    index_t const most = std::max(detail::measure_rows, (tensor.channels + 63) / 64);
    auto const blocks = static_cast<std::size_t>((tensor.channels + most - 1) / most);
    if (cols == 0 || blocks == 0) { return detail::rounded_column_scales({}, blocks, cols); }
    detail::current_device const current(be.device());
    auto const models = detail::upload_rows(be, tensor);
    auto const experts = static_cast<int>(tensor.experts.size());
    auto const share = be.make_buffer<double>(static_cast<std::size_t>(tensor.channels));
    auto const partial = be.make_buffer<double>(blocks * cols);
    constexpr unsigned threads = 128;
    detail::spread_totals<<<static_cast<unsigned>((tensor.channels + 3) / 4), threads, 0, be.stream()>>>(
        static_cast<detail::any_rows const*>(models.data()), experts, tensor.channels, tensor.cols, share.data());
    detail::check_cuda(cudaGetLastError(), "starting a measuring pass");
    detail::spread_columns<<<dim3(static_cast<unsigned>((tensor.cols + threads - 1) / threads), static_cast<unsigned>(blocks)), threads, 0, be.stream()>>>(
        static_cast<detail::any_rows const*>(models.data()), experts, tensor.channels, tensor.cols, most, static_cast<double const*>(share.data()),
        partial.data());
    detail::check_cuda(cudaGetLastError(), "starting a measuring pass");
    return detail::rounded_column_scales(detail::download(be, partial), blocks, cols);
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
