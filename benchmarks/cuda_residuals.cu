/// Coding residuals in device memory, as a fraction of copy speed: the time of a device-to-device copy whose bytes read plus bytes
/// written are the least bytes of the coding, every expert's row read once, the shared rows and the planes written once, over the
/// time of the coding, with buffers in turn until twice the L2 cache lies between two uses of one.
///
///   bash tests/gpu.sh          builds and runs this among others; or: cuda_residuals [REPLAYS]

#include "support/device_models.cuh"
#include "support/graph_timer.cuh"

#include <braid/backend/cuda/residual_merge.cuh>

#include <cstdio>
#include <cstdlib>

namespace {

using braid::bfloat16;
using braid::index_t;
namespace detail = braid::detail;
namespace residual = braid::residual;
constexpr int experts = 4;

/// Labels of all channels: experts in turn.
struct fill_labels {
  std::uint8_t* to;
  int groups;
  BRAID_HD void operator()(index_t i) const { to[i] = static_cast<std::uint8_t>(i % experts % groups); }
};

/// Inputs and outputs. Where a group has more than two members, its shared row begins as the base.
struct tensor_set : braid_bench::model_set {
  braid::device_buffer<bfloat16> pool;
  braid::device_buffer<std::byte> planes;
  braid::device_buffer<bfloat16> scales;
  braid::device_buffer<braid::residual_code> code;

  tensor_set(braid::cuda const& be, index_t rows, index_t cols) : model_set(be, rows, cols, experts) {
    auto const n = static_cast<std::size_t>(rows * cols);
    pool = be.make_buffer<bfloat16>(2 * n);
    be.for_each(rows * cols, braid_bench::fill_model{pool.data(), 0});
    planes = be.make_buffer<std::byte>(n * experts / 4);
    scales = be.make_buffer<bfloat16>(static_cast<std::size_t>(rows) * experts);
    code = be.make_buffer<braid::residual_code>(static_cast<std::size_t>(rows) * experts);
  }
};

template <class Residual>
void measure(braid::cuda const& be, Residual const& policy, std::vector<tensor_set> const& sets, int groups, int replays, double copy_speed) {
  auto const& source = sets[0].source;
  auto const label = be.make_buffer<std::uint8_t>(static_cast<std::size_t>(source.channels) * experts);
  be.for_each(source.channels * experts, fill_labels{label.data(), groups});
  auto const totals = be.make_buffer<detail::merge_totals>(1);
  detail::merge_totals const none;
  be.to_device(totals.data(), &none, 1);
  auto const tables = detail::upload(be, detail::trellis_tables());
  std::vector<braid::device_buffer<detail::any_rows>> models;
  for (auto const& s : sets) { models.push_back(detail::upload_rows(be, s.source)); }
  double const seconds = braid_bench::graph_timer{}(be, static_cast<int>(2 * sets.size()), replays, [&](int step) {
    auto const at = static_cast<std::size_t>(step) % sets.size();
    tensor_set const& s = sets[at];
    detail::residual_arguments a;
    a.models = models[at].data();
    a.experts = experts;
    a.channels = source.channels;
    a.sweeps = policy.sweeps;
    a.type = source.out;
    a.shape.cols = static_cast<int>(source.cols);
    auto* const pool = reinterpret_cast<std::byte*>(s.pool.data());
    a.merged = {pool, pool + source.channels * source.cols * 2, groups - 1, label.data(), totals.data()};
    a.out = {s.planes.data(), s.scales.data(), s.code.data(), braid::residual_bytes(policy.code, source.cols), braid::residual_scales(policy.code)};
    a.table = tables.data() + (policy.code == braid::residual_code::trellis2 ? 256 : 0);
    detail::start_coding<typename detail::device_coder<Residual>::type>(be, a);
  });
  double const least = static_cast<double>(source.channels) *
                       (static_cast<double>(source.cols) * 2.0 * (experts + groups) + static_cast<double>(experts * braid::residual_bytes(policy.code, source.cols)));
  std::printf("%-9s %d groups %10.1f us   %6.4f of the copy\n", std::string(policy.name).c_str(), groups, seconds * 1e6, least / copy_speed / seconds);
}

}  // namespace

int main(int argc, char** argv) {
  int const replays = argc > 1 ? std::atoi(argv[1]) : 5;
  braid::cuda const be;
  cudaDeviceProp device{};
  detail::check_cuda(cudaGetDeviceProperties(&device, be.device()), "asking a device what it is");
  std::printf("%s, residuals, bf16, N = %d\n", device.name, experts);
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{4096, 4096}, {1024, 14336}}) {
    std::size_t const one = static_cast<std::size_t>(rows * cols) * 2;
    std::vector<tensor_set> sets;
    for (std::size_t bytes = 0; bytes < 2 * static_cast<std::size_t>(device.l2CacheSize) || sets.size() < 2; bytes += one * (experts + 2)) {
      sets.emplace_back(be, rows, cols);
    }
    double const copy = braid_bench::graph_timer{}(be, 16, replays, [&](int step) {
      tensor_set const& s = sets[static_cast<std::size_t>(step) % sets.size()];
      detail::check_cuda(cudaMemcpyAsync(s.pool.data(), s.models[static_cast<std::size_t>(1 + step % experts)].data(), one, cudaMemcpyDeviceToDevice, be.stream()), "copying");
    });
    double const speed = 2.0 * static_cast<double>(one) / copy;
    std::printf("%lld x %lld: copy %.0f GB/s\n", static_cast<long long>(rows), static_cast<long long>(cols), speed * 1e-9);
    for (int const groups : {2, 1}) {
      measure(be, residual::sign_bits<1>{}, sets, groups, replays, speed);
      measure(be, residual::ternary{}, sets, groups, replays, speed);
      measure(be, residual::trellis<1>{}, sets, groups, replays, speed);
    }
  }
}
