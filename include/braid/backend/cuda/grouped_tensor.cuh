#pragma once

#include <braid/backend/cuda.cuh>
#include <braid/backend/cuda/any_rows.cuh>
#include <braid/backend/cuda/residual_merge.cuh>
#include <braid/backend/cuda/residual_rebuild.cuh>
#include <braid/method/grouped_tensor.hpp>

BRAID_NAMESPACE_BEGIN

namespace detail {

struct device_tensor_access;  // who may fill one

/// One 16-bit or 32-bit element of a gather of rows: to[r] = from[row[r]].
template <class T>
struct gather_rows {
  T const* from;
  std::int32_t const* row;
  T* to;
  index_t cols;
  index_t to_stride;
  BRAID_HD void operator()(index_t i) const noexcept {
    index_t const r = i / cols;
    index_t const c = i % cols;
    to[r * to_stride + c] = from[static_cast<index_t>(row[r]) * cols + c];
  }
};

}  // namespace detail

/// A merged tensor on a device: the pool of rows and the residuals in device memory, index and codes on the host. Otherwise as
/// on the host.
template <storage_element T>
class grouped_tensor<T, memory_space::device> {
 public:
  grouped_tensor() = default;

  [[nodiscard]] index_t channels() const noexcept { return index_.channels(); }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::vector<std::string> const& experts() const noexcept { return index_.experts(); }

  /// Rows in the pool: between `channels()` and `channels()` times the number of groups.
  [[nodiscard]] index_t pool_rows() const noexcept { return index_.pool_rows(); }
  [[nodiscard]] tensor_view<T const, memory_space::device> pool() const noexcept { return {pool_.data(), pool_rows(), cols_}; }

  /// Group of an expert in a channel.
  [[nodiscard]] int group(std::size_t expert, index_t channel) const noexcept { return index_.group(expert, channel); }
  [[nodiscard]] int groups(index_t channel) const noexcept { return index_.groups(channel); }
  /// Mean cosine of the clustered deltas with their group's sum; 1 where nothing had to be clustered.
  [[nodiscard]] double similarity() const noexcept { return index_.similarity(); }
  /// @throws argument_error naming those that exist
  [[nodiscard]] std::size_t expert_number(std::string_view name) const { return index_.expert_number(name); }
  /// The pool row of each channel of an expert, [channels].
  [[nodiscard]] std::vector<std::int32_t> rows(std::size_t expert) const { return index_.rows(expert); }
  /// How the residual of an expert's row is stored; none for rows of the pool as they are.
  [[nodiscard]] residual_code residual(std::size_t expert, index_t channel) const noexcept { return index_.residual(expert, channel); }
  /// Scales of the residuals' columns, [cols], in host memory; empty: all one.
  [[nodiscard]] std::span<bfloat16 const> column_scales() const noexcept { return index_.column_scales(); }
  /// The packed residuals and their scales, channel by channel, expert by expert.
  [[nodiscard]] device_buffer<std::byte> const& planes() const noexcept { return planes_; }
  [[nodiscard]] device_buffer<bfloat16> const& scales() const noexcept { return scales_; }
  /// Bytes of pool, index, residuals and their columns' scales; the codes where they differ.
  [[nodiscard]] std::size_t stored_bytes() const noexcept {
    return static_cast<std::size_t>(pool_rows() * cols_) * sizeof(T) + index_.stored_bytes() + planes_.size() + scales_.size() * sizeof(bfloat16);
  }

  /// Rebuilds an expert's weight [channels, cols] in device memory; enqueues. Its list of rows is read before it returns.
  /// @throws shape_error if `out` has another shape
  void extract(cuda const& be, std::size_t expert, tensor_view<T, memory_space::device> out) const {
    if (out.rows() != channels() || out.cols() != cols_) {
      throw shape_error("grouped tensor: extract needs room for " + std::to_string(channels()) + " x " + std::to_string(cols_) +
                        " elements, not " + std::to_string(out.rows()) + " x " + std::to_string(out.cols()));
    }
    auto const from = rows(expert);
    device_buffer<std::int32_t> const row = be.make_buffer<std::int32_t>(from.size());
    be.to_device(row.data(), from.data(), from.size());  // pageable memory: has been read when this returns
    if (scales_.size() > 0) {
      auto const coded = detail::upload(be, coded_rows(expert));
      auto const tables = detail::upload(be, detail::trellis_tables());
      std::vector<bfloat16> const column_here(column_scales().begin(), column_scales().end());
      auto const column = detail::upload(be, column_here);
      detail::residual_memory const memory{planes_.data(), scales_.data(), column.data(), tables.data()};
      be.for_each(channels() * cols_, detail::rebuild_rows<T>{pool_.data(), row.data(), coded.data(), memory, out.data_handle(), cols_, out.stride(0),
                                                             detail::largest_finite<T>});
      return;
    }
    be.for_each(channels() * cols_, detail::gather_rows<T>{pool_.data(), row.data(), out.data_handle(), cols_, out.stride(0)});
  }

