#pragma once

/// ram, sce and arcee_fusion on a device.

#include <braid/backend/cuda/elementwise_methods.cuh>
#include <braid/backend/cuda/row_sums.cuh>
#include <braid/backend/cuda/value_select.cuh>
#include <braid/core/detail/elementary.hpp>
#include <braid/method/arcee_fusion.hpp>
#include <braid/method/ram.hpp>
#include <braid/method/sce.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// counts[models, 2] += elements that each model changed alone, and with others.
struct mover_counts {
  element_inputs<max_experts> in;
  float epsilon;
  unsigned long long* counts;
};

BRAID_KERNEL void count_movers_kernel(__grid_constant__ mover_counts const a) {
  BRAID_BLOCK_MEMORY(memory);
  auto* const counts = reinterpret_cast<std::uint32_t*>(memory);
  auto const size = 2 * static_cast<unsigned>(a.in.count);
  for (unsigned i = threadIdx.x; i < size; i += blockDim.x) { counts[i] = 0; }
  __syncthreads();
  index_t const step = static_cast<index_t>(gridDim.x) * blockDim.x;
  index_t const elements = a.in.rows * a.in.cols;
  for (index_t t = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; t < elements; t += step) {
    index_t const row = a.in.rows > 1 ? t / a.in.cols : 0;
    index_t const col = t - row * a.in.cols;
    auto const at = [row, col](device_input const& input) { return widen_element(input.data + row * input.stride + col * bytes_of(input.type), input.type); };
    float const base = at(a.in.base);
    int movers = 0;
    for (int i = 0; i < a.in.count; ++i) { movers += moves(at(a.in.models[i]) - base, a.epsilon) ? 1 : 0; }
    if (movers == 0) { continue; }
    for (int i = 0; i < a.in.count; ++i) {
      if (moves(at(a.in.models[i]) - base, a.epsilon)) { atomicAdd(&counts[2 * i + (movers > 1 ? 1 : 0)], 1u); }
    }
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
    if (counts[i] != 0) { atomicAdd(&a.counts[i], static_cast<unsigned long long>(counts[i])); }
  }
}

/// Squares of the deltas that SCE selects, of each model.
struct selected_squares {
  variance_selection selected;

  BRAID_HD static constexpr int sums(int n) noexcept { return n; }

  template <int N>
  __device__ void add(tile_place const& at, element_tile<N> const& tile, float (&sum)[N][2]) const noexcept {
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) {
      index_t const c = tile_column<tile_layout::spread>(j);
      float one[N];
#pragma unroll
      for (int i = 0; i < N; ++i) { one[i] = tile.x[i][j]; }
      bool const kept = (at.whole || at.col + c < at.end) && selected(static_cast<float const*>(one), N, at.row, at.col + c);
#pragma unroll
      for (int i = 0; i < N; ++i) { sum[i][j % 2] = sum[i][j % 2] + (kept ? one[i] * one[i] : 0.0f); }
    }
  }
  __device__ void add_one(float const* x, int n, index_t row, index_t col, float* sum) const noexcept {
    bool const kept = selected(x, n, row, col);
    for (int i = 0; i < n; ++i) { sum[i] = sum[i] + (kept ? x[i] * x[i] : 0.0f); }
  }
};

