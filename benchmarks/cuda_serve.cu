/// Products by rows of a pool on a device, beside cuBLAS on the rebuilt expert and beside a device-to-device copy whose bytes
/// read plus bytes written are the rows that the product must read. Each in one CUDA graph, in the same run, with buffers in
/// turn until twice the L2 cache lies between two uses of one. cuBLAS multiplies by vectors of the weight's type with fused
/// sums in any order; row_linear by float32 vectors in the one order of sums, by the same on tensor cores, and by vectors of the
/// weight's type on tensor cores.
///
///   bash tests/gpu.sh bench          builds and runs this among others; or: cuda_serve [REPLAYS]

#include "support/graph_timer.cuh"

#include <braid/serve/cuda/row_linear.cuh>

#include <cublas_v2.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <stdexcept>

namespace {

using braid::index_t;
constexpr auto device = braid::memory_space::device;
constexpr std::size_t experts = 4;
enum class layout { random, runs, constant, dense };

std::uint64_t scrambled(std::uint64_t x) {
  x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
  return x ^ (x >> 32);
}

/// A pool of two rows a channel in host memory: numbers of either sign, about 2^-7.
template <class T>
struct pool {
  index_t rows, cols;
  std::vector<std::uint64_t> memory;
  pool(index_t r, index_t c) : rows(r), cols(c), memory(static_cast<std::size_t>(2 * r * c) * sizeof(T) / 8) {
    constexpr std::uint64_t keep = sizeof(T) == 4 ? 0x80FFFFFF80FFFFFFu : 0x83FF83FF83FF83FFu;
    constexpr std::uint64_t set = sizeof(T) == 4                              ? 0x3C0000003C000000u
                                  : std::is_same_v<T, braid::float16> ? 0x2000200020002000u
                                                                              : 0x3C003C003C003C00u;
    for (std::size_t i = 0; i < memory.size(); ++i) { memory[i] = (scrambled(i + 1) & keep) | set; }
  }
  [[nodiscard]] braid::pool_rows source(layout how) const {
    std::vector<std::vector<std::int32_t>> all;
    for (std::size_t e = 0; e < experts; ++e) {
      auto& own = all.emplace_back();
      for (index_t c = 0; c < rows; ++c) {
        auto const where = static_cast<std::uint64_t>(how == layout::runs ? c / 64 : c);
        bool const second = (how == layout::random || how == layout::runs) && (scrambled(where * 8 + e + 99) & 1u) != 0;
        own.push_back(static_cast<std::int32_t>(second ? rows + c : c));
      }
    }
    auto const bytes = std::as_bytes(std::span(memory));
    return {braid::dtype_of<T>, cols, bytes.first(bytes.size() / 2), bytes.subspan(bytes.size() / 2), std::move(all)};
  }
};

/// One row a channel, each expert's with a residual of its own, of one code. Models braid::row_source.
class coded_rows {
 public:
  coded_rows(braid::dtype type, braid::residual_code code, bool column_scales, index_t rows, index_t cols)
      : type_(type), code_(code), rows_(rows), cols_(cols), memory_(static_cast<std::size_t>(rows * cols) * braid::size_of(type)) {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      // Numbers about 1 in every type: the highest byte is that of one.
      bool const highest = i % braid::size_of(type) == braid::size_of(type) - 1;
      auto const sign = static_cast<unsigned>(scrambled(i) & 0x80u);
      unsigned const one = braid::size_of(type) == 1 ? 0x38u : 0x3Cu;
      memory_[i] = static_cast<std::byte>(highest ? one | sign : scrambled(i) >> 8);
    }
    planes_.resize(::experts * static_cast<std::size_t>(rows) * static_cast<std::size_t>(braid::residual_bytes(code, cols)));
    unsigned const values = code == braid::residual_code::ternary ? 243 : 256;
    for (std::size_t i = 0; i < planes_.size(); ++i) { planes_[i] = static_cast<std::byte>(scrambled(i + 5) % values); }
    scales_.assign(3, braid::bfloat16(0.01f));
    if (column_scales) { columns_.assign(static_cast<std::size_t>(cols), braid::bfloat16(0.75f)); }
  }
  [[nodiscard]] braid::dtype type() const noexcept { return type_; }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::size_t experts() const noexcept { return ::experts; }
  [[nodiscard]] index_t channels(std::size_t) const noexcept { return rows_; }
  [[nodiscard]] braid::bfloat16 const* column_scales() const noexcept { return columns_.empty() ? nullptr : columns_.data(); }
  [[nodiscard]] braid::stored_row row(std::size_t expert, index_t channel) const noexcept {
    auto const r = static_cast<std::size_t>(channel);
    auto const bytes = static_cast<std::size_t>(braid::residual_bytes(code_, cols_));
    std::size_t const plane = (expert * static_cast<std::size_t>(rows_) + r) * bytes;
    return {memory_.data() + r * static_cast<std::size_t>(cols_) * braid::size_of(type_), code_, planes_.data() + plane, scales_.data()};
  }