  /// The same tensor in host memory; waits.
  [[nodiscard]] grouped_tensor<T> to_host(cuda const& be) const;

 private:
  friend struct detail::device_tensor_access;

  /// Where an expert's residuals are, [channels].
  [[nodiscard]] std::vector<detail::coded_row> coded_rows(std::size_t expert) const {
    std::vector<detail::coded_row> coded;
    std::int64_t plane = 0;
    std::int64_t scale = 0;
    for (index_t c = 0; c < channels(); ++c) {
      for (std::size_t e = 0; e < experts().size(); ++e) {
        residual_code const code = residual(e, c);
        if (e == expert) { coded.push_back({code, plane, scale}); }
        plane += residual_bytes(code, cols_);
        scale += residual_scales(code);
      }
    }
    return coded;
  }

  grouped_tensor<T> index_;  // with rows of no columns
  index_t cols_ = 0;
  device_buffer<T> pool_;
  device_buffer<std::byte> planes_;
  device_buffer<bfloat16> scales_;
};

namespace detail {

/// Who may fill the device's kind of grouped tensor.
struct device_tensor_access {
  /// Sets names and shape and makes room for `most_groups` rows a channel. @return that room
  template <class T>
  static T* reshape(braid::grouped_tensor<T, memory_space::device>& t, cuda const& be, std::vector<std::string> names, index_t channels,
                    index_t cols, index_t most_groups) {
    (void)grouped_tensor_access::reshape(t.index_, std::move(names), channels, 0, 1);
    t.cols_ = cols;
    t.planes_ = {};
    t.scales_ = {};
    auto const need = static_cast<std::size_t>(channels * most_groups * cols);
    if (need > t.pool_.size()) {
      t.pool_ = device_buffer<T>{};  // gives the old room back first
      t.pool_ = be.make_buffer<T>(need);
    }
    return t.pool_.data();
  }
  template <class T>
  static std::uint8_t* index(braid::grouped_tensor<T, memory_space::device>& t) noexcept {
    return grouped_tensor_access::index(t.index_);
  }
  /// Codes [channels, experts] and the residuals that they announce.
  template <class T>
  static void place_residuals(braid::grouped_tensor<T, memory_space::device>& t, std::vector<residual_code> code, device_buffer<std::byte> planes,
                              device_buffer<bfloat16> scales, std::vector<bfloat16> const& column) {
    bool const any = scales.size() > 0;
    grouped_tensor_access::place_codes(t.index_, std::move(code), any ? column : std::vector<bfloat16>{});
    t.planes_ = std::move(planes);
    t.scales_ = std::move(scales);
  }
  template <class T>
  static void finish(braid::grouped_tensor<T, memory_space::device>& t, index_t extra_rows, double similarity) noexcept {
    grouped_tensor_access::finish(t.index_, extra_rows, similarity);
  }
};

}  // namespace detail

template <storage_element T>
grouped_tensor<T> grouped_tensor<T, memory_space::device>::to_host(cuda const& be) const {
  grouped_tensor<T> host;
  std::byte* const pool = detail::grouped_tensor_access::reshape(host, experts(), channels(), cols_, channels() == 0 ? 1 : (pool_rows() + channels() - 1) / channels());
  be.to_host(reinterpret_cast<T*>(pool), static_cast<T const*>(pool_.data()), static_cast<std::size_t>(pool_rows() * cols_));
  std::uint8_t* to = detail::grouped_tensor_access::index(host);
  for (std::size_t e = 0; e < experts().size(); ++e) {
    for (index_t c = 0; c < channels(); ++c) { *to++ = static_cast<std::uint8_t>(group(e, c)); }
  }
  detail::grouped_tensor_access::finish(host, pool_rows() - channels(), similarity());
  residual_block coded;
  coded.planes.resize(planes_.size());
  coded.scales.resize(scales_.size());
  be.to_host(coded.planes.data(), static_cast<std::byte const*>(planes_.data()), planes_.size());
  be.to_host(coded.scales.data(), static_cast<bfloat16 const*>(scales_.data()), scales_.size());
  coded.code = detail::grouped_tensor_access::codes(index_);
  be.synchronize();
  if (!coded.code.empty()) {
    detail::grouped_tensor_access::place_residuals(host, {std::move(coded)}, {column_scales().begin(), column_scales().end()});
  }
  return host;
}

BRAID_NAMESPACE_END
