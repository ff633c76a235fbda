#pragma once

#include <braid/backend/channel_block.hpp>
#include <braid/core/error.hpp>
#include <braid/residual/apply.hpp>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN

namespace detail {
struct grouped_tensor_access;  // who may fill one
}

/// A named expert's tensor in memory.
template <class T, memory_space Space = memory_space::host>
struct expert_view {
  std::string_view name;
  tensor_view<T const, Space> weight;
};

/// A merged tensor in memory: a pool of rows and an index. The pool holds group 0 of every channel, channel by channel,
/// then the further groups' rows, channel by channel. The index [experts, channels] says which group an expert is in.
/// With residuals, an expert's row is round(row of the pool + column scales * decoded residual), see `apply_residual`.
template <storage_element T, memory_space Space = memory_space::host>
class grouped_tensor {
  static_assert(Space == memory_space::host, "braid: for tensors of a device include <braid/cuda.cuh> in a .cu file");

 public:
  grouped_tensor() = default;

  [[nodiscard]] index_t channels() const noexcept { return channels_; }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::vector<std::string> const& experts() const noexcept { return names_; }

  /// Rows in the pool: between `channels()` and `channels()` times the number of groups.
  [[nodiscard]] index_t pool_rows() const noexcept { return channels_ + extra_rows_; }
  [[nodiscard]] tensor_view<T const> pool() const noexcept { return {data(), pool_rows(), cols_}; }

  /// Group of an expert in a channel.
  [[nodiscard]] int group(std::size_t expert, index_t channel) const noexcept {
    return index_[expert * static_cast<std::size_t>(channels_) + static_cast<std::size_t>(channel)];
  }

  /// Mean cosine of the clustered deltas with their group's sum; 1 where nothing had to be clustered.
  [[nodiscard]] double similarity() const noexcept { return similarity_; }

  /// Number of an expert by name. @throws argument_error naming those that exist
  [[nodiscard]] std::size_t expert_number(std::string_view name) const {
    std::string known;
    for (std::size_t e = 0; e < names_.size(); ++e) {
      if (names_[e] == name) { return e; }
      known += (e == 0 ? "" : ", ") + names_[e];
    }
    throw argument_error("grouped tensor: no expert '" + std::string(name) + "'; there are " + known);
  }

  /// The pool row of each channel of an expert, [channels].
  [[nodiscard]] std::vector<std::int32_t> rows(std::size_t expert) const {
    std::vector<std::int32_t> row(static_cast<std::size_t>(channels_));
    index_t extra = channels_;
    for (index_t c = 0; c < channels_; ++c) {
      int const g = group(expert, c);
      row[static_cast<std::size_t>(c)] = static_cast<std::int32_t>(g == 0 ? c : extra + g - 1);
      extra += groups(c) - 1;
    }
    return row;
  }

  /// Groups of a channel.
  [[nodiscard]] int groups(index_t channel) const noexcept {
    int most = 0;
    for (std::size_t e = 0; e < names_.size(); ++e) {
      int const g = group(e, channel);
      most = g > most ? g : most;
    }
    return most + 1;
  }

  /// How the residual of an expert's row is stored; none for rows of the pool as they are.
  [[nodiscard]] residual_code residual(std::size_t expert, index_t channel) const noexcept {
    return code_.empty() ? residual_code::none : code_[static_cast<std::size_t>(channel) * names_.size() + expert];
  }

  /// Scales of the residuals' columns, [cols]; empty: all one.
  [[nodiscard]] std::span<bfloat16 const> column_scales() const noexcept { return column_; }

  /// The packed residuals and their scales, channel by channel, expert by expert; how long each is, its code says.
  [[nodiscard]] std::span<std::byte const> planes() const noexcept { return planes_; }
  [[nodiscard]] std::span<bfloat16 const> scales() const noexcept { return scales_; }

  /// Bytes of pool, index, residuals and their columns' scales; the codes where they differ.
  [[nodiscard]] std::size_t stored_bytes() const noexcept {
    bool const uniform = std::adjacent_find(code_.begin(), code_.end(), std::not_equal_to<>()) == code_.end();
    return static_cast<std::size_t>(pool_rows() * cols_) * sizeof(T) + (extra_rows_ == 0 ? 0 : index_.size()) +
           planes_.size() + (scales_.size() + column_.size()) * sizeof(bfloat16) + (uniform ? 0 : code_.size());
  }

