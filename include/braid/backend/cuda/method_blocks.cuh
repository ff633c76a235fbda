#pragma once

/// How single-model methods meet tensors on a device: whole tensors or blocks of channels in device memory, a stream's
/// order instead of threads.

#include <braid/backend/cpu/method_blocks.hpp>
#include <braid/backend/cpu/tensor_gram.hpp>
#include <braid/backend/cuda.cuh>
#include <braid/backend/cuda/algorithms/execution.cuh>
#include <braid/backend/cuda/algorithms/find_element.cuh>
#include <braid/backend/cuda/any_rows.cuh>
#include <braid/backend/cuda/block_inputs.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/map_kernel.cuh>
#include <braid/backend/cuda/nonfinite.cuh>

#include <optional>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What a single-model method needs on a device beside its plan. For one thread at a time.
class device_method_workspace {
 public:
  explicit device_method_workspace(cuda const& be) : be_(be) {}

  [[nodiscard]] cuda const& executor() const noexcept { return be_; }

  /// Waits for what was enqueued with this workspace. @throws nonfinite_found for what an apply has met
  void finish() {
    if (watched_.empty()) {
      be_.synchronize();
      return;
    }
    auto const watched = std::exchange(watched_, {});
    unsigned long long found = none;
    be_.to_host(&found, static_cast<unsigned long long const*>(first_bad_.data()), 1);
    be_.synchronize();
    if (found == none) { return; }
    first_bad_ = {};
    for (auto const& w : watched) { locate(w, static_cast<index_t>(found)); }
  }

  /// Where a kernel notes channels with NaN or infinity. The block's memory stays until `finish`.
  [[nodiscard]] unsigned long long* watch(channel_block const& block, index_t cols, operand what) {
    if (first_bad_.data() == nullptr) {
      first_bad_ = be_.make_buffer<unsigned long long>(1);
      current_device const current(be_.device());
      check_cuda(cudaMemsetAsync(first_bad_.data(), 0xFF, sizeof none, be_.stream()), "clearing");
    }
    watched_.push_back({block, cols, what});
    return first_bad_.data();
  }

 private:
  static constexpr unsigned long long none = ~0ull;
  struct watched_block {
    channel_block block;
    index_t cols;
    operand what;
  };

  /// Looks for it from `channel` on, with the CPU's own eyes.
  void locate(watched_block const& w, index_t channel) const {
    index_t const last = w.block.first + w.block.rows;
    tensor_channels source;
    source.channels = w.block.rows;
    source.cols = w.cols;
    source.base = w.block.base;
    source.experts = w.block.experts;
    source.out = w.block.out;
    for (index_t c = std::max(channel, w.block.first); c < last; ++c) {
      downloaded_channel d = download_channel(be_, source, c - w.block.first);
      d.block.first = c;
      method_workspace work;
      for_each_segment(w.cols, [&](index_t col, int n) { load_checked_segment(d.block, 0, col, n, w.what, false, work); });
    }
  }

  cuda be_;
  device_buffer<unsigned long long> first_bad_;
  std::vector<watched_block> watched_;
};

/// [..., cols, width] becomes contiguous rows of `cols`.
template <class T>
struct gather_channels {
  T const* from;
  T* to;
  index_t cols;
  index_t width;
  BRAID_HD void operator()(index_t i) const noexcept {
    index_t const channel = i / cols;
    index_t const c = i % cols;
    to[i] = from[(channel / width * cols + c) * width + channel % width];
  }
};

/// A tensor in device memory as one block of channels that are rows. Channels that are columns, and rows that are computed,
/// are brought to device memory of the block's own.
class device_block {
 public:
  device_block(cuda const& be, tensor_channels const& tensor) : block_{0, tensor.channels, tensor.base, tensor.experts, tensor.out} {
    place(be, tensor, block_.base);
    for (auto& e : block_.experts) { place(be, tensor, e); }
  }

  [[nodiscard]] channel_block const& get() const noexcept { return block_; }

 private:
  void place(cuda const& be, tensor_channels const& tensor, channel_rows& rows) {
    if (rows.data == nullptr || (tensor.transposed == 0 && rows.computed == nullptr)) { return; }
    std::size_t const element = size_of(rows.type);
    index_t const elements = tensor.channels * tensor.cols;
    auto& there = memory_.emplace_back(be.make_buffer<std::byte>(static_cast<std::size_t>(elements) * element));
    if (rows.computed != nullptr) {
      std::vector<std::byte> here(there.size());
      rows.computed->rows(0, tensor.channels, here.data());
      be.to_device(there.data(), here.data(), here.size());  // pageable memory: has been read when this returns
      rows.computed = nullptr;
    } else {
      auto const gather = [&]<class T>(T*) {
        be.for_each(elements, gather_channels<T>{reinterpret_cast<T const*>(rows.data), reinterpret_cast<T*>(there.data()), tensor.cols, tensor.transposed});
      };
      if (element == 4) {
        gather(static_cast<std::uint32_t*>(nullptr));
      } else if (element == 2) {
        gather(static_cast<std::uint16_t*>(nullptr));
      } else {
        gather(static_cast<std::uint8_t*>(nullptr));
      }
    }
    rows.data = there.data();
    rows.stride = tensor.cols * static_cast<index_t>(element);
  }

  channel_block block_;
  std::vector<device_buffer<std::byte>> memory_;
};

/// Calls `f(std::integral_constant<int, N>)` with the number of models, 1 to `Most`.
template <int Most, int N = 1, class F>
void with_few_models(int n, F const& f) {
  if constexpr (N == Most) {
    f(std::integral_constant<int, N>{});
  } else if (n == N) {
    f(std::integral_constant<int, N>{});
  } else {
    with_few_models<Most, N + 1>(n, f);
  }
}