 private:
  braid::dtype type_;
  braid::residual_code code_;
  index_t rows_, cols_;
  std::vector<std::byte> memory_, planes_;
  std::vector<braid::bfloat16> scales_, columns_;
};

void check(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) { throw std::runtime_error("cuBLAS: status " + std::to_string(static_cast<int>(status))); }
}

template <class T>
constexpr cudaDataType_t cublas_type = CUDA_R_32F;
template <>
constexpr cudaDataType_t cublas_type<braid::bfloat16> = CUDA_R_16BF;
template <>
constexpr cudaDataType_t cublas_type<braid::float16> = CUDA_R_16F;

struct runner {
  braid::cuda be;
  cublasHandle_t handle = nullptr;
  std::size_t cache = 0;
  int replays = 9;
  braid_bench::graph_timer time{};

  /// How many buffers of so many bytes are used in turn.
  [[nodiscard]] std::size_t turns(std::size_t bytes) const { return std::max<std::size_t>(2, 2 * cache / bytes + 2); }

  template <class T>
  void shape(char const* type, index_t rows, index_t cols) {
    std::size_t const bytes = static_cast<std::size_t>(rows * cols) * sizeof(T);
    std::size_t const sets = turns(bytes);
    int const steps = static_cast<int>(sets) * std::max(1, 24 / static_cast<int>(sets));
    double const copy = copy_time(bytes, sets, steps);
    std::printf("\n%s %ldx%ld: copy %.1f us (%.0f GB/s); us and fraction of copy; rows by index in the fixed order, in any, from rounded vectors\n", type, static_cast<long>(rows), static_cast<long>(cols),
                copy * 1e6, static_cast<double>(bytes) / copy * 1e-9);
    pool<T> const host(rows, cols);
    auto const show = [&](char const* what, double seconds) {
      std::printf("  %-28s %9.2f %7.3f\n", what, seconds * 1e6, copy / seconds);
    };
    for (int const batch : {1, 4, 16, 64}) {
      char name[64];
      std::snprintf(name, sizeof name, "cuBLAS, batch %d", batch);
      show(name, cublas_time<T>(host, batch, sets, steps));
    }
    for (auto const& [name, how] : {std::pair{"dense", layout::dense}, {"index random", layout::random}, {"index in runs", layout::runs}, {"index constant", layout::constant}}) {
      auto const source = host.source(how);
      std::deque<braid::device_row_linear> linear;
      for (std::size_t s = 0; s < sets; ++s) { linear.emplace_back(be, source); }
      show_batch<T>(name, linear, {1}, rows, steps, copy);
      if (how == layout::dense || how == layout::random) {
        for (std::size_t const batch : {4u, 16u, 64u}) {
          char line[64];
          std::snprintf(line, sizeof line, "%s, batch %zu", name, batch);
          show_batch<T>(line, linear, std::vector<std::size_t>(batch, 1), rows, steps, copy);
        }
      }
      if (how != layout::random) { continue; }
      for (std::size_t const batch : {4u, 16u, 64u}) {  // four experts need nearly all of the pool
        std::vector<std::size_t> expert;
        for (std::size_t b = 0; b < batch; ++b) { expert.push_back(b * experts / batch); }
        char line[64];
        std::snprintf(line, sizeof line, "four experts, batch %zu", batch);
        show_batch<T>(line, linear, expert, rows, steps, 2.0 * copy);
      }
      // Another expert at every product, against copying an expert's rows together.
      auto x = be.make_buffer<float>(static_cast<std::size_t>(cols));
      auto y = be.make_buffer<float>(static_cast<std::size_t>(rows));
      fill(x);
      show("another expert every time", time(be, steps, replays, [&](int s) {
        auto const i = static_cast<std::size_t>(s);
        linear[i % sets].apply(be, i % experts, braid::tensor_view<float const, device>(x.data(), 1, cols), braid::tensor_view<float, device>(y.data(), 1, rows));
      }));
    }
  }

