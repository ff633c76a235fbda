/// Single-model methods in memory, as a fraction of copy speed: the time of a memcpy whose bytes read plus bytes written are
/// the least bytes of the merge, (inputs + 1) x tensor, over the time of the merge, in the same run on as many threads.
///
///   build/bench/bin/bench_methods --benchmark_filter='(ties|slerp)/.*512x3584.*threads:1/'

#include "support/copy_speed.hpp"
#include "support/models.hpp"

#include <braid/method/make_tensor_method.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <map>
#include <set>
#include <thread>

namespace {

using braid::bfloat16;
using braid::index_t;

struct shape {
  index_t rows;
  index_t cols;
};
constexpr shape shapes[] = {{512, 3584}, {4096, 14336}};
constexpr int most_models = 4;

braid_bench::models<bfloat16> const& inputs(shape s) {
  static std::map<index_t, braid_bench::models<bfloat16>> made;
  return made.try_emplace(s.rows, s.rows, s.cols, most_models).first->second;
}

/// Values for every parameter that a method wants: halves, so that pruning prunes and averages average.
braid::method_parameters parameters_of(braid::method_info const& info) {
  braid::method_parameters p;
  for (auto const& known : info.parameters) {
    if (known.name == "weight" || known.name == "density" || known.name == "select_topk") { p.of_tensor[std::string(known.name)] = 0.5; }
    if (known.name == "t") { p.of_tensor["t"] = info.name == "nearswap" ? 1e-4 : 0.3; }
  }
  return p;
}

void merge(benchmark::State& state, std::string_view name, shape s, int models, int threads) {
  braid::cpu const be(threads);
  auto const method = braid::make_tensor_method<braid::cpu>(name);
  bool const based = method->info().base != braid::base_role::member;
  auto const& m = inputs(s);
  auto const rows_of = [&](std::vector<bfloat16> const& x) {
    return braid::channel_rows{reinterpret_cast<std::byte const*>(x.data()), braid::dtype::bf16, s.cols * 2};
  };
  braid::tensor_request request;
  request.tensor = "weight";
  request.inputs.channels = s.rows;
  request.inputs.cols = s.cols;
  request.inputs.out = braid::dtype::bf16;
  request.parameters = parameters_of(method->info());
  if (based) { request.inputs.base = rows_of(m.base); }
  for (int e = 0; e < models; ++e) {
    request.models.push_back(m.names[static_cast<std::size_t>(e)]);
    request.inputs.experts.push_back(rows_of(m.experts[static_cast<std::size_t>(e)]));
  }
  std::vector<std::byte> out(m.base.size() * 2);
  method->merge_into(be, request, out.data());  // its memory exists from here on
  std::size_t const least = (static_cast<std::size_t>(models) + (based ? 1 : 0) + 1) * out.size();
  double const copy = braid_bench::copy_seconds(be, least);
  double seconds = 0.0;
  for (auto _ : state) {
    auto const start = std::chrono::steady_clock::now();
    method->merge_into(be, request, out.data());
    double const once = braid_bench::seconds_since(start);
    state.SetIterationTime(once);
    seconds += once;
  }
  benchmark::DoNotOptimize(out.data());
  double const mean = seconds / static_cast<double>(state.iterations());
  state.counters["fraction_of_copy"] = copy / mean;
  state.counters["copy_GB/s"] = static_cast<double>(least) / copy / 1e9;
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(least));
}

void add(std::string_view name, shape s, int models) {
  auto const all = static_cast<int>(std::thread::hardware_concurrency());
  for (int const threads : std::set<int>{1, 2, std::max(all, 1)}) {
    std::string const title = std::string(name) + "/bf16/" + std::to_string(s.rows) + "x" + std::to_string(s.cols) + "/N" +
                              std::to_string(models) + "/threads:" + std::to_string(threads);
    benchmark::RegisterBenchmark(title.c_str(), [=](benchmark::State& state) { merge(state, name, s, models, threads); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (shape const s : shapes) {
    for (std::string_view const name : braid::tensor_method_names) {
      auto const info = braid::make_tensor_method<braid::cpu>(name)->info();
      // The base is the first of slerp's two; some methods take one model besides the base, or no base and one model.
      int const most = info.name == "slerp" ? 1 : info.most_models;
      for (int const models : {1, 2, 4}) {
        if (models <= most && (models > 1 || most == 1)) { add(name, s, models); }
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) { return 1; }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