/// Whether a map may take the kernel for bfloat16 and whole tiles.
template <class F, int Most>
bool is_usual(map_arguments<F, Most> const& a) noexcept {
  bool usual = a.type == dtype::bf16 && a.in.has_base && a.in.deltas && a.in.base.type == dtype::bf16 && a.in.whole;
  for (int i = 0; i < a.in.count; ++i) { usual = usual && a.in.models[i].type == dtype::bf16; }
  if constexpr (F::prunes) { usual = usual && (!F::random || a.in.grouped); }
  return usual && a.in.cols % (F::layout == tile_layout::spread ? 64 : tile_elements) == 0;
}

/// Enqueues a map of a block's channels. `make(std::integral_constant<int, Most>)` makes the function for up to so many models.
/// @param out    [rows, cols] of `block.out`, packed
/// @param given  the block as its owner knows it, for errors, where `block` is another
template <class Make>
void map_elements(device_method_workspace& work, channel_block const& block, index_t cols, std::byte* out, operand what, bool allow_nonfinite,
                  Make const& make, channel_block const* given = nullptr) {
  cuda const& be = work.executor();
  current_device const current(be.device());
  auto const n = static_cast<int>(block.experts.size());
  constexpr int room = decltype(make(std::integral_constant<int, most_few_models>{}))::most;
  auto const start = [&]<int Most>(std::integral_constant<int, Most> most) {
    constexpr bool few = Most == room;
    auto f = make(most);
    using function = decltype(f);
    input_options const o{what, !allow_nonfinite, function::by_row, function::layout};
    map_arguments<function, Most> a{inputs_of<Most>(block, cols, o, out), 0, 0, block.out, out, f};
    if (a.in.check) { a.in.first_bad = work.watch(given == nullptr ? block : *given, cols, what); }
    constexpr unsigned threads = few ? 256 : 128;
    // Tiles of many rows are counted with 32 bits.
    index_t const of_row = few ? tiles_of<function::layout>(a.in.cols) : (a.in.cols + threads - 1) / threads;
    index_t const rows = a.in.rows;
    index_t const at_once = rows == 1 ? 1 : std::max<index_t>(1, (index_t{1} << 31) / of_row - 1);
    if (rows > 1) { a.of_row = static_cast<std::uint32_t>(of_row); }
    for (index_t first = 0; first < rows; first += at_once) {
      index_t const count = std::min(at_once, rows - first);
      auto part = a;
      auto const advance = [&](device_input& input) { input.data += first * input.stride; };
      if (first > 0) {
        if (part.in.has_base) { advance(part.in.base); }
        for (int i = 0; i < n; ++i) { advance(part.in.models[i]); }
        part.in.first += first;
        part.in.first_row += first;
        part.out += first * a.in.cols * static_cast<index_t>(size_of(a.type));
      }
      part.in.rows = count;
      part.tiles = count * of_row;
      if constexpr (few) {
        auto const blocks = static_cast<unsigned>((part.tiles + threads - 1) / threads);
        with_few_models<Most>(n, [&]<int N>(std::integral_constant<int, N>) {
          if constexpr (function::prunes && N > 1) {
            if (is_usual<function>(part)) {
              map_kernel<N, true><<<blocks, threads, 0, be.stream()>>>(part);
              return;
            }
          }
          map_kernel<N, false><<<blocks, threads, 0, be.stream()>>>(part);
        });
      } else {
        std::size_t const shared = threads * static_cast<std::size_t>(n) * sizeof(float);
        auto const kernel = map_many_kernel<function, Most>;
        allow_shared_memory(kernel);
        kernel<<<static_cast<unsigned>(part.tiles), threads, shared, be.stream()>>>(part);
      }
      check_cuda(cudaGetLastError(), "starting a merge");
    }
  };
  if (n >= 1 && n <= room) {
    start(std::integral_constant<int, room>{});
  } else {
    start(std::integral_constant<int, max_experts>{});
  }
}

}  // namespace detail

namespace ops {

/// `apply` enqueues on the workspace's stream; what is wrong with inputs shows in `finish` of the workspace, which the
/// functions below call.
template <>
struct tensor_blocks<cuda> {
  using workspace = detail::device_method_workspace;

  /// Calls `f(0, block, workspace)` with all channels, and waits.
  template <class F>
  static void for_each(cuda const& be, tensor_channels const& tensor, index_t, F const& f) {
    workspace work(be);
    detail::device_block const block(be, tensor);
    f(index_t{0}, block.get(), work);
    work.finish();
  }

  /// Throws `nonfinite_found` where `rows` packed rows hold NaN or infinity. Waits.
  static void check_rows(std::byte const* data, dtype type, index_t first, index_t rows, index_t cols, workspace& work) {
    cuda const& be = work.executor();
    index_t const elements = rows * cols;
    index_t at = elements;
    detail::run_algorithm(be, "looking for NaN", [&](auto const& policy) {
      detail::visit_dtype(type, [&]<class T>(T*) { at = detail::first_nonfinite(policy, reinterpret_cast<T const*>(data), elements); });
    });
    if (at == elements) { return; }
    std::byte one[4];
    be.to_host(one, data + static_cast<std::size_t>(at) * size_of(type), size_of(type));
    be.synchronize();
    float value = 0.0f;
    detail::widen(type, one, &value, 1);
    throw detail::nonfinite_found{{-1, first + at / cols, at % cols, value}};
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
