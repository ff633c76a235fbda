#pragma once

/// ram, sce and arcee_fusion on a device.

#include <braid/backend/cuda/divergence_kernel.cuh>
#include <braid/backend/cuda/elementwise_methods.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/row_sums.cuh>
#include <braid/backend/cuda/sampled_select.cuh>
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

/// The same of up to four models, eight elements a thread at a time; all channels are one row.
template <int N>
BRAID_KERNEL void __launch_bounds__(256) count_few_movers_kernel(__grid_constant__ mover_counts const a, index_t tiles) {
  BRAID_BLOCK_OBJECT(std::uint32_t, counts[2 * N]);
  if (threadIdx.x < 2 * N) { counts[threadIdx.x] = 0; }
  __syncthreads();
  std::uint32_t alone[N] = {};
  std::uint32_t shared[N] = {};
  index_t const step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t t = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; t < tiles; t += step) {
    index_t const col = t * tile_elements;
    bool const whole = a.in.whole && col + tile_elements <= a.in.cols;
    element_tile<N> tile;
    load_elements<N, tile_layout::together>(a.in, 0, col, whole, tile);  // zeros beyond the end, which don't move
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) {
      std::uint32_t movers = 0;
#pragma unroll
      for (int i = 0; i < N; ++i) { movers += moves(tile.x[i][j], a.epsilon) ? 1u : 0u; }
#pragma unroll
      for (int i = 0; i < N; ++i) {
        std::uint32_t const moved = moves(tile.x[i][j], a.epsilon) ? 1u : 0u;
        alone[i] += movers == 1 ? moved : 0u;
        shared[i] += movers > 1 ? moved : 0u;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    std::uint32_t const of_warp_alone = __reduce_add_sync(0xFFFFFFFFu, alone[i]);
    std::uint32_t const of_warp_shared = __reduce_add_sync(0xFFFFFFFFu, shared[i]);
    if (threadIdx.x % 32 == 0) {
      atomicAdd(&counts[2 * i], of_warp_alone);
      atomicAdd(&counts[2 * i + 1], of_warp_shared);
    }
  }
  __syncthreads();
  if (threadIdx.x < 2 * N) { atomicAdd(&a.counts[threadIdx.x], static_cast<unsigned long long>(counts[threadIdx.x])); }
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

}  // namespace detail

template <>
inline std::vector<index_t> ram<cuda>::count_movers(cuda const& be, tensor_channels const& tensor, float epsilon) {
  detail::current_device const current(be.device());
  detail::device_block const block(be, tensor);
  std::size_t const size = 2 * tensor.experts.size();
  auto const there = be.make_buffer<unsigned long long>(size);
  detail::check_cuda(cudaMemsetAsync(there.data(), 0, size * sizeof(unsigned long long), be.stream()), "clearing counts");
  detail::mover_counts const a{detail::inputs_of<max_experts>(block.get(), tensor.cols, {detail::operand::deltas}), epsilon, there.data()};
  auto const blocks_of = [](index_t items) { return static_cast<unsigned>(std::min<index_t>((items + 255) / 256, 2048)); };
  auto const models = static_cast<int>(tensor.experts.size());
  constexpr index_t most_counted = index_t{1} << 40;  // so that a block's counts fit 32 bits
  if (epsilon >= 0.0f && models >= 1 && models <= detail::most_few_models && a.in.rows == 1 && a.in.has_base && a.in.cols < most_counted) {
    index_t const tiles = detail::tiles_of<detail::tile_layout::together>(a.in.cols);
    detail::with_few_models<detail::most_few_models>(models, [&]<int N>(std::integral_constant<int, N>) {
      detail::count_few_movers_kernel<N><<<blocks_of(tiles), 256, 0, be.stream()>>>(a, tiles);
    });
  } else if (models > 0) {
    detail::count_movers_kernel<<<blocks_of(tensor.channels * tensor.cols), 256, size * 4, be.stream()>>>(a);
  }
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
  constexpr auto order = detail::radix_select::order::largest;
  if (share > 0.0) {
    auto const quick = detail::select_by_sample<1>(work, block.get(), tensor.cols, detail::variance_values{}, {{}, static_cast<float>(share)}, order);
    if (quick[0]) { return *quick[0]; }
  }
  detail::value_selector select(work, block.get(), tensor.cols, detail::operand::deltas, detail::variance_values{}, order);
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
  auto const kernel = detail::divergence_kernel;
  constexpr std::size_t shared = sizeof(detail::divergence_room);
  detail::allow_shared_memory(kernel);
  auto const blocks = static_cast<unsigned>((tensor.channels + detail::divergence_rows - 1) / detail::divergence_rows);
  kernel<<<blocks, detail::divergence_threads, shared, be.stream()>>>(detail::device_input(block.get().experts[0]), detail::device_input(block.get().base),
                                                                      tensor.channels, tensor.cols, there.data());
  detail::check_cuda(cudaGetLastError(), "starting a measuring pass");
  plan->divergence = detail::download(be, there);
  auto const last = static_cast<std::uint64_t>(tensor.channels * tensor.cols - 1);
  std::uint64_t const quartile_number[] = {last / 4, last / 2, last / 4 * 3 + last % 4 * 3 / 4};  // from 0
  detail::importance_values const values{{}, there.data()};
  constexpr auto order = detail::radix_select::order::smallest;
  std::vector<index_t> wanted;
  for (std::uint64_t const number : quartile_number) { wanted.push_back(static_cast<index_t>(number) + 1); }
  auto const quick = detail::select_by_sample<3>(work, block.get(), tensor.cols, values, {wanted}, order);
  std::vector<magnitude_cut> quartile;
  if (std::all_of(quick.begin(), quick.end(), [](auto const& q) { return q.has_value(); })) {
    for (auto const& q : quick) { quartile.push_back(*q); }
  } else {
    detail::value_selector select(work, block.get(), tensor.cols, detail::operand::deltas, values, order, true);
    quartile = select([&](std::size_t s, index_t) { return wanted[s]; });
  }
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
