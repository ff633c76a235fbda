#pragma once

#include <braid/backend/cuda.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/core/tensor_view.hpp>
#include <braid/serve/cuda/row_matrix.cuh>
#include <braid/serve/cuda/row_products.cuh>

#include <map>
#include <utility>

BRAID_NAMESPACE_BEGIN

/// In which order products are summed.
enum class product_order {
  /// The one order of sums (core/sum_order.hpp), a product and a sum rounded apart: the CPU's bits, whatever the batch. No
  /// tensor core keeps it, so that large batches are bound by arithmetic.
  fixed,
  /// Tensor cores, for rows of 16 bits: exact products, float32 sums in an order that depends on the hardware and on the batch;
  /// repeated products have the same bits. Rows of float32 and f8 are multiplied as in `fixed`, and so is one vector.
  any,
};

/// `row_linear` on a device: y = W_expert x for any expert of a merged weight, without rebuilding it. Its own copy of the pool
/// lies in device memory, rows that experts share once, residuals in as many bits as are stored (ternary ones in two).
///
/// In `product_order::fixed` the bits are those of `row_linear` on the CPU. In `product_order::any` vectors of float32 are taken
/// apart into numbers of the rows' type (three of bf16, which are exact from about 2^-110 on, or two of f16: 22 bits relative to
/// a vector's largest number), and vectors of the rows' type are multiplied as they are. Rows have to be finite there: infinity
/// times a part that is zero is NaN.
///
/// Kernels read rows before the kernel ahead of them on the stream has ended, and vectors behind it.
///
/// Which rows a batch needs depends on its experts alone. That is worked out on the host when experts come in an order that
/// hasn't been seen yet, and kept: later products with the same experts only start kernels, and may be captured in a graph.
/// Use one object from one thread and on one stream at a time, and let that stream finish before the object goes.
/// @note Channel Merging, arXiv 2412.15283: inference looks an expert's channels up.
class device_row_linear {
 public:
  /// Copies what `source` has to the device; waits.
  /// @throws backend_error
  template <row_source Source>
  device_row_linear(cuda const& be, Source const& source) : type_(source.type()), cols_(source.cols()) {
    auto host = detail::make_device_pool(source);
    stride_ = host.stride;
    rows_ = uploaded(be, host.rows);
    planes_ = uploaded(be, host.planes);
    scales_ = uploaded(be, host.scales);
    columns_ = uploaded(be, host.columns);
    trellis_ = uploaded(be, detail::device_trellis());
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
    return rows_.size() + planes_.size() * sizeof(std::uint32_t) + (scales_.size() + columns_.size() + trellis_.size()) * sizeof(bfloat16);
  }

  /// Enqueues a batch in which every vector names its expert: y[b] = W_{expert[b]} x[b].
  /// @param expert  [batch], on the host
  /// @param x       [batch, cols]; fastest where every vector begins on 16 bytes
  /// @param y       [batch, channels]; may not overlap x. Where experts have different channels, as many as the one with the
  ///                most, and what lies beyond an expert's own is left as it is
  /// @throws argument_error if there is no such expert, shape_error for other sizes, backend_error
  void apply(cuda const& be, std::span<std::size_t const> expert, tensor_view<float const, memory_space::device> x,
             tensor_view<float, memory_space::device> y, product_order order = product_order::fixed) {
    bool const matrices = order == product_order::any && size_of(type_) == 2 && !(expert.size() == 1 && fits_vector());
    batch const& b = checked_batch(be, expert, matrices, x.rows(), x.cols(), y);
    if (b.tasks.size() == 0) { return; }
    detail::current_device const current(be.device());
    detail::product_arguments a = arguments(b, y);
    if (matrices) {
      if (type_ == dtype::bf16) {
        start_split<bfloat16>(be, b, a, x);
      } else {
        start_split<float16>(be, b, a, x);
      }
    } else {
      a.x = x.data_handle();
      a.x_stride = x.stride(0);
      a.aligned_x = reinterpret_cast<std::uintptr_t>(a.x) % 16 == 0 && (a.x_stride % 4 == 0 || x.rows() == 1);
      switch (type_) {
        case dtype::bf16: start<bfloat16>(be, b, a); break;
        case dtype::f16: start<float16>(be, b, a); break;
        case dtype::f8_e4m3: start<float8_e4m3>(be, b, a); break;
        case dtype::f8_e5m2: start<float8_e5m2>(be, b, a); break;
        default: start<float>(be, b, a); break;
      }
    }
    detail::check_cuda(cudaGetLastError(), "starting products");
  }

