/// Products by rows of a pool, beside a rebuilt expert: one vector, batches, and batches whose vectors name four experts.
/// "fraction_of_copy": the time of a memcpy whose bytes read plus bytes written are the rows that the product must read,
/// over the time of the product, in the same run, on as many threads; a product only reads, and may be above 1.
///
///   rows/..., index random, runs (of 64 channels) or constant    serve/row_linear through an index, two rows a channel
///   dense/...                                                    the same kernels on the rebuilt expert, rows in order
///   eigen/...                                                    Eigen on the rebuilt expert (float32; bfloat16 is slower)
///   mixed/..., separate/...                                      four experts in one batch; the same, expert by expert
///   residual/CODE/...                                            rows of one group and what each expert lacks, decoded in the product
///   rebuild/..., rebuild-CODE/..., load/...                      what switching the expert costs without an index: copying its
///                                                                rows, decoding them, reading it from a file that isn't cached
///   rows/.../index:switching                                     another expert at every product
///
///   build/bench/bin/bench_serve --benchmark_filter=bf16/4096x4096

#include "support/copy_speed.hpp"
#include "support/models.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/core/philox.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/none.hpp>
#include <braid/residual/any.hpp>
#include <braid/serve/row_linear.hpp>
#include <braid/similarity/cosine.hpp>

#include <Eigen/Core>

#include <benchmark/benchmark.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

namespace {

using braid::index_t;
using braid::tensor_view;

constexpr std::size_t experts = 4;
enum class layout { random, runs, constant };

/// On a page, as the tensors of files are that braid writes.
template <class T>
struct page_allocator {
  using value_type = T;
  static constexpr std::align_val_t page{4096};
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), page)); }
  void deallocate(T* p, std::size_t) noexcept { ::operator delete(p, page); }
  bool operator==(page_allocator const&) const = default;
};

/// A pool of two rows a channel, and where four experts have theirs.
template <class T>
struct pool {
  index_t rows;
  index_t cols;
  std::vector<T, page_allocator<T>> weight;
  std::vector<T, page_allocator<T>> rebuilt;  // of expert 1

  pool(index_t r, index_t c) : rows(r), cols(c), weight(static_cast<std::size_t>(2 * r * c)), rebuilt(static_cast<std::size_t>(r * c)) {
    for (std::size_t i = 0; i < weight.size(); i += 4) {
      auto const b = braid::philox4x32(1, i, 0);
      for (std::size_t k = 0; k < 4 && i + k < weight.size(); ++k) {
        weight[i + k] = T(static_cast<float>(b.word[k]) * 0x1p-36f - 0.03125f);
      }
    }
  }

  [[nodiscard]] std::vector<std::vector<std::int32_t>> index(layout how) const {
    std::vector<std::vector<std::int32_t>> all(experts, std::vector<std::int32_t>(static_cast<std::size_t>(rows)));
    for (std::size_t e = 0; e < experts; ++e) {
      for (index_t c = 0; c < rows; ++c) {
        std::uint32_t const w = braid::philox4x32(2, static_cast<std::uint64_t>(how == layout::runs ? c / 64 : c), e).word[0];
        bool const second = how != layout::constant && (w & 1u) != 0;
        all[e][static_cast<std::size_t>(c)] = static_cast<std::int32_t>(second ? rows + c : c);
      }
    }
    return all;
  }

  [[nodiscard]] braid::pool_rows source(layout how) const {
    return {braid::dtype_of<T>, cols, std::as_bytes(std::span(weight)).first(weight.size() * sizeof(T) / 2),
            std::as_bytes(std::span(weight)).subspan(weight.size() * sizeof(T) / 2), index(how)};
  }

  void rebuild(std::vector<std::int32_t> const& row) {
    for (index_t c = 0; c < rows; ++c) {
      std::memcpy(rebuilt.data() + c * cols, weight.data() + row[static_cast<std::size_t>(c)] * cols, static_cast<std::size_t>(cols) * sizeof(T));
    }
  }

  [[nodiscard]] braid::pool_rows dense() const {
    std::vector<std::int32_t> in_order(static_cast<std::size_t>(rows));
    for (std::size_t c = 0; c < in_order.size(); ++c) { in_order[c] = static_cast<std::int32_t>(c); }
    return {braid::dtype_of<T>, cols, std::as_bytes(std::span(rebuilt)), {}, std::vector(experts, in_order)};
  }
};

/// One pool at a time: memory is for one.
template <class T>
pool<T>& pool_of(index_t rows, index_t cols) {
  static std::unique_ptr<pool<T>> kept;
  if (!kept || kept->rows != rows || kept->cols != cols) {
    kept.reset();
    kept = std::make_unique<pool<T>>(rows, cols);
    kept->rebuild(kept->index(layout::random)[1]);
  }
  return *kept;
}