/// divergence[row] of Arcee Fusion: float64, exponentials by a block's threads, sums from the left by one thread for each
/// model. `room` has 2 x cols for each block.
BRAID_KERNEL void divergence_kernel(device_input model, device_input base, index_t cols, double* room, float* divergence) {
  BRAID_BLOCK_OBJECT(double, sums[2]);
  BRAID_BLOCK_OBJECT(float, largest[2]);
  index_t const row = blockIdx.x;
  device_input const inputs[2] = {model, base};
  auto const at = [&](int m, index_t c) {
    return widen_element(inputs[m].data + row * inputs[m].stride + c * bytes_of(inputs[m].type), inputs[m].type);
  };
  double* const p = room + row * 2 * cols;
  double* const of[2] = {p, p + cols};
  auto const warp = threadIdx.x / 32;
  if (warp < 2) {
    auto const m = static_cast<int>(warp);
    float most = -HUGE_VALF;
    for (index_t c = threadIdx.x % 32; c < cols; c += 32) {
      float const x = at(m, c);
      most = x > most ? x : most;
    }
    for (int step = 16; step > 0; step /= 2) {
      float const other = __shfl_xor_sync(0xFFFFFFFFu, most, step);
      most = other > most ? other : most;
    }
    if (threadIdx.x % 32 == 0) { largest[m] = most; }
  }
  __syncthreads();
  for (int m = 0; m < 2; ++m) {
    for (index_t c = threadIdx.x; c < cols; c += blockDim.x) { of[m][c] = exp_negative(static_cast<double>(at(m, c)) - static_cast<double>(largest[m])); }
  }
  __syncthreads();
  if (warp < 2 && threadIdx.x % 32 == 0) {
    double sum = 0.0;
#pragma unroll 8
    for (index_t c = 0; c < cols; ++c) { sum += of[warp][c]; }
    sums[warp] = sum;
  }
  __syncthreads();
  for (index_t c = threadIdx.x; c < cols; c += blockDim.x) {
    double const a = p[c] / sums[0] + 1e-8;
    double const b = of[1][c] / sums[1] + 1e-8;
    p[c] = a * log_positive(a / b);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    double sum = 0.0;
#pragma unroll 8
    for (index_t c = 0; c < cols; ++c) { sum += p[c]; }
    divergence[row] = sum > 0.0 ? static_cast<float>(sum) : 0.0f;
  }
}

}  // namespace detail

template <>
inline std::vector<index_t> ram<cuda>::count_movers(cuda const& be, tensor_channels const& tensor, float epsilon) {
  detail::current_device const current(be.device());
  detail::device_block const block(be, tensor);
  std::size_t const size = 2 * tensor.experts.size();
  auto const there = be.make_buffer<unsigned long long>(size);
  detail::check_cuda(cudaMemsetAsync(there.data(), 0, size * sizeof(unsigned long long), be.stream()), "clearing counts");
  detail::mover_counts const a{detail::inputs_of<max_experts>(block.get(), tensor.cols, {detail::operand::deltas}), epsilon, there.data()};
  auto const blocks = static_cast<unsigned>(std::min<index_t>((tensor.channels * tensor.cols + 255) / 256, 2048));
  if (!tensor.experts.empty()) { detail::count_movers_kernel<<<blocks, 256, size * 4, be.stream()>>>(a); }
  detail::check_cuda(cudaGetLastError(), "starting a measuring pass");
  auto const counts = detail::download(be, there);
  return {counts.begin(), counts.end()};
}

template <>
inline void ram<cuda>::apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                                   detail::device_method_workspace& work) const {
  auto const& plan = static_cast<plan_type const&>(any_plan);
  detail::map_elements(work, block, plan.cols, out, detail::operand::deltas, plan.allow_nonfinite, [&]<int Most>(std::integral_constant<int, Most>) {
    detail::ram_function<Most> f{};
    f.epsilon = plan.epsilon;
    detail::copy_numbers(plan.factor, f.factor);
    return f;
  });
}

template <>
inline magnitude_cut sce<cuda>::select(cuda const& be, tensor_channels const& tensor, double share) {
  detail::device_method_workspace work(be);
  detail::device_block const block(be, tensor);
  detail::value_selector select(work, block.get(), tensor.cols, detail::operand::deltas, detail::variance_values{}, detail::radix_select::order::largest);
  return select([&](std::size_t, index_t nonzero) {
    return share <= 0.0 ? index_t{0} : static_cast<index_t>(static_cast<float>(nonzero) * static_cast<float>(share));
  })[0];
}