  /// The same for vectors of the rows' type, bf16 or f16, in product_order::any; of one vector in the fixed order.
  /// @param x  [batch, cols]; every vector begins on 16 bytes
  /// @throws as above; argument_error for another type, and for vectors that begin elsewhere
  template <class T>
    requires(std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>)
  void apply(cuda const& be, std::span<std::size_t const> expert, tensor_view<T const, memory_space::device> x,
             tensor_view<float, memory_space::device> y) {
    if (type_ != dtype_of<T>) {
      throw argument_error("device_row_linear: vectors of " + std::string(name_of(dtype_of<T>)) + " for rows of " +
                           std::string(name_of(type_)) + ": give float32, or the rows' type");
    }
    if (reinterpret_cast<std::uintptr_t>(x.data_handle()) % 16 != 0 || (x.rows() > 1 && x.stride(0) % 8 != 0)) {
      throw argument_error("device_row_linear: vectors of 16-bit numbers begin on 16 bytes; this one has stride " + std::to_string(x.stride(0)));
    }
    bool const alone = expert.size() == 1 && fits_vector();
    batch const& b = checked_batch(be, expert, !alone, x.rows(), x.cols(), y);
    if (b.tasks.size() == 0) { return; }
    detail::current_device const current(be.device());
    if (alone) {
      detail::product_arguments a = arguments(b, y);
      a.x = reinterpret_cast<float const*>(x.data_handle());
      start_vector<T, T>(be, a);
      detail::check_cuda(cudaGetLastError(), "starting products");
      return;
    }
    detail::matrix_arguments m;
    m.row = arguments(b, y);
    m.parts = reinterpret_cast<std::byte const*>(x.data_handle());
    m.pitch = x.stride(0);
    start_matrices<T, 1>(be, b, m);
    detail::check_cuda(cudaGetLastError(), "starting products");
  }

  /// One expert for all vectors: x [batch, cols], y [batch, channels].
  template <class T, class... Order>
  void apply(cuda const& be, std::size_t expert, tensor_view<T const, memory_space::device> x,
             tensor_view<float, memory_space::device> y, Order... order) {
    std::vector<std::size_t> const experts(static_cast<std::size_t>(x.rows()), expert);
    apply(be, std::span<std::size_t const>(experts), x, y, order...);
  }

 private:
  /// What the device needs for one list of experts.
  struct batch {
    index_t channels = 0;
    bool alone = false;
    bool few_tasks = false;  // in a tile for matrices
    std::size_t above[4]{};  // tiles with more than 0, 2, 4, 8 vectors; for matrices 0, 16, 32
    device_buffer<std::uint16_t> parts;  // of float32 vectors, for matrices
    device_buffer<float> scale;
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

  batch const& batch_of(cuda const& be, std::span<std::size_t const> expert, bool matrices) {
    std::vector<std::size_t> key(expert.begin(), expert.end());
    key.push_back(matrices ? 1 : 0);
    auto const found = batches_.find(key);
    if (found != batches_.end()) { return found->second; }
    batch b;
    detail::row_plan plan;
    if (matrices) {
      plan = detail::plan_rows(experts_, expert, 0, {detail::matrix_tasks, detail::matrix_inputs});
      auto const processors = static_cast<std::size_t>(processors_);
      bool const few_inputs = plan.above(detail::matrix_few_inputs) == plan.tiles.size();
      // Many vectors are read by more blocks then: worth it where that leaves few columns or none to be shared out.
      b.few_tasks = plan.tiles.size() < processors && (few_inputs || 8 * plan.tiles.size() >= 3 * processors);
      if (b.few_tasks) { plan = detail::plan_rows(experts_, expert, 0, {detail::matrix_few_tasks, detail::matrix_inputs}); }
    } else {
      plan = detail::plan_rows(experts_, expert, static_cast<std::size_t>(processors_) / 2);
    }
    b.channels = plan.channels;
    b.alone = expert.size() == 1;
    b.tasks = uploaded(be, plan.tasks);
    b.tiles = uploaded(be, plan.tiles);
    b.inputs = uploaded(be, plan.inputs);
    for (std::size_t i = 0; i < 4; ++i) { b.above[i] = plan.above(i == 0 ? 0 : (matrices ? 8 : 1) << i); }
    if (matrices) {
      auto const terms = static_cast<std::size_t>(type_ == dtype::bf16 ? detail::matrix_terms<bfloat16> : detail::matrix_terms<float16>);
      b.parts = be.make_buffer<std::uint16_t>(terms * expert.size() * static_cast<std::size_t>(parts_pitch()));
      b.scale = be.make_buffer<float>(expert.size());
    }
    be.synchronize();
    return batches_.emplace(std::move(key), std::move(b)).first->second;
  }

