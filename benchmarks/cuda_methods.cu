/// Single-model methods in device memory, as a fraction of copy speed: the time of a device-to-device copy whose bytes read plus
/// bytes written are the least bytes of the merge, (N + base + 1) x tensor, over the time of prepare and apply, in the same run.
/// Methods without a host step run as one CUDA graph, others between events. Buffers take turns until twice the L2 cache lies
/// between two uses of one.
///
///   bash tests/gpu.sh bench         builds and runs this among others; or: cuda_methods [REPLAYS [PART OF A NAME [SHARE]]];
///                                 SHARE of the elements are the base's

#include "support/device_models.cuh"
#include "support/graph_timer.cuh"

#include <braid/cuda.cuh>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace {

using braid::bfloat16;
using braid::index_t;
constexpr int most_models = 4;

/// Inputs and output of one merge.
struct tensor_set {
  std::vector<braid::device_buffer<bfloat16>> memory;
  braid::device_buffer<bfloat16> out;

  tensor_set(braid::cuda const& be, index_t rows, index_t cols, float still) {
    auto const n = static_cast<std::size_t>(rows * cols);
    for (int m = 0; m <= most_models; ++m) {
      memory.push_back(be.make_buffer<bfloat16>(n));
      be.for_each(rows * cols, braid_bench::fill_model{memory.back().data(), static_cast<std::uint64_t>(m), still});
    }
    out = be.make_buffer<bfloat16>(n);
  }

  [[nodiscard]] braid::tensor_request request(index_t rows, index_t cols, int models, bool based) const {
    braid::tensor_request r;
    r.tensor = "weight";
    r.inputs.channels = rows;
    r.inputs.cols = cols;
    r.inputs.out = braid::dtype::bf16;
    auto const of = [&](int m) {
      return braid::channel_rows{reinterpret_cast<std::byte const*>(memory[static_cast<std::size_t>(m)].data()), braid::dtype::bf16, cols * 2};
    };
    if (based) { r.inputs.base = of(0); }
    for (int m = 1; m <= models; ++m) {
      r.models.push_back("model" + std::to_string(m));
      r.inputs.experts.push_back(of(m));
    }
    return r;
  }
};

class bench {
 public:
  bench(braid::cuda const& be, index_t rows, index_t cols, int replays, std::string_view wanted, float still)
      : be_(be), rows_(rows), cols_(cols), replays_(replays), wanted_(wanted) {
    int cache = 0;
    braid::detail::check_cuda(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, be.device()), "asking a device what it is");
    std::size_t const smallest = static_cast<std::size_t>(rows * cols) * 2 * 2;
    for (std::size_t i = 0; i < std::max<std::size_t>(2, 2 * static_cast<std::size_t>(cache) / smallest + 1); ++i) { sets_.emplace_back(be, rows, cols, still); }
  }

  template <class Method>
  void operator()(char const* name, Method const& method, int models, bool based, bool in_graph) {
    if (std::string_view(name).find(wanted_) == std::string_view::npos) { return; }
    std::size_t const least = static_cast<std::size_t>(rows_ * cols_) * 2 * static_cast<std::size_t>(models + (based ? 1 : 0) + 1);
    double const copy = copy_seconds(least);
    typename Method::workspace work(be_);
    int const steps = in_graph ? 12 : 4;
    double const took = braid_bench::graph_timer{}(be_, steps, replays_, [&](int step) {
      tensor_set const& s = sets_[static_cast<std::size_t>(step) % sets_.size()];
      auto request = s.request(rows_, cols_, models, based);
      auto const plan = method.prepare(be_, request);
      std::vector<std::byte> scratch;
      method.apply(*plan, request.inputs.block(0, rows_, scratch), reinterpret_cast<std::byte*>(s.out.data()), work);
    }, in_graph);
    work.finish();
    std::printf("%ldx%-8ld %-28s N=%d %10.1f us %8.3f of %5.0f GB/s\n", static_cast<long>(rows_), static_cast<long>(cols_), name, models, took * 1e6,
                copy / took, static_cast<double>(least) / copy * 1e-9);
    std::fflush(stdout);
  }

 private:
  double copy_seconds(std::size_t least) {
    for (auto const& [bytes, time] : copies_) {
      if (bytes == least) { return time; }
    }
    int const turns = static_cast<int>(sets_.size());
    auto const blocks = be_.make_buffer<std::byte>(least * static_cast<std::size_t>(turns));
    double const time = braid_bench::graph_timer{}(be_, 12, replays_, [&](int step) {
      std::byte* const from = blocks.data() + least * static_cast<std::size_t>(step % turns);
      braid::detail::check_cuda(cudaMemcpyAsync(from + least / 2, from, least / 2, cudaMemcpyDeviceToDevice, be_.stream()), "copying");
    });
    copies_.emplace_back(least, time);
    return time;
  }

  braid::cuda const& be_;
  index_t rows_;
  index_t cols_;
  int replays_;
  std::string_view wanted_;
  std::vector<tensor_set> sets_;
  std::vector<std::pair<std::size_t, double>> copies_;
};