  /// Rows with residuals, and rows of f8. The copy is of the rows and the expert's planes.
  template <class T>
  void coded(braid::residual_code code, bool column_scales, index_t rows, index_t cols) {
    coded_rows const source(braid::dtype_of<T>, code, column_scales, rows, cols);
    auto const bytes = static_cast<std::size_t>(rows * (cols * static_cast<index_t>(sizeof(T)) + braid::residual_bytes(code, cols)));
    std::size_t const sets = turns(bytes);
    int const steps = static_cast<int>(sets) * std::max(1, 24 / static_cast<int>(sets));
    double const copy = copy_time(bytes / 32 * 32, sets, steps);
    std::deque<braid::device_row_linear> linear;
    for (std::size_t s = 0; s < sets; ++s) { linear.emplace_back(be, source); }
    for (std::size_t const batch : {1u, 16u, 64u}) {
      char name[64];
      std::string const type(braid::name_of(braid::dtype_of<T>)), code_name(braid::name_of(code));
      std::snprintf(name, sizeof name, "%s %s%s, batch %zu", type.c_str(), code_name.c_str(), column_scales ? ", columns" : "", batch);
      show_batch<T>(name, linear, std::vector<std::size_t>(batch, 1), rows, steps, copy);
    }
  }

 private:
  void fill(braid::device_buffer<float> const& x) const {
    std::vector<float> host(x.size());
    for (std::size_t i = 0; i < host.size(); ++i) { host[i] = static_cast<float>(scrambled(i + 7) >> 40) * 0x1p-23f - 1.0f; }
    be.to_device(x.data(), host.data(), host.size());
    be.synchronize();
  }

  double copy_time(std::size_t bytes, std::size_t sets, int steps) {
    auto const blocks = be.make_buffer<std::byte>(bytes * sets);
    braid::detail::check_cuda(cudaMemsetAsync(blocks.data(), 1, blocks.size(), be.stream()), "filling");
    return time(be, steps, replays, [&](int s) {
      std::byte* const from = blocks.data() + bytes * (static_cast<std::size_t>(s) % sets);
      braid::detail::check_cuda(cudaMemcpyAsync(from + bytes / 2, from, bytes / 2, cudaMemcpyDeviceToDevice, be.stream()), "copying");
    });
  }