  /// Whether a vector and two pieces of a row fit shared memory.
  [[nodiscard]] bool fits_vector() const noexcept {
    std::size_t const needed = size_of(type_) == 4   ? detail::vector_layout<float>::bytes(cols_, 2)
                               : size_of(type_) == 2 ? detail::vector_layout<bfloat16>::bytes(cols_, 2)
                                                     : detail::vector_layout<float8_e4m3>::bytes(cols_, 2);
    return cols_ != 0 && needed <= static_cast<std::size_t>(room_);
  }
  [[nodiscard]] index_t parts_pitch() const noexcept { return (cols_ + 7) / 8 * 8; }

  batch const& checked_batch(cuda const& be, std::span<std::size_t const> expert, bool matrices, index_t rows, index_t cols,
                             tensor_view<float, memory_space::device> y) {
    for (std::size_t const e : expert) { check(e); }
    batch const& b = batch_of(be, expert, matrices);
    if (static_cast<index_t>(expert.size()) != rows || rows != y.rows() || cols != cols_ || (y.cols() != b.channels && rows != 0)) {
      throw shape_error("device_row_linear: " + std::to_string(expert.size()) + " experts, x " + shape(rows, cols) + ", y " +
                        shape(y.rows(), y.cols()) + " where " + shape(rows, cols_) + " and " + shape(rows, b.channels) + " are needed");
    }
    return b;
  }

  [[nodiscard]] detail::product_arguments arguments(batch const& b, tensor_view<float, memory_space::device> y) const {
    detail::product_arguments a;
    a.pool = rows_.data();
    a.stride = stride_;
    a.cols = cols_;
    a.tasks = b.tasks.data();
    a.count = static_cast<int>(b.tasks.size());
    a.tiles = b.tiles.data();
    a.inputs = b.inputs.data();
    a.coded = {planes_.data(), scales_.data(), columns_.size() == 0 ? nullptr : columns_.data(), trellis_.data()};
    a.y = y.data_handle();
    a.y_stride = y.stride(0);
    return a;
  }

  /// Takes vectors apart, then multiplies.
  template <class T>
  void start_split(cuda const& be, batch const& b, detail::product_arguments const& a, tensor_view<float const, memory_space::device> x) const {
    detail::split_arguments s;
    s.x = x.data_handle();
    s.x_stride = x.stride(0);
    s.cols = cols_;
    s.pitch = parts_pitch();
    s.term = s.pitch * x.rows();
    s.parts = b.parts.data();
    if constexpr (std::is_same_v<T, float16>) {
      s.scale = b.scale.data();
    } else {
      s.pieces = static_cast<int>((cols_ + detail::split_columns - 1) / detail::split_columns);
      if (s.pieces == 0) { s.pieces = 1; }
    }
    start_kernel(be, detail::split_inputs_kernel<T>, static_cast<std::size_t>(x.rows()) * static_cast<std::size_t>(s.pieces), detail::split_threads,
                 detail::split_threads / 32 * sizeof(std::uint32_t), 1, s);
    detail::matrix_arguments m;
    m.row = a;
    m.parts = reinterpret_cast<std::byte const*>(b.parts.data());
    m.pitch = s.pitch;
    m.term = s.term;
    m.scale = s.scale;
    start_matrices<T, detail::matrix_terms<T>>(be, b, m);
  }

  template <class T, int Terms>
  void start_matrices(cuda const& be, batch const& b, detail::matrix_arguments const& m) const {
    if (planes_.size() != 0) {
      start_matrices<T, Terms, true>(be, b, m);
    } else {
      start_matrices<T, Terms, false>(be, b, m);
    }
  }
  template <class T, int Terms, bool Coded>
  void start_matrices(cuda const& be, batch const& b, detail::matrix_arguments const& m) const {
    if (b.few_tasks) {
      start_matrix_tiles<T, detail::matrix_few_tasks, Terms, Coded>(be, b, m);
    } else {
      start_matrix_tiles<T, detail::matrix_tasks, Terms, Coded>(be, b, m);
    }
  }
  template <class T, int Tasks, int Terms, bool Coded>
  void start_matrix_tiles(cuda const& be, batch const& b, detail::matrix_arguments const& m) const {
    start_matrix_tiles<T, Tasks, 16, Terms, Coded>(be, b, m, b.above[0], b.above[1]);
    start_matrix_tiles<T, Tasks, 32, Terms, Coded>(be, b, m, b.above[1], b.above[2]);
    start_matrix_tiles<T, Tasks, 64, Terms, Coded>(be, b, m, b.above[2], b.tiles.size());
  }