using namespace braid;
using E = braid::cuda;

}  // namespace

int main(int argc, char** argv) {
  int const replays = argc > 1 ? std::atoi(argv[1]) : 9;
  braid::cuda const be;
  // Memory that one call gives back serves the next.
  cudaMemPool_t pool = nullptr;
  braid::detail::check_cuda(cudaDeviceGetDefaultMemPool(&pool, be.device()), "asking for a pool");
  std::uint64_t keep = ~std::uint64_t{0};
  braid::detail::check_cuda(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "keeping memory");
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{4096, 14336}, {14336, 4096}, {4096, 4096}}) {
    bench run(be, rows, cols, replays, argc > 2 ? argv[2] : "", argc > 3 ? static_cast<float>(std::atof(argv[3])) : 0.0f);
    run("linear", linear<E>{{.weight = {0.1, 0.2, 0.3, 0.4}}}, 4, false, true);
    run("linear, fused", linear<E>{{.fused = true}}, 4, false, true);
    run("task_arithmetic", task_arithmetic<E>{{.weight = {0.1, 0.2, 0.3, 0.4}}}, 4, true, true);
    run("dare_linear (paper)", task_arithmetic<E, prune::dare, consensus::weighted_sum, rescale::inverse_keep>{{.prune = {.density = 0.5}}}, 4, true, true);
    run("dare_linear (l1)", task_arithmetic<E, prune::dare, consensus::weighted_sum, rescale::l1>{{.prune = {.density = 0.5}}}, 4, true, false);
    run("ties", task_arithmetic<E, prune::magnitude, consensus::weighted_ties>{{.prune = {.density = 0.5}, .normalize = true}}, 4, true, false);
    run("ties, density 0.2", task_arithmetic<E, prune::magnitude, consensus::weighted_ties>{{.prune = {.density = 0.2}, .normalize = true}}, 4, true, false);
    run("ties, by row", task_arithmetic<E, prune::magnitude_rows, consensus::weighted_ties>{{.prune = {.density = 0.5}, .normalize = true}}, 4, true, false);
    run("breadcrumbs", task_arithmetic<E, prune::outliers, consensus::weighted_sum>{{.prune = {.density = 0.9, .gamma = 0.01}}}, 4, true, false);
    run("della (paper)", task_arithmetic<E, prune::magprune, consensus::weighted_ties, rescale::inverse_keep>{{.prune = {.density = 0.5, .epsilon = 0.1}, .normalize = true}}, 4,
        true, false);
    run("della (l1)", task_arithmetic<E, prune::magprune, consensus::weighted_ties, rescale::l1>{{.prune = {.density = 0.5, .epsilon = 0.1}, .normalize = true}}, 4,
        true, false);
    run("slerp", slerp<E>{}, 2, false, false);
    run("nuslerp, rows", nuslerp<E>{{.scope = vector_scope::row}}, 2, false, false);
    run("nuslerp, columns", nuslerp<E>{{.scope = vector_scope::column}}, 2, false, false);
    run("multislerp", multislerp<E>{}, 4, false, false);
    run("karcher", karcher_mean<E>{}, 4, false, false);
    run("model_stock", model_stock<E>{}, 4, true, false);
    run("sce", sce<E>{{.select_topk = 0.1}}, 4, true, false);
    run("sce, all", sce<E>{}, 4, true, false);
    run("nearswap", nearswap<E>{}, 1, true, true);
    run("passthrough, scaled", passthrough<E>{{.scale = 0.5}}, 1, false, true);
    run("ram", ram<E>{}, 4, true, true);
    run("ramplus_tl", ram<E>{{.reinforce = true}}, 4, true, false);
    run("arcee_fusion", arcee_fusion<E>{}, 1, true, false);
  }
  return 0;
}