  /// Rebuilds an expert's weight [channels, cols].
  /// @throws shape_error if `out` has another shape
  void extract(std::size_t expert, tensor_view<T> out) const {
    if (out.rows() != channels_ || out.cols() != cols_) {
      throw shape_error("grouped tensor: extract needs room for " + std::to_string(channels_) + " x " +
                        std::to_string(cols_) + " elements, not " + std::to_string(out.rows()) + " x " +
                        std::to_string(out.cols()));
    }
    if (cols_ == 0) { return; }
    auto const from = rows(expert);
    bool const coded = !code_.empty();
    bfloat16 const* const column = column_.empty() ? nullptr : column_.data();
    std::byte const* plane = planes_.data();
    bfloat16 const* scale = scales_.data();
    for (index_t c = 0; c < channels_; ++c) {
      auto const* const shared = reinterpret_cast<std::byte const*>(data() + from[static_cast<std::size_t>(c)] * cols_);
      auto* const row = reinterpret_cast<std::byte*>(out.row(c));
      if (!coded) { apply_residual(dtype_of<T>, shared, residual_code::none, nullptr, nullptr, nullptr, cols_, row); }
      for (std::size_t e = 0; coded && e < names_.size(); ++e) {
        residual_code const code = residual(e, c);
        if (e == expert) { apply_residual(dtype_of<T>, shared, code, plane, scale, column, cols_, row); }
        plane += residual_bytes(code, cols_);
        scale += residual_scales(code);
      }
    }
  }

 private:
  friend struct detail::grouped_tensor_access;

  [[nodiscard]] T const* data() const noexcept { return reinterpret_cast<T const*>(storage_.get()); }

  std::vector<std::string> names_;
  index_t channels_ = 0;
  index_t cols_ = 0;
  index_t extra_rows_ = 0;
  std::size_t capacity_ = 0;  // bytes
  struct release {
    void operator()(std::byte* p) const noexcept { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte, release> storage_;  // on a cache line
  std::vector<std::uint8_t> index_;
  std::vector<residual_code> code_;  // [channels, experts], or empty
  std::vector<std::byte> planes_;
  std::vector<bfloat16> scales_;
  std::vector<bfloat16> column_;
  double similarity_ = 1.0;
};

namespace detail {

struct grouped_tensor_access {
  /// Sets names and shape and makes room for `most_groups` rows a channel. @return that room
  template <class T>
  static std::byte* reshape(braid::grouped_tensor<T>& t, std::vector<std::string> names, index_t channels, index_t cols,
                            index_t most_groups) {
    std::size_t const bytes = static_cast<std::size_t>(channels * most_groups * cols) * sizeof(T);
    if (bytes > t.capacity_ || !t.storage_) {
      t.storage_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64})));
      t.capacity_ = bytes;
    }
    t.names_ = std::move(names);
    t.channels_ = channels;
    t.cols_ = cols;
    t.extra_rows_ = 0;
    t.index_.assign(t.names_.size() * static_cast<std::size_t>(channels), 0);
    t.similarity_ = 1.0;
    t.code_.clear();
    t.planes_.clear();
    t.scales_.clear();
    t.column_.clear();
    return t.storage_.get();
  }
  template <class T>
  static std::uint8_t* index(braid::grouped_tensor<T>& t) noexcept {
    return t.index_.data();
  }
  /// The residuals of all blocks, in order, and the scales of their columns.
  template <class T>
  static void place_residuals(braid::grouped_tensor<T>& t, std::vector<residual_block> const& blocks,
                              std::vector<bfloat16> const& column) {
    for (auto const& b : blocks) {
      t.code_.insert(t.code_.end(), b.code.begin(), b.code.end());
      t.planes_.insert(t.planes_.end(), b.planes.begin(), b.planes.end());
      t.scales_.insert(t.scales_.end(), b.scales.begin(), b.scales.end());
    }
    t.column_ = t.scales_.empty() ? std::vector<bfloat16>{} : column;  // they scale nothing where no row has a residual
  }
  /// Codes and columns' scales of residuals that lie elsewhere.
  template <class T>
  static void place_codes(braid::grouped_tensor<T>& t, std::vector<residual_code> code, std::vector<bfloat16> column) {
    t.code_ = std::move(code);
    t.column_ = std::move(column);
  }
  template <class T>
  static std::vector<residual_code> const& codes(braid::grouped_tensor<T> const& t) noexcept {
    return t.code_;
  }
  template <class T>
  static void finish(braid::grouped_tensor<T>& t, index_t extra_rows, double similarity) noexcept {
    t.extra_rows_ = extra_rows;
    t.similarity_ = similarity;
  }
};

}  // namespace detail

BRAID_NAMESPACE_END
