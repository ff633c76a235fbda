#pragma once

#include <braid/backend/cuda.cuh>
#include <braid/core/tensor_view.hpp>
#include <braid/serve/cuda/row_products.cuh>

#include <map>
#include <utility>

BRAID_NAMESPACE_BEGIN

/// `row_linear` on a device: y = W_expert x for any expert of a merged weight, without rebuilding it. Its own copy of the pool
/// lies in device memory, rows that experts share once, signs of residuals as they are stored.
///
/// The bits are those of `row_linear` on the CPU: float32 in the order of sums, whatever the batch. Products and sums are
/// rounded apart, so large batches are bound by arithmetic: no tensor core keeps an order.
///
/// Which rows a batch needs depends on its experts alone. That is worked out on the host when experts come in an order that
/// hasn't been seen yet, and kept: later products with the same experts only start kernels, and may be captured in a graph.
/// Use one object from one thread at a time.
/// @note Channel Merging, arXiv 2412.15283: inference looks an expert's channels up.
class device_row_linear {
 public:
  /// Copies what `source` has to the device; waits.
  /// @throws argument_error for types other than bf16, f16 and f32, and residuals other than signs; backend_error
  template <row_source Source>
  device_row_linear(cuda const& be, Source const& source) : type_(source.type()), cols_(source.cols()) {
    auto host = detail::make_device_pool(source);
    stride_ = host.stride;
    rows_ = uploaded(be, host.rows);
    planes_ = uploaded(be, host.planes);
    scales_ = uploaded(be, host.scales);
    columns_ = uploaded(be, host.columns);
    experts_ = std::move(host.experts);
    be.synchronize();
    detail::check_cuda(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, be.device()), "asking a device what it is");
    detail::check_cuda(cudaDeviceGetAttribute(&room_, cudaDevAttrMaxSharedMemoryPerBlockOptin, be.device()), "asking a device what it is");
  }

  [[nodiscard]] std::size_t experts() const noexcept { return experts_.size(); }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  /// @throws argument_error if there is no such expert
  [[nodiscard]] index_t channels(std::size_t expert) const {
    check(expert);
    return static_cast<index_t>(experts_[expert].size());
  }
  /// Bytes in device memory, without what batches keep: 24 bytes a task.
  [[nodiscard]] std::size_t bytes() const noexcept {
    return rows_.size() + planes_.size() + (scales_.size() + columns_.size()) * sizeof(bfloat16);
  }

  /// Enqueues a batch in which every vector names its expert: y[b] = W_{expert[b]} x[b].
  /// @param expert  [batch], on the host
  /// @param x       [batch, cols]; fastest where every vector begins on 16 bytes
  /// @param y       [batch, channels]; may not overlap x. Where experts have different channels, as many as the one with the
  ///                most, and what lies beyond an expert's own is left as it is
  /// @throws argument_error if there is no such expert, shape_error for other sizes, backend_error
  void apply(cuda const& be, std::span<std::size_t const> expert, tensor_view<float const, memory_space::device> x,
             tensor_view<float, memory_space::device> y) {
    for (std::size_t const e : expert) { check(e); }
    batch const& b = batch_of(be, expert);
    if (static_cast<index_t>(expert.size()) != x.rows() || x.rows() != y.rows() || x.cols() != cols_ ||
        (y.cols() != b.channels && x.rows() != 0)) {
      throw shape_error("device_row_linear: " + std::to_string(expert.size()) + " experts, x " + shape(x.rows(), x.cols()) + ", y " +
                        shape(y.rows(), y.cols()) + " where " + shape(x.rows(), cols_) + " and " + shape(x.rows(), b.channels) +
                        " are needed");
    }
    if (b.tasks.size() == 0) { return; }
    detail::current_device const current(be.device());
    detail::product_arguments a;
    a.pool = rows_.data();
    a.stride = stride_;
    a.cols = cols_;
    a.tasks = b.tasks.data();
    a.count = static_cast<int>(b.tasks.size());
    a.tiles = b.tiles.data();
    a.inputs = b.inputs.data();
    a.planes = planes_.data();
    a.scales = scales_.data();
    a.columns = columns_.data();
    a.x = x.data_handle();
    a.x_stride = x.stride(0);
    a.y = y.data_handle();
    a.y_stride = y.stride(0);
    a.aligned_x = reinterpret_cast<std::uintptr_t>(a.x) % 16 == 0 && (a.x_stride % 4 == 0 || x.rows() == 1);
    switch (type_) {
      case dtype::bf16: start<bfloat16>(be, b, a); break;
      case dtype::f16: start<float16>(be, b, a); break;
      default: start<float>(be, b, a); break;
    }
    detail::check_cuda(cudaGetLastError(), "starting products");
  }

  /// One vector: x [cols], y [channels].
  void apply(cuda const& be, std::size_t expert, tensor_view<float const, memory_space::device> x,
             tensor_view<float, memory_space::device> y) {
    std::vector<std::size_t> const experts(static_cast<std::size_t>(x.rows()), expert);
    apply(be, experts, x, y);
  }

 private:
  /// What the device needs for one list of experts.
  struct batch {
    index_t channels = 0;
    bool alone = false;
    std::size_t above[4]{};  // tiles with more than 0, 2, 4, 8 vectors
    device_buffer<detail::row_task> tasks;
    device_buffer<detail::task_tile> tiles;
    device_buffer<std::int32_t> inputs;
  };

  static std::string shape(index_t rows, index_t cols) { return std::to_string(rows) + " x " + std::to_string(cols); }

  void check(std::size_t expert) const {
    if (expert >= experts_.size()) {
      throw argument_error("device_row_linear: no expert number " + std::to_string(expert) + "; there are " +
                           std::to_string(experts_.size()) + ", counted from 0");
    }
  }

  template <class T>
  static device_buffer<T> uploaded(cuda const& be, std::vector<T> const& from) {
    auto to = be.make_buffer<T>(from.size());
    be.to_device(to.data(), from.data(), from.size());  // pageable memory: has been read when this returns
    return to;
  }

  batch const& batch_of(cuda const& be, std::span<std::size_t const> expert) {
    std::vector<std::size_t> key(expert.begin(), expert.end());
    auto const found = batches_.find(key);
    if (found != batches_.end()) { return found->second; }
    auto const plan = detail::plan_rows(experts_, expert, static_cast<std::size_t>(processors_) / 2);
    batch b;
    b.channels = plan.channels;
    b.alone = expert.size() == 1;
    b.tasks = uploaded(be, plan.tasks);
    b.tiles = uploaded(be, plan.tiles);
    b.inputs = uploaded(be, plan.inputs);
    for (std::size_t i = 0; i < 4; ++i) { b.above[i] = plan.above(i == 0 ? 0 : 1 << i); }
    be.synchronize();
    return batches_.emplace(std::move(key), std::move(b)).first->second;
  }

  template <class T>
  void start(cuda const& be, batch const& b, detail::product_arguments a) const {
    if (planes_.size() != 0) {
      start_kernels<T, true>(be, b, a);
    } else {
      start_kernels<T, false>(be, b, a);
    }
  }

  template <class T, bool Signs>
  void start_kernels(cuda const& be, batch const& b, detail::product_arguments a) const {
    using vector = detail::vector_layout<T>;
    auto const fits = [&](int stages) { return vector::bytes(cols_, stages) <= static_cast<std::size_t>(room_); };
    if (b.alone && cols_ != 0 && fits(2)) {
      if (fits(3)) {
        start_vector<T, 3, Signs>(be, a);
      } else {
        start_vector<T, 2, Signs>(be, a);
      }
      return;
    }
    start_tiles<T, 1, Signs>(be, a, b.above[0], b.above[1]);
    start_tiles<T, 2, Signs>(be, a, b.above[1], b.above[2]);
    start_tiles<T, 4, Signs>(be, a, b.above[2], b.above[3]);
    start_tiles<T, 8, Signs>(be, a, b.above[3], b.tiles.size());
  }

  template <class T, int Stages, bool Signs>
  void start_vector(cuda const& be, detail::product_arguments const& a) const {
    using layout = detail::vector_layout<T>;
    auto const kernel = detail::row_vector_kernel<T, Stages, Signs>;
    std::size_t const bytes = layout::bytes(cols_, Stages);
    allow(reinterpret_cast<void const*>(kernel), bytes);
    int const needed = (a.count + layout::warps - 1) / layout::warps;
    int const blocks = needed < processors_ ? needed : processors_;
    kernel<<<static_cast<unsigned>(blocks), layout::threads, bytes, be.stream()>>>(a, blocks);
  }

  template <class T, int Inputs, bool Signs>
  void start_tiles(cuda const& be, detail::product_arguments a, std::size_t first, std::size_t last) const {
    if (first == last) { return; }
    using layout = detail::tile_layout<T, Inputs>;
    auto const kernel = detail::row_tile_kernel<T, Inputs, Signs>;
    allow(reinterpret_cast<void const*>(kernel), layout::bytes);
    a.tiles += first;
    kernel<<<static_cast<unsigned>(last - first), layout::threads, layout::bytes, be.stream()>>>(a);
  }

  static void allow(void const* kernel, std::size_t bytes) {
    detail::check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
                       "asking for shared memory");
  }

  dtype type_;
  index_t cols_;
  index_t stride_ = 0;
  int processors_ = 0;
  int room_ = 0;
  device_buffer<std::byte> rows_;
  device_buffer<std::byte> planes_;
  device_buffer<bfloat16> scales_;
  device_buffer<bfloat16> columns_;
  std::vector<std::vector<detail::row_task>> experts_;
  std::map<std::vector<std::size_t>, batch> batches_;
};

BRAID_NAMESPACE_END
