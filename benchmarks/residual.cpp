/// Merging with residuals in memory, N experts in one group: as a fraction of copy speed (the time of a memcpy whose bytes
/// read plus bytes written are the least bytes of the merge, inputs, shared rows and residuals, over the time of the merge,
/// in the same run), and in nanoseconds a column of the group.
///
///   build/bench/bin/bench_residual --benchmark_filter=sign

#include "support/copy_speed.hpp"
#include "support/models.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/none.hpp>
#include <braid/residual/any.hpp>
#include <braid/similarity/cosine.hpp>

#include <benchmark/benchmark.h>

namespace {

using braid::bfloat16;
using merge_type = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact,
                                        braid::consensus::mean, braid::residual::any>;

constexpr braid::index_t rows = 64;
constexpr braid::index_t cols = 4096;
constexpr int experts = 4;

braid_bench::models<bfloat16> const& inputs() {
  static braid_bench::models<bfloat16> const m(rows, cols, experts);
  return m;
}

void residual(benchmark::State& state, braid::residual::any const& code) {
  braid::cpu const be(1);
  merge_type const merge{{.residual = code, .groups = 1}};
  auto const& m = inputs();
  auto const views = m.expert_views();
  braid::grouped_tensor<bfloat16> out;
  merge.merge_into(be, "weight", m.base_view(), views, out);  // its memory exists from here on
  std::size_t const read = (experts + 1) * m.base.size() * sizeof(bfloat16);
  std::size_t const least = read + out.stored_bytes();
  double const copy = braid_bench::copy_seconds(be, least);
  double seconds = 0.0;
  for (auto _ : state) {
    auto const start = std::chrono::steady_clock::now();
    merge.merge_into(be, "weight", m.base_view(), views, out);
    double const once = braid_bench::seconds_since(start);
    state.SetIterationTime(once);
    seconds += once;
  }
  benchmark::DoNotOptimize(out.pool().data_handle());
  double const mean = seconds / static_cast<double>(state.iterations());
  state.counters["fraction_of_copy"] = copy / mean;
  state.counters["ns_a_column"] = mean * 1e9 / static_cast<double>(rows * cols);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(least));
}

/// A code with three sweeps.
template <class Residual>
void add(char const* name) {
  Residual code;
  code.sweeps = 3;
  benchmark::RegisterBenchmark((std::string("residual/") + name + "/3 sweeps/bf16/64x4096/N4/K1").c_str(),
                               [code](benchmark::State& state) { residual(state, code); })
      ->UseManualTime()->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
  add<braid::residual::sign_bits<1>>("sign1");
  add<braid::residual::ternary>("ternary");
  add<braid::residual::sign_bits<2>>("sign2");
  add<braid::residual::sign_bits<3>>("sign3");
  add<braid::residual::trellis<1>>("trellis1");
  add<braid::residual::trellis<2>>("trellis2");
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
