#pragma once

/// Starts what ranks rows: the kernels of codes, and sorts.

#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/start_ranked.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Columns of the longest row that a block sorts.
inline constexpr index_t most_sorted_cols = rank_threads * 29;

/// write(row, column, twice the rank) for the rows of a block that `write` names. Enqueues.
/// @param blocks  of threads; they share the rows
/// @param cols  at most `most_sorted_cols`
template <class Writer>
void sort_rows(cuda const& be, channel_block const& block, std::size_t model, index_t cols, unsigned blocks, Writer const& write) {
  auto const start = [&]<int Items>(std::integral_constant<int, Items>) {
    auto const kernel = rank_row_kernel<Items, Writer>;
    constexpr std::size_t shared = rank_memory<Items>();
    allow_shared_memory(kernel);
    kernel<<<blocks, rank_threads, shared, be.stream()>>>(device_input(block.base), device_input(block.experts[model]), cols, write);
  };
  if (cols <= rank_threads * 9) {
    start(std::integral_constant<int, 9>{});
  } else {
    start(std::integral_constant<int, 29>{});
  }
  check_cuda(cudaGetLastError(), "starting a sort");
}

/// Whether rows of that length have codes.
inline bool has_row_codes(index_t cols) noexcept { return cols % random_group == 0 && cols <= 16 * 28 * 32; }

/// The codes of a block's rows, in device memory.
template <class Plan>
class row_codes {
 public:
  /// Enqueues.
  /// @param plans  one a model; models without one have no codes
  row_codes(cuda const& be, channel_block const& block, index_t cols, std::vector<std::optional<Plan>> const& plans)
      : plans_(plans), begin_(block.first * cols), cols_(cols) {
    std::size_t coded = 0;
    for (auto const& p : plans) { coded += p ? 1 : 0; }
    of_model_ = static_cast<std::size_t>(block.rows * cols);
    codes_ = be.make_buffer<std::uint16_t>(of_model_ * coded);
    auto const left = be.make_buffer<std::uint32_t>(1 + static_cast<std::size_t>(block.rows) * coded_models);
    for (std::size_t i = 0; i < plans.size();) {
      code_arguments<Plan> a{};
      std::size_t of[coded_models];
      for (; i < plans.size() && a.count < coded_models; ++i) {
        place_.push_back(next_);
        if (!plans[i]) { continue; }
        of[a.count] = i;
        a.models[a.count] = device_input(block.experts[i]);
        a.plans[a.count] = *plans[i];
        a.offset[a.count] = code_offset(*plans[i], cols).value();
        a.codes[a.count] = codes_.data() + next_;
        next_ += of_model_;
        ++a.count;
      }
      if (a.count == 0) { continue; }
      a.base = device_input(block.base);
      a.keys = random_keys(a.plans[0].seed);  // a method's policies share a seed
      a.rows = block.rows;
      a.cols = cols;
      a.first = block.first;
      a.left = left.data();
      check_cuda(cudaMemsetAsync(left.data(), 0, sizeof(std::uint32_t), be.stream()), "clearing a count");
      start(be, a);
      for (int m = 0; m < a.count; ++m) {
        sort_rows(be, block, of[m], cols, static_cast<unsigned>(std::min<index_t>(block.rows, 264)), code_writer<Plan>{a.plans[m], a.offset[m], a.codes[m], cols, a.first, a.left, static_cast<std::uint32_t>(a.count), static_cast<std::uint32_t>(m)});
      }
    }
  }

  [[nodiscard]] coded_plan<Plan> plan(std::size_t model) const noexcept {
    if (!plans_[model]) { return {}; }
    return {codes_.data() + place_[model], begin_, cols_, code_offset(*plans_[model], cols_).value(), plans_[model]->rescale};
  }

 private:
  static void start(cuda const& be, code_arguments<Plan> const& a) {
    bool suits = suits_ranked(a.base, a.cols);
    for (int m = 0; m < a.count; ++m) { suits = suits && suits_ranked(a.models[m], a.cols); }
    if (suits) {
      with_few_models<coded_models>(a.count, [&]<int N>(std::integral_constant<int, N>) {
        ranked_arguments<N, Plan, ranked_codes<N>> r{};
        r.base = a.base;
        for (int m = 0; m < N; ++m) {
          r.models[m] = a.models[m];
          r.plans[m] = a.plans[m];
          r.out.to[m] = a.codes[m];
          r.out.offset[m] = a.offset[m];
        }
        r.keys = a.keys;
        r.rows = a.rows;
        r.cols = a.cols;
        r.first = a.first;
        r.left = a.left;
        start_ranked(be, r);
      });
      return;
    }
    auto const blocks = static_cast<unsigned>(a.rows * a.count);
    auto const run = [&]<int Warps, int Items>(std::integral_constant<int, Warps>, std::integral_constant<int, Items>) {
      auto const kernel = code_kernel<Warps, Items, Plan>;
      constexpr std::size_t shared = code_memory<Warps, Items>();
      allow_shared_memory(kernel);
      kernel<<<blocks, Warps * 32, shared, be.stream()>>>(a);
    };
    if (a.cols <= 8 * 16 * 32) {
      run(std::integral_constant<int, 8>{}, std::integral_constant<int, 16>{});
    } else {
      run(std::integral_constant<int, 16>{}, std::integral_constant<int, 28>{});
    }
    check_cuda(cudaGetLastError(), "starting a ranking");
  }

  std::vector<std::optional<Plan>> plans_;
  index_t begin_;
  index_t cols_;
  std::size_t of_model_ = 0;
  std::size_t next_ = 0;
  std::vector<std::size_t> place_;
  device_buffer<std::uint16_t> codes_;
};

}  // namespace detail
BRAID_NAMESPACE_END