template <>
inline std::vector<float> sce<cuda>::weigh(cuda const& be, tensor_channels const& tensor, plan_type const& plan) {
  std::size_t const models = tensor.experts.size();
  detail::device_method_workspace work(be);
  detail::device_block const block(be, tensor);
  detail::selected_squares const f{{plan.selects, plan.cut, tensor.cols}};
  auto mean_square = detail::total_sums(work, detail::sum_rows(work, block.get(), tensor.cols, detail::operand::deltas, false, [&](auto) { return f; }),
                                        tensor.channels);
  double sum = 0.0;
  for (double& m : mean_square) {
    m /= static_cast<double>(tensor.channels * tensor.cols);
    sum += m;
  }
  std::vector<float> weight;
  for (double const m : mean_square) {
    weight.push_back(static_cast<float>(std::abs(sum) < 1e-6 ? 1.0 / static_cast<double>(models) : m / sum));
  }
  return weight;
}

template <>
inline void sce<cuda>::apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                                   detail::device_method_workspace& work) const {
  auto const& plan = static_cast<plan_type const&>(any_plan);
  detail::map_elements(work, block, plan.cols, out, detail::operand::deltas, plan.allow_nonfinite, [&]<int Most>(std::integral_constant<int, Most>) {
    detail::sce_function<Most> f{};
    f.selected = {plan.selects, plan.cut, plan.cols};
    detail::copy_numbers(plan.weight, f.weight);
    return f;
  });
}

template <>
inline std::unique_ptr<method_plan> arcee_fusion<cuda>::make_plan(cuda const& be, tensor_request const& request, detail::parameter_reader const&) const {
  auto plan = std::make_unique<plan_type>();
  if (request.models.empty()) { return plan; }
  detail::current_device const current(be.device());
  tensor_channels const& tensor = request.inputs;
  detail::device_method_workspace work(be);
  detail::device_block const block(be, tensor);
  auto const channels = static_cast<std::size_t>(tensor.channels);
  auto const there = be.make_buffer<float>(channels);
  constexpr index_t most_room = index_t{256} << 20;  // bytes
  index_t const at_once = std::clamp<index_t>(most_room / (16 * tensor.cols), 1, tensor.channels);
  auto const room = be.make_buffer<double>(static_cast<std::size_t>(2 * at_once * tensor.cols));
  detail::device_input model(block.get().experts[0]);
  detail::device_input base(block.get().base);
  for (index_t first = 0; first < tensor.channels; first += at_once) {
    auto const rows = static_cast<unsigned>(std::min(at_once, tensor.channels - first));
    detail::divergence_kernel<<<rows, 256, 0, be.stream()>>>(model, base, tensor.cols, room.data(), there.data() + first);
    detail::check_cuda(cudaGetLastError(), "starting a measuring pass");
    model.data += at_once * model.stride;
    base.data += at_once * base.stride;
  }
  plan->divergence = detail::download(be, there);
  auto const last = static_cast<std::uint64_t>(tensor.channels * tensor.cols - 1);
  std::uint64_t const quartile_number[] = {last / 4, last / 2, last / 4 * 3 + last % 4 * 3 / 4};  // from 0
  detail::value_selector select(work, block.get(), tensor.cols, detail::operand::deltas, detail::importance_values{there.data()},
                                detail::radix_select::order::smallest, true);
  auto const quartile = select([&](std::size_t s, index_t) { return static_cast<index_t>(quartile_number[s]) + 1; });
  float x[3];
  for (std::size_t s = 0; s < 3; ++s) { x[s] = detail::bits_as<float>(quartile[s].bits); }
  plan->threshold = x[1] + 1.5f * (x[2] - x[0]);
  return plan;
}

template <>
inline void arcee_fusion<cuda>::apply_block(method_plan const& any_plan, channel_block const& block, std::byte* out,
                                            detail::device_method_workspace& work) const {
  auto const& plan = static_cast<plan_type const&>(any_plan);
  device_buffer<float> const there = detail::upload(work.executor(), plan.divergence);
  detail::map_elements(work, block, plan.cols, out, detail::operand::deltas, plan.allow_nonfinite,
                       [&](auto) { return detail::fusion_function{{}, there.data(), plan.threshold}; });
}

BRAID_NAMESPACE_END
