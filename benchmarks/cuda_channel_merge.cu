/// Channel Merging in device memory, as a fraction of copy speed: the time of a device-to-device copy whose bytes read plus
/// bytes written are the least bytes of the merge, (N + 1 + K) x tensor, over the time of the merge; both in one CUDA graph each,
/// in the same run, with buffers in turn until twice the L2 cache lies between two uses of one.
///
///   bash tests/gpu.sh          builds and runs this among others; or: cuda_channel_merge [REPLAYS]

#include "support/device_models.cuh"
#include "support/graph_timer.cuh"

#include <braid/cuda.cuh>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace {

using braid::bfloat16;
using braid::index_t;
constexpr int experts = 4;
constexpr int groups = 2;

/// Inputs and outputs of one merge.
struct tensor_set : braid_bench::model_set {
  braid::device_buffer<bfloat16> pool;
  braid::device_buffer<std::uint8_t> label;

  tensor_set(braid::cuda const& be, index_t rows, index_t cols) : model_set(be, rows, cols, experts) {
    auto const n = static_cast<std::size_t>(rows * cols);
    pool = be.make_buffer<bfloat16>(n * groups);
    label = be.make_buffer<std::uint8_t>(static_cast<std::size_t>(rows) * experts);
  }
};

template <class Merge>
double merge_seconds(braid::cuda const& be, Merge const& merge, std::vector<tensor_set> const& sets, int steps, int replays) {
  std::vector<std::string> names;
  for (int e = 0; e < experts; ++e) { names.push_back("expert" + std::to_string(e)); }
  auto const context = merge.prepare(be, "weight", names, sets[0].source);
  auto const totals = be.make_buffer<braid::detail::merge_totals>(1);
  braid::detail::merge_totals const none;
  be.to_device(totals.data(), &none, 1);
  return braid_bench::graph_timer{}(be, steps, replays, [&](int step) {
    tensor_set const& s = sets[static_cast<std::size_t>(step) % sets.size()];
    auto* const pool = reinterpret_cast<std::byte*>(s.pool.data());
    merge.block_operation().enqueue(be, context, s.source,
                                    {pool, pool + s.source.channels * s.source.cols * 2, groups - 1, s.label.data(), totals.data()});
  });
}

using namespace braid;
template <class Prune>
using cosine_mean = channel_merge<braid::cuda, Prune, similarity::cosine, cluster::exact, consensus::mean>;

}  // namespace

int main(int argc, char** argv) {
  int const replays = argc > 1 ? std::atoi(argv[1]) : 9;
  braid::cuda const be;
  cudaDeviceProp device{};
  braid::detail::check_cuda(cudaGetDeviceProperties(&device, be.device()), "asking a device what it is");
  std::printf("%s, bf16, N = %d, K = %d, cosine, exact, mean\n", device.name, experts, groups);
  std::printf("%-14s %10s %10s %10s %10s %10s\n", "rows x cols", "copy GB/s", "none us", "fraction", "dare us", "fraction");
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{4096, 14336}, {14336, 4096}, {4096, 4096}, {1024, 4096}}) {
    std::size_t const least = static_cast<std::size_t>(rows * cols) * 2 * (experts + 1 + groups);
    std::size_t const turn = 2 * static_cast<std::size_t>(device.l2CacheSize);
    std::vector<tensor_set> sets;
    for (std::size_t i = 0; i < std::max<std::size_t>(2, turn / least + 1); ++i) { sets.emplace_back(be, rows, cols); }
    int const steps = least > (std::size_t{500} << 20) ? 12 : 24;
    auto const blocks = be.make_buffer<std::byte>(least * sets.size());
    double const copy = braid_bench::graph_timer{}(be, steps, replays, [&](int step) {
      std::byte* const from = blocks.data() + least * (static_cast<std::size_t>(step) % sets.size());
      braid::detail::check_cuda(cudaMemcpyAsync(from + least / 2, from, least / 2, cudaMemcpyDeviceToDevice, be.stream()), "copying");
    });
    double const plain = merge_seconds(be, cosine_mean<prune::none>{{.groups = groups}}, sets, steps, replays);
    double const dare = merge_seconds(be, cosine_mean<prune::dare>{{.prune = {.density = 0.7, .seed = 42}, .groups = groups}}, sets, steps, replays);
    char shape[32];
    std::snprintf(shape, sizeof shape, "%ldx%ld", static_cast<long>(rows), static_cast<long>(cols));
    std::printf("%-14s %10.0f %10.1f %10.3f %10.1f %10.3f\n", shape, static_cast<double>(least) / copy * 1e-9, plain * 1e6, copy / plain, dare * 1e6,
                copy / dare);
  }
  return 0;
}