std::vector<float> vectors(index_t count) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) { x[i] = static_cast<float>(braid::philox4x32(3, i, 0).word[0]) * 0x1p-31f - 1.0f; }
  return x;
}

/// Times `work`, which must read `least` bytes.
void measure(benchmark::State& state, braid::cpu const& be, std::size_t least, std::function<void()> const& work) {
  work();
  double const copy = braid_bench::copy_seconds(be, least, 9);
  std::vector<double> seconds;
  for (auto _ : state) {
    auto const start = std::chrono::steady_clock::now();
    work();
    seconds.push_back(braid_bench::seconds_since(start));
    state.SetIterationTime(seconds.back());
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
  double const median = seconds[seconds.size() / 2];
  state.counters["median_ms"] = median * 1e3;
  state.counters["fraction_of_copy"] = copy / median;
  state.counters["GB/s"] = static_cast<double>(least) / median / 1e9;
}

struct shape {
  index_t rows;
  index_t cols;
};

void add(std::string const& name, int threads, std::function<void(benchmark::State&)> const& body) {
  benchmark::RegisterBenchmark((name + "/threads:" + std::to_string(threads)).c_str(), body)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(0.3);
}

std::string name_of(shape s) { return std::to_string(s.rows) + "x" + std::to_string(s.cols); }

/// Four experts of one group, and what each lacks.
braid::grouped_tensor<braid::bfloat16> coded(shape s, braid::residual::any const& code) {
  using merge = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact,
                                     braid::consensus::mean, braid::residual::any>;
  braid_bench::models<braid::bfloat16> const m(s.rows, s.cols, static_cast<int>(experts));
  return merge{{.residual = code, .groups = 1}}(braid::cpu(), "w", m.base_view(), m.expert_views());
}

/// One at a time, as `pool_of`.
braid::grouped_tensor<braid::bfloat16> const& coded_once(shape s, braid::residual::any const& code) {
  static std::string kept_name;
  static braid::grouped_tensor<braid::bfloat16> kept;
  std::string const name = std::string(code.name) + name_of(s);
  if (name != kept_name) {
    kept = {};
    kept = coded(s, code);
    kept_name = name;
  }
  return kept;
}

void add_residual(braid::residual::any const& code, shape s, int threads) {
  std::size_t const elements = static_cast<std::size_t>(s.rows * s.cols);
  for (index_t const batch : {1, 4, 16, 64}) {
    add("residual/" + std::string(code.name) + "/" + name_of(s) + "/batch:" + std::to_string(batch), threads, [=](benchmark::State& state) {
      auto const& tensor = coded_once(s, code);
      braid::cpu const be(threads);
      braid::row_linear const linear{braid::grouped_rows(tensor)};
      auto const x = vectors(batch * s.cols);
      std::vector<float> y(static_cast<std::size_t>(batch * s.rows));
      std::size_t const least = 2 * elements + tensor.planes().size_bytes() / experts;
      measure(state, be, least, [&] { linear.apply(be, 1, tensor_view<float const>(x.data(), batch, s.cols), tensor_view<float>(y.data(), batch, s.rows)); });
      benchmark::DoNotOptimize(y.data());
    });
  }
  add("rebuild-" + std::string(code.name) + "/" + name_of(s), threads, [=](benchmark::State& state) {
    auto const& tensor = coded_once(s, code);
    std::vector<braid::bfloat16> out(elements);
    std::size_t next = 0;
    measure(state, braid::cpu(1), 4 * elements, [&] { tensor.extract(next++ % experts, {out.data(), s.rows, s.cols}); });
    benchmark::DoNotOptimize(out.data());
  });
}

/// An expert's bytes from a file that the system doesn't hold in memory.
void add_load(shape s, int threads) {
  add("load/bf16/" + name_of(s), threads, [=](benchmark::State& state) {
    std::vector<char> bytes(static_cast<std::size_t>(s.rows * s.cols) * 2, 'x');
    std::string const path = "bench_serve." + std::to_string(getpid());
    int const file = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    unlink(path.c_str());
    auto const whole = [&](auto const& move) {
      for (std::size_t done = 0; done < bytes.size();) {
        ssize_t const n = move(bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
        if (n <= 0) { throw std::runtime_error("bench_serve: no file in this directory can be written"); }
        done += static_cast<std::size_t>(n);
      }
    };
    whole([&](char* p, std::size_t n, off_t at) { return pwrite(file, p, n, at); });
    fsync(file);
    for (auto _ : state) {
      posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
      auto const start = std::chrono::steady_clock::now();
      whole([&](char* p, std::size_t n, off_t at) { return pread(file, p, n, at); });
      state.SetIterationTime(braid_bench::seconds_since(start));
    }
    close(file);
  });
}

template <class T>
void add_shape(std::string const& type, shape s, int threads) {
  std::string const where = type + "/" + name_of(s);
  std::size_t const bytes = static_cast<std::size_t>(s.rows * s.cols) * sizeof(T);
  auto const add = [&](std::string const& name, auto const& body) { ::add(name, threads, body); };
  for (index_t const batch : {1, 4, 16, 64}) {
    std::string const b = "/batch:" + std::to_string(batch);
    auto const product = [=](benchmark::State& state, braid::pool_rows const& source, std::size_t step = 0) {
      braid::cpu const be(threads);
      braid::row_linear const linear(source);
      std::size_t expert = 1;
      auto const x = vectors(batch * s.cols);
      std::vector<float> y(static_cast<std::size_t>(batch * s.rows));
      measure(state, be, bytes, [&] {
        linear.apply(be, expert, tensor_view<float const>(x.data(), batch, s.cols), tensor_view<float>(y.data(), batch, s.rows));
        expert = (expert + step) % experts;
      });
      benchmark::DoNotOptimize(y.data());
    };
    add("dense/" + where + b, [=](benchmark::State& state) { product(state, pool_of<T>(s.rows, s.cols).dense()); });
    for (auto const& [name, how] : {std::pair{"random", layout::random}, {"runs", layout::runs}, {"constant", layout::constant}}) {
      if (batch != 1 && how != layout::random) { continue; }
      add("rows/" + where + b + "/index:" + name, [=](benchmark::State& state) { product(state, pool_of<T>(s.rows, s.cols).source(how)); });
    }
    if (batch == 1) {
      add("rows/" + where + b + "/index:switching", [=](benchmark::State& state) { product(state, pool_of<T>(s.rows, s.cols).source(layout::random), 1); });
    }
    if constexpr (std::is_same_v<T, float>) {
      if (threads == 1) {  // what it does with several depends on OpenMP
        add("eigen/" + where + b, [=](benchmark::State& state) {
          using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
          auto const& p = pool_of<T>(s.rows, s.cols);
          Eigen::Map<row_major const> const w(p.rebuilt.data(), s.rows, s.cols);
          auto const x = vectors(batch * s.cols);
          std::vector<float> y(static_cast<std::size_t>(batch * s.rows));
          measure(state, braid::cpu(1), bytes, [&] {
            if (batch == 1) {
              Eigen::Map<Eigen::VectorXf>(y.data(), s.rows).noalias() = w * Eigen::Map<Eigen::VectorXf const>(x.data(), s.cols);
            } else {
              Eigen::Map<Eigen::MatrixXf>(y.data(), s.rows, batch).noalias() = w * Eigen::Map<Eigen::MatrixXf const>(x.data(), s.cols, batch);
            }
          });
          benchmark::DoNotOptimize(y.data());
        });
      }
    }
    if (batch == 1) { continue; }
    for (bool const together : {true, false}) {
      add((together ? "mixed/" : "separate/") + where + b, [=](benchmark::State& state) {
        braid::cpu const be(threads);
        braid::row_linear const linear(pool_of<T>(s.rows, s.cols).source(layout::random));
        auto const x = vectors(batch * s.cols);
        std::vector<float> y(static_cast<std::size_t>(batch * s.rows));
        std::vector<std::size_t> expert;
        for (index_t i = 0; i < batch; ++i) { expert.push_back(static_cast<std::size_t>(i) * experts / static_cast<std::size_t>(batch)); }
        // Four experts of two rows a channel need nearly all of the pool.
        measure(state, be, 2 * bytes, [&] {
          if (together) {
            linear.apply(be, expert, tensor_view<float const>(x.data(), batch, s.cols), tensor_view<float>(y.data(), batch, s.rows));
            return;
          }
          index_t const each = batch / static_cast<index_t>(experts);
          for (std::size_t e = 0; e < experts; ++e) {
            index_t const first = static_cast<index_t>(e) * each;
            linear.apply(be, e, tensor_view<float const>(x.data() + first * s.cols, each, s.cols), tensor_view<float>(y.data() + first * s.rows, each, s.rows));
          }
        });
        benchmark::DoNotOptimize(y.data());
      });
    }
  }
  add("rebuild/" + where, [=](benchmark::State& state) {
    auto& p = pool_of<T>(s.rows, s.cols);
    auto const index = p.index(layout::random);
    std::size_t next = 0;
    measure(state, braid::cpu(1), 2 * bytes, [&] { p.rebuild(index[next++ % experts]); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  int const cores = std::max(2, static_cast<int>(std::thread::hardware_concurrency()));
  for (int const threads : {1, cores}) {
    for (shape const s : {shape{4096, 4096}, {1024, 4096}, {14336, 4096}, {4096, 14336}}) {
      add_shape<braid::bfloat16>("bf16", s, threads);
      add_shape<braid::float16>("f16", s, threads);
      add_shape<float>("f32", s, threads);
      add_residual(braid::residual::sign_bits<1>{}, s, threads);
      add_residual(braid::residual::ternary{}, s, threads);
      add_load(s, threads);
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
