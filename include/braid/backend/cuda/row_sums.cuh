#pragma once

/// Starts the kernels that sum over rows.

#include <braid/backend/cuda/algorithms/add_rows.cuh>
#include <braid/backend/cuda/algorithms/execution.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/method_blocks.cuh>
#include <braid/backend/cuda/sum_kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Sums of each row of a block, [rows, sums] in device memory.
struct device_row_sums {
  device_buffer<float> rows;
  std::uint32_t sums = 0;
};

/// Enqueues. `make(std::integral_constant<int, Most>)` makes what a row is summed by, for up to so many models.
/// @param check  notes NaN and infinity for the workspace's `finish`
/// @param given  the block as its owner knows it, for errors, where `block` is another
template <class Make>
device_row_sums sum_rows(device_method_workspace& work, channel_block const& block, index_t cols, operand what, bool check, Make const& make,
                         channel_block const* given = nullptr) {
  cuda const& be = work.executor();
  current_device const current(be.device());
  auto const n = static_cast<int>(block.experts.size());
  device_row_sums result;
  auto const start = [&]<int Most>(std::integral_constant<int, Most> most) {
    constexpr bool few = Most == most_few_models;
    auto f = make(most);
    using function = decltype(f);
    input_options const o{what, check, true, tile_layout::spread};
    auto const segments = static_cast<std::uint32_t>((cols + sum_order::segment - 1) / sum_order::segment);
    sum_arguments<function, Most> a{inputs_of<Most>(block, cols, o), segments, block.rows * segments, nullptr, f};
    if (check) { a.in.first_bad = work.watch(given == nullptr ? block : *given, cols, what); }
    result.sums = static_cast<std::uint32_t>(function::sums(n));
    device_buffer<float> const partial = be.make_buffer<float>(static_cast<std::size_t>(a.items) * result.sums);
    a.partial = partial.data();
    if constexpr (few) {
      constexpr unsigned threads = 128;
      auto const blocks = static_cast<unsigned>((a.items * segment_threads + threads - 1) / threads);
      with_few_models<most_few_models>(n, [&]<int N>(std::integral_constant<int, N>) { segment_sums_kernel<N><<<blocks, threads, 0, be.stream()>>>(a); });
    } else {
      std::size_t const of_thread = (static_cast<std::size_t>(n) + result.sums) * sizeof(float);
      unsigned const threads = of_thread * 128 <= 98304 ? 128 : 32;
      auto const kernel = segment_sums_many_kernel<function, Most>;
      allow_shared_memory(kernel);
      kernel<<<static_cast<unsigned>((a.items * sum_order::lanes + threads - 1) / threads), threads, of_thread * threads, be.stream()>>>(a);
    }
    check_cuda(cudaGetLastError(), "starting a measuring pass");
    index_t const count = block.rows * result.sums;
    result.rows = be.make_buffer<float>(static_cast<std::size_t>(count));
    add_segments_kernel<<<static_cast<unsigned>((count + 127) / 128), 128, 0, be.stream()>>>(partial.data(), count, segments, result.sums,
                                                                                              result.rows.data());
    check_cuda(cudaGetLastError(), "starting a sum");
  };
  if (n >= 1 && n <= most_few_models) {
    start(std::integral_constant<int, most_few_models>{});
  } else {
    start(std::integral_constant<int, max_experts>{});
  }
  return result;
}

/// Sums over all rows, in float64: rows in order in blocks of 256, blocks in order. Waits. @throws nonfinite_found
inline std::vector<double> total_sums(device_method_workspace& work, device_row_sums const& sums, index_t rows) {
  cuda const& be = work.executor();
  current_device const current(be.device());
  device_buffer<double> const there = be.make_buffer<double>(static_cast<std::size_t>(blocks_of_rows(rows)) * sums.sums);
  run_algorithm(be, "adding rows", [&](auto const& policy) {
    add_rows(policy, static_cast<float const*>(sums.rows.data()), rows, static_cast<index_t>(sums.sums), there.data());
  });
  std::vector<double> const partial = download(be, there);
  work.finish();
  std::vector<double> total(sums.sums, 0.0);
  for (std::size_t i = 0; i < partial.size(); ++i) { total[i % sums.sums] += partial[i]; }
  return total;
}

}  // namespace detail
BRAID_NAMESPACE_END