  template <class T>
  double cublas_time(pool<T> const& host, int batch, std::size_t sets, int steps) {
    auto const elements = static_cast<std::size_t>(host.rows * host.cols);
    std::vector<braid::device_buffer<T>> w;
    for (std::size_t s = 0; s < sets; ++s) {
      w.push_back(be.make_buffer<T>(elements));
      be.to_device(w.back().data(), reinterpret_cast<T const*>(host.memory.data()), elements);
    }
    auto const x = be.make_buffer<T>(static_cast<std::size_t>(batch * host.cols));
    be.to_device(x.data(), reinterpret_cast<T const*>(host.memory.data()) + 8, x.size());
    auto const y = be.make_buffer<float>(static_cast<std::size_t>(batch * host.rows));
    float const one = 1.0f, zero = 0.0f;
    return time(be, steps, replays, [&](int s) {
      check(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(host.rows), batch, static_cast<int>(host.cols), &one,
                         w[static_cast<std::size_t>(s) % sets].data(), cublas_type<T>, static_cast<int>(host.cols), x.data(), cublas_type<T>,
                         static_cast<int>(host.cols), &zero, y.data(), CUDA_R_32F, static_cast<int>(host.rows), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    });
  }

  /// In the fixed order; in any, from float32; in any, from the rows' type.
  template <class T>
  void show_batch(char const* name, std::deque<braid::device_row_linear>& linear, std::vector<std::size_t> const& expert, index_t rows,
                  int steps, double copy) {
    auto const batch = static_cast<index_t>(expert.size());
    index_t const cols = linear.front().cols();
    auto const x = be.make_buffer<float>(static_cast<std::size_t>(batch * cols));
    auto const y = be.make_buffer<float>(static_cast<std::size_t>(batch * rows));
    fill(x);
    braid::tensor_view<float, device> const out(y.data(), batch, rows);
    auto const timed = [&](auto const& vectors, auto... order) {
      return time(be, steps, replays, [&](int s) {
        linear[static_cast<std::size_t>(s) % linear.size()].apply(be, std::span<std::size_t const>(expert), vectors, out, order...);
      });
    };
    braid::tensor_view<float const, device> const floats(x.data(), batch, cols);
    double const fixed = timed(floats, braid::product_order::fixed);
    if constexpr (sizeof(T) != 2) {
      std::printf("  %-28s %9.2f %7.3f\n", name, fixed * 1e6, copy / fixed);
    } else {
      auto const own = be.make_buffer<T>(x.size());
      braid::detail::check_cuda(cudaMemsetAsync(own.data(), 0x3C, own.size() * sizeof(T), be.stream()), "filling");
      double const any = timed(floats, braid::product_order::any);
      double const rounded = timed(braid::tensor_view<T const, device>(own.data(), batch, cols));
      std::printf("  %-28s %9.2f %7.3f   %9.2f %7.3f   %9.2f %7.3f\n", name, fixed * 1e6, copy / fixed, any * 1e6, copy / any, rounded * 1e6,
                  copy / rounded);
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  runner r;
  if (argc > 1) { r.replays = std::atoi(argv[1]); }
  cudaDeviceProp properties{};
  braid::detail::check_cuda(cudaGetDeviceProperties(&properties, r.be.device()), "asking a device what it is");
  r.cache = static_cast<std::size_t>(properties.l2CacheSize);
  check(cublasCreate(&r.handle));
  check(cublasSetStream(r.handle, r.be.stream()));
  auto const workspace = r.be.make_buffer<std::byte>(std::size_t{32} << 20);
  check(cublasSetWorkspace(r.handle, workspace.data(), workspace.size()));
  std::printf("%s\n", properties.name);
  r.shape<braid::bfloat16>("bf16", 4096, 4096);
  r.shape<braid::bfloat16>("bf16", 1024, 4096);
  r.shape<braid::bfloat16>("bf16", 14336, 4096);
  r.shape<braid::bfloat16>("bf16", 4096, 14336);
  r.shape<braid::float16>("f16", 4096, 4096);
  r.shape<float>("f32", 4096, 4096);
  std::printf("\n4096x4096 with residuals, and f8\n");
  for (int code = 0; code < braid::residual_codes; ++code) {
    r.coded<braid::bfloat16>(static_cast<braid::residual_code>(code), false, 4096, 4096);
  }
  r.coded<braid::bfloat16>(braid::residual_code::sign1, true, 4096, 4096);
  r.coded<braid::float8_e4m3>(braid::residual_code::none, false, 4096, 4096);
  r.coded<braid::float8_e5m2>(braid::residual_code::sign1, false, 4096, 4096);
  check(cublasDestroy(r.handle));
  return 0;
}
