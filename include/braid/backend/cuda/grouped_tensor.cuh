#pragma once

#include <braid/backend/cuda.cuh>
#include <braid/backend/cuda/algorithms/execution.cuh>
#include <braid/backend/cuda/algorithms/gather_rows.cuh>
#include <braid/backend/cuda/algorithms/place_rows.cuh>
#include <braid/backend/cuda/placed_residuals.cuh>
#include <braid/method/grouped_tensor.hpp>

BRAID_NAMESPACE_BEGIN

namespace detail {
struct device_tensor_access;  // who may fill one
}

/// A merged tensor on a device: the pool of rows, the index and residuals in device memory, index and codes on the host as well.
/// Otherwise as on the host.
template <storage_element T>
class grouped_tensor<T, memory_space::device> {
 public:
  grouped_tensor() = default;

  /// Copies a tensor of host memory, residuals included; waits.
  grouped_tensor(cuda const& be, grouped_tensor<T> const& host);

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
  [[nodiscard]] device_buffer<std::byte> const& planes() const noexcept { return residuals_.planes(); }
  [[nodiscard]] device_buffer<bfloat16> const& scales() const noexcept { return residuals_.scales(); }
  /// Bytes of pool, index, residuals and their columns' scales; the codes where they differ.
  [[nodiscard]] std::size_t stored_bytes() const noexcept {
    return static_cast<std::size_t>(pool_rows() * cols_) * sizeof(T) + index_.stored_bytes() + planes().size() + scales().size() * sizeof(bfloat16);
  }

  /// Rebuilds an expert's weight [channels, cols] in device memory, residuals of any code included: one kernel. Enqueues. The same
  /// bytes as on the host.
  /// @throws shape_error if `out` has another shape
  void extract(cuda const& be, std::size_t expert, tensor_view<T, memory_space::device> out) const {
    if (out.rows() != channels() || out.cols() != cols_) {
      throw shape_error("grouped tensor: extract needs room for " + std::to_string(channels()) + " x " + std::to_string(cols_) +
                        " elements, not " + std::to_string(out.rows()) + " x " + std::to_string(out.cols()));
    }
    detail::row_of_channel const row{group_.data() + static_cast<index_t>(expert) * channels(), before_.data(), channels()};
    detail::run_algorithm(be, "rebuilding an expert", [&](auto const& policy) {
      if (residuals_.empty()) {
        constexpr auto element = static_cast<index_t>(sizeof(T));
        detail::gather_rows(policy, row, reinterpret_cast<std::byte const*>(pool_.data()), cols_ * element, channels(), cols_ * element,
                            reinterpret_cast<std::byte*>(out.data_handle()), out.stride(0) * element);
      } else {
        detail::rebuild_expert(policy, row, residuals_.index(), static_cast<index_t>(expert), static_cast<index_t>(experts().size()),
                             static_cast<T const*>(pool_.data()), channels(), cols_, out.data_handle(), out.stride(0));
      }
    });
  }

  /// The same tensor in host memory; waits.
  [[nodiscard]] grouped_tensor<T> to_host(cuda const& be) const;

 private:
  friend struct detail::device_tensor_access;

