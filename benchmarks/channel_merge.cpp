/// Channel Merging in memory, as a fraction of copy speed: the time of a memcpy whose bytes read plus bytes written are
/// the least bytes of the merge, (N + 1 + K) x tensor, over the time of the merge, in the same run.
///
///   build/bench/bin/bench_channel_merge --benchmark_filter=cosine

#include "support/copy_speed.hpp"
#include "support/models.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/consensus/ties.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/dare.hpp>
#include <braid/prune/magnitude.hpp>
#include <braid/prune/none.hpp>
#include <braid/similarity/balanced.hpp>
#include <braid/similarity/cosine.hpp>

#include <benchmark/benchmark.h>

namespace {

using braid::bfloat16;
using plain = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact,
                                   braid::consensus::mean>;
using dare = braid::channel_merge<braid::cpu, braid::prune::dare, braid::similarity::cosine, braid::cluster::exact,
                                  braid::consensus::mean>;
using balanced = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::balanced, braid::cluster::exact,
                                      braid::consensus::mean>;
using ties = braid::channel_merge<braid::cpu, braid::prune::magnitude, braid::similarity::cosine, braid::cluster::exact,
                                  braid::consensus::ties>;

constexpr braid::index_t rows = 4096;
constexpr braid::index_t cols = 14336;
constexpr int experts = 4;
constexpr int groups = 2;

braid_bench::models<bfloat16> const& inputs() {
  static braid_bench::models<bfloat16> const m(rows, cols, experts);
  return m;
}

template <class Merge>
void channel_merge(benchmark::State& state) {
  braid::cpu const be(static_cast<int>(state.range(0)));
  Merge const merge{{.groups = groups}};
  auto const& m = inputs();
  auto const views = m.expert_views();
  braid::grouped_tensor<bfloat16> out;
  merge.merge_into(be, "weight", m.base_view(), views, out);  // its memory exists from here on
  std::size_t const least = (experts + 1 + groups) * m.base.size() * sizeof(bfloat16);
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
  state.counters["copy_GB/s"] = static_cast<double>(least) / copy / 1e9;
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(least));
}

void setup(benchmark::internal::Benchmark* b) {
  b->ArgName("threads")->Arg(1)->Arg(2)->UseManualTime()->Unit(benchmark::kMillisecond)->Repetitions(5)->ReportAggregatesOnly(true);
}

}  // namespace

BENCHMARK_TEMPLATE(channel_merge, plain)->Name("channel_merge/none,cosine,exact,mean/bf16/4096x14336/N4/K2")->Apply(setup);
BENCHMARK_TEMPLATE(channel_merge, balanced)->Name("channel_merge/none,balanced,exact,mean/bf16/4096x14336/N4/K2")->Apply(setup);
BENCHMARK_TEMPLATE(channel_merge, dare)->Name("channel_merge/dare,cosine,exact,mean/bf16/4096x14336/N4/K2")->Apply(setup);
BENCHMARK_TEMPLATE(channel_merge, ties)->Name("channel_merge/magnitude,cosine,exact,ties/bf16/4096x14336/N4/K2")->Apply(setup);

BENCHMARK_MAIN();