  template <class T, int Tasks, int Inputs, int Terms, bool Coded>
  void start_matrix_tiles(cuda const& be, batch const& b, detail::matrix_arguments m, std::size_t first, std::size_t last) const {
    if (first == last) { return; }
    using layout = detail::matrix_layout<Tasks, Inputs, Terms>;
    m.row.tiles += first;
    m.follows = first != 0;
    m.followed = last != b.tiles.size();
    // Few tiles share their columns out among several blocks, until processors have enough of them, or a block eight steps.
    auto const tiles = last - first;
    constexpr int fill = Tasks == detail::matrix_few_tasks ? layout::blocks : 1;
    while (m.split < 8 && 2 * b.tiles.size() * static_cast<std::size_t>(m.split) <= static_cast<std::size_t>(fill * processors_) &&
           cols_ >= static_cast<index_t>(2 * m.split) * 8 * layout::columns) {
      m.split *= 2;
    }
    auto const kernel = detail::row_matrix_kernel<T, Tasks, Inputs, Terms, Coded>;
    detail::allow_shared_memory(kernel);
    start_kernel(be, kernel, tiles * static_cast<std::size_t>(m.split), layout::threads, layout::bytes, m.split, m);
  }

  /// Starts a kernel that may begin before the one ahead has ended.
  template <class Arguments>
  static void start_kernel(cuda const& be, void (*kernel)(Arguments), std::size_t blocks, int threads, std::size_t bytes, int cluster,
                           Arguments const& a) {
    detail::launch(kernel,
                   {.blocks = blocks, .threads = threads, .shared_bytes = bytes, .cluster = cluster == 1 ? 0 : cluster, .early = true},
                   be.stream(), "starting products", a);
  }

  template <class T>
  void start(cuda const& be, batch const& b, detail::product_arguments a) const {
    if (planes_.size() != 0) {
      start_kernels<T, true>(be, b, a);
    } else {
      start_kernels<T, false>(be, b, a);
    }
  }

  template <class T, bool Coded>
  void start_kernels(cuda const& be, batch const& b, detail::product_arguments a) const {
    if (b.alone && fits_vector()) {
      start_vector<T, float, Coded>(be, a);
      return;
    }
    start_tiles<T, 1, Coded>(be, a, b.above[0], b.above[1]);
    start_tiles<T, 2, Coded>(be, a, b.above[1], b.above[2]);
    start_tiles<T, 4, Coded>(be, a, b.above[2], b.above[3]);
    start_tiles<T, 8, Coded>(be, a, b.above[3], b.tiles.size());
  }

  template <class T, class X>
  void start_vector(cuda const& be, detail::product_arguments const& a) const {
    if (planes_.size() != 0) {
      start_vector<T, X, true>(be, a);
    } else {
      start_vector<T, X, false>(be, a);
    }
  }
  template <class T, class X, bool Coded>
  void start_vector(cuda const& be, detail::product_arguments const& a) const {
    if (detail::vector_layout<T>::bytes(cols_, 3) <= static_cast<std::size_t>(room_)) {
      start_vector<T, X, 3, Coded>(be, a);
    } else {
      start_vector<T, X, 2, Coded>(be, a);
    }
  }
  template <class T, class X, int Stages, bool Coded>
  void start_vector(cuda const& be, detail::product_arguments const& a) const {
    using layout = detail::vector_layout<T>;
    auto const kernel = detail::row_vector_kernel<T, X, Stages, Coded>;
    std::size_t const bytes = layout::bytes(cols_, Stages);
    detail::allow_shared_memory(kernel);
    int const needed = (a.count + layout::warps - 1) / layout::warps;
    int const blocks = needed < processors_ ? needed : processors_;
    start_kernel(be, kernel, static_cast<std::size_t>(blocks), layout::threads, bytes, 1, a);
  }

  template <class T, int Inputs, bool Coded>
  void start_tiles(cuda const& be, detail::product_arguments a, std::size_t first, std::size_t last) const {
    if (first == last) { return; }
    using layout = detail::product_tile_layout<T, Inputs>;
    auto const kernel = detail::row_tile_kernel<T, Inputs, Coded>;
    detail::allow_shared_memory(kernel);
    a.tiles += first;
    // Not before the kernel ahead has ended: it would share processors unevenly with it, and arithmetic is what it lacks.
    kernel<<<static_cast<unsigned>(last - first), layout::threads, layout::bytes, be.stream()>>>(a);
  }

  dtype type_;
  index_t cols_;
  index_t stride_ = 0;
  int processors_ = 0;
  int room_ = 0;
  device_buffer<std::byte> rows_;
  device_buffer<std::uint32_t> planes_;
  device_buffer<bfloat16> scales_;
  device_buffer<bfloat16> columns_;
  device_buffer<bfloat16> trellis_;
  std::vector<std::vector<detail::row_task>> experts_;
  std::map<std::vector<std::size_t>, batch> batches_;
};

BRAID_NAMESPACE_END