  grouped_tensor<T> index_;  // with rows of no columns
  index_t cols_ = 0;
  device_buffer<T> pool_;
  device_buffer<std::uint8_t> group_;   // [experts, channels]
  device_buffer<std::int32_t> before_;  // [channels + 1]; see place_rows
  detail::placed_residuals residuals_;
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
    t.residuals_ = placed_residuals{};
    auto const room = [&]<class E>(device_buffer<E>& buffer, std::size_t need) {
      if (need <= buffer.size()) { return; }
      buffer = device_buffer<E>{};  // gives the old room back first
      buffer = be.make_buffer<E>(need);
    };
    room(t.pool_, static_cast<std::size_t>(channels * most_groups * cols));
    room(t.group_, static_cast<std::size_t>(channels) * t.experts().size());
    room(t.before_, static_cast<std::size_t>(channels) + 1);
    return t.pool_.data();
  }

  /// Places the rows of a merge by its labels [channels, experts] in device memory: the index there and here, `*extra` rows beyond
  /// those of group 0. Enqueues; `close_gaps` and `finish` have to follow.
  template <class T>
  static void place(braid::grouped_tensor<T, memory_space::device>& t, cuda const& be, std::uint8_t const* label, std::int32_t* extra) {
    index_t const channels = t.channels();
    run_algorithm(be, "placing rows", [&](auto const& policy) {
      place_rows(policy, label, channels, static_cast<int>(t.experts().size()), t.group_.data(), t.before_.data());
    });
    be.to_host(grouped_tensor_access::index(t.index_), static_cast<std::uint8_t const*>(t.group_.data()),
               static_cast<std::size_t>(channels) * t.experts().size());
    be.to_host(extra, static_cast<std::int32_t const*>(t.before_.data() + channels), 1);
  }

  /// Moves rows together that channels with fewer groups have left apart in slots, `most_extra` a channel; some at a time: none
  /// moves past one that is still to go. Enqueues.
  template <class T>
  static void close_gaps(braid::grouped_tensor<T, memory_space::device>& t, cuda const& be, index_t extra, index_t most_extra) {
    if (extra == t.channels() * most_extra || t.cols_ == 0) { return; }
    constexpr index_t room = index_t{64} << 20;  // bytes
    index_t const row = t.cols_ * static_cast<index_t>(sizeof(T));
    index_t const at_once = std::max<index_t>(1, std::min(extra, room / row));
    auto const slot = be.make_buffer<std::int32_t>(static_cast<std::size_t>(extra));
    auto const together = be.make_buffer<std::byte>(static_cast<std::size_t>(at_once * row));
    auto* const rows = reinterpret_cast<std::byte*>(t.pool_.data() + t.channels() * t.cols_);
    run_algorithm(be, "moving rows together", [&](auto const& policy) {
      list_rows(policy, t.before_.data(), t.channels(), most_extra, slot.data());
      for (index_t first = 0; first < extra; first += at_once) {
        index_t const count = std::min(at_once, extra - first);
        gather_rows(policy, listed_row{slot.data() + first}, rows, row, count, row, together.data(), row);
        check_cuda(cudaMemcpyAsync(rows + first * row, together.data(), static_cast<std::size_t>(count * row), cudaMemcpyDeviceToDevice, be.stream()),
                   "copying");
      }
    });
  }

  /// Codes [channels, experts] and the residuals that they announce, one behind the other. Enqueues.
  template <class T>
  static void place_residuals(braid::grouped_tensor<T, memory_space::device>& t, cuda const& be, std::vector<residual_code> code,
                              device_buffer<std::byte> planes, device_buffer<bfloat16> scales, std::vector<bfloat16> const& column) {
    auto there = upload(be, code);
    bool const any = scales.size() > 0;
    grouped_tensor_access::place_codes(t.index_, std::move(code), any ? column : std::vector<bfloat16>{});
    if (any) { t.residuals_ = placed_residuals(be, std::move(there), std::move(planes), std::move(scales), upload(be, column), t.cols_); }
  }

  /// The same for residuals that coding has left in slots, [channels, experts] of `plane_bytes` and `scale_count`. Waits.
  template <class T>
  static void pack_residuals(braid::grouped_tensor<T, memory_space::device>& t, cuda const& be, device_buffer<residual_code> code,
                             device_buffer<std::byte> planes, index_t plane_bytes, device_buffer<bfloat16> scales, index_t scale_count,
                             std::vector<bfloat16> const& column) {
    t.residuals_ = placed_residuals::from_slots(be, std::move(code), std::move(planes), plane_bytes, std::move(scales), scale_count,
                                                upload(be, column), t.cols_);
    grouped_tensor_access::place_codes(t.index_, download(be, t.residuals_.code()), t.residuals_.empty() ? std::vector<bfloat16>{} : column);
  }

  template <class T>
  static void finish(braid::grouped_tensor<T, memory_space::device>& t, index_t extra_rows, double similarity) noexcept {
    grouped_tensor_access::finish(t.index_, extra_rows, similarity);
  }
};

}  // namespace detail

template <storage_element T>
grouped_tensor<T, memory_space::device>::grouped_tensor(cuda const& be, grouped_tensor<T> const& host) {
  using access = detail::device_tensor_access;
  index_t const most = host.channels() == 0 ? 1 : (host.pool_rows() + host.channels() - 1) / host.channels();
  T* const pool = access::reshape(*this, be, host.experts(), host.channels(), host.cols(), most);
  be.to_device(pool, host.pool().data_handle(), static_cast<std::size_t>(host.pool().size()));
  std::vector<std::uint8_t> label;
  for (index_t c = 0; c < host.channels(); ++c) {
    for (std::size_t e = 0; e < host.experts().size(); ++e) { label.push_back(static_cast<std::uint8_t>(host.group(e, c))); }
  }
  auto const label_there = detail::upload(be, label);
  std::int32_t extra = 0;
  access::place(*this, be, label_there.data(), &extra);
  auto const& code = detail::grouped_tensor_access::codes(host);
  if (!code.empty()) {
    auto planes = be.make_buffer<std::byte>(host.planes().size());
    auto scales = be.make_buffer<bfloat16>(host.scales().size());
    be.to_device(planes.data(), host.planes().data(), host.planes().size());
    be.to_device(scales.data(), host.scales().data(), host.scales().size());
    access::place_residuals(*this, be, code, std::move(planes), std::move(scales), {host.column_scales().begin(), host.column_scales().end()});
  }
  access::finish(*this, host.pool_rows() - host.channels(), host.similarity());
  be.synchronize();
}

template <storage_element T>
grouped_tensor<T> grouped_tensor<T, memory_space::device>::to_host(cuda const& be) const {
  using access = detail::grouped_tensor_access;
  grouped_tensor<T> host;
  std::byte* const pool = access::reshape(host, experts(), channels(), cols_, channels() == 0 ? 1 : (pool_rows() + channels() - 1) / channels());
  be.to_host(reinterpret_cast<T*>(pool), static_cast<T const*>(pool_.data()), static_cast<std::size_t>(pool_rows() * cols_));
  std::uint8_t* to = access::index(host);
  for (std::size_t e = 0; e < experts().size(); ++e) {
    for (index_t c = 0; c < channels(); ++c) { *to++ = static_cast<std::uint8_t>(group(e, c)); }
  }
  access::finish(host, pool_rows() - channels(), similarity());
  residual_block coded;
  coded.planes.resize(planes().size());
  coded.scales.resize(scales().size());
  be.to_host(coded.planes.data(), static_cast<std::byte const*>(planes().data()), planes().size());
  be.to_host(coded.scales.data(), static_cast<bfloat16 const*>(scales().data()), scales().size());
  coded.code = access::codes(index_);
  be.synchronize();
  if (!coded.code.empty()) { access::place_residuals(host, {std::move(coded)}, {column_scales().begin(), column_scales().end()}); }
  return host;
}

BRAID_NAMESPACE_END
