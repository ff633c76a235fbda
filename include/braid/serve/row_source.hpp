#pragma once

/// Where an expert's rows are, without rebuilding it.

#include <braid/io/grouped_checkpoint.hpp>
#include <braid/method/grouped_tensor.hpp>
#include <braid/serve/detail/residual_table.hpp>

#include <concepts>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// What an expert's row is made of: round(shared + column scales * decoded residual), see `apply_residual`.
struct stored_row {
  std::byte const* shared = nullptr;  ///< [cols] of the source's type
  residual_code code = residual_code::none;
  std::byte const* plane = nullptr;   ///< [residual_bytes(code, cols)]
  bfloat16 const* scale = nullptr;    ///< [residual_scales(code)]
};

/// A weight of several experts. Experts that share a row without a residual give the same address for it, which is how
/// work is shared between them.
template <class S>
concept row_source = std::copy_constructible<S> && requires(S const& s, std::size_t expert, index_t channel) {
  { s.type() } -> std::same_as<dtype>;  // one that braid computes with
  { s.cols() } -> std::same_as<index_t>;
  { s.experts() } -> std::same_as<std::size_t>;
  { s.channels(expert) } -> std::same_as<index_t>;
  { s.column_scales() } -> std::same_as<bfloat16 const*>;  // [cols], or null
  { s.row(expert, channel) } noexcept -> std::same_as<stored_row>;
};

/// A pool of rows in one or two pieces, and a row number for each expert and channel. Borrows the rows.
class pool_rows {
 public:
  /// @param type         one that braid computes with
  /// @param cols         elements of a row
  /// @param first        rows 0 to first_count - 1, contiguous
  /// @param further      the rows from first_count on, contiguous
  /// @param rows         for each expert the row of each of its channels; experts may have different channels
  /// @throws argument_error if a row number lies outside, shape_error if the pieces aren't whole rows
  pool_rows(dtype type, index_t cols, std::span<std::byte const> first, std::span<std::byte const> further,
            std::vector<std::vector<std::int32_t>> rows)
      : type_(type),
        cols_(cols),
        row_bytes_(static_cast<std::size_t>(cols) * size_of(type)),
        first_(first.data()),
        rows_(std::move(rows)) {
    if (!is_computable(type)) {
      throw argument_error("rows of type " + std::string(name_of(type)) + ": braid doesn't compute with it");
    }
    if (cols < 0 || (row_bytes_ != 0 && (first.size() % row_bytes_ != 0 || further.size() % row_bytes_ != 0))) {
      throw shape_error("a pool of " + std::to_string(first.size()) + " and " + std::to_string(further.size()) +
                        " bytes isn't of whole rows of " + std::to_string(row_bytes_));
    }
    if (row_bytes_ == 0) {  // any row number means the same nothing
      for (auto& r : rows_) { r.assign(r.size(), 0); }
      return;
    }
    std::size_t const first_count = first.size() / row_bytes_;
    std::size_t const count = first_count + further.size() / row_bytes_;
    first_count_ = static_cast<std::int32_t>(first_count);
    further_ = further.data();
    for (std::size_t e = 0; e < rows_.size(); ++e) {
      for (std::int32_t const r : rows_[e]) {
        if (r < 0 || static_cast<std::size_t>(r) >= count) {
          throw argument_error("row " + std::to_string(r) + " of expert " + std::to_string(e) + " lies outside a pool of " +
                               std::to_string(count) + " rows");
        }
      }
    }
  }

  /// A tensor of a grouped checkpoint, residuals included: reads its mapping, which the source keeps alive.
  /// @throws argument_error if there is no such tensor, an expert lacks it, or its channels aren't contiguous rows
  pool_rows(grouped_checkpoint const& g, std::string_view tensor) : pool_rows(g, tensor, stored_as(g, tensor)) {}

  [[nodiscard]] dtype type() const noexcept { return type_; }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::size_t experts() const noexcept { return rows_.size(); }
  [[nodiscard]] index_t channels(std::size_t expert) const noexcept { return static_cast<index_t>(rows_[expert].size()); }
  [[nodiscard]] bfloat16 const* column_scales() const noexcept { return column_.empty() ? nullptr : column_.data(); }
  [[nodiscard]] stored_row row(std::size_t expert, index_t channel) const noexcept {
    std::int32_t const r = rows_[expert][static_cast<std::size_t>(channel)];
    bool const in_first = r < first_count_;
    stored_row found;
    found.shared = (in_first ? first_ : further_) + static_cast<std::size_t>(in_first ? r : r - first_count_) * row_bytes_;
    if (residuals_.empty()) { return found; }
    residual_place const at = residuals_.at(expert, channel);
    found.code = at.code;
    found.plane = planes_.data() + at.plane;
    found.scale = scales_.data() + at.scale;
    return found;
  }

 private:
  pool_rows(grouped_checkpoint const& g, std::string_view tensor, grouped_checkpoint::tensor const& t)
      : pool_rows(t.type, t.row_elements, g.first_rows(tensor), g.extra_rows(tensor), all_rows(g, tensor)) {
    files_.push_back(g.files());
    auto const codes = g.residual_codes(tensor);
    if (codes.empty()) { return; }
    auto const channels = static_cast<std::size_t>(t.channels);
    residuals_ = detail::residual_table(experts(), t.channels, t.row_elements, [&](std::size_t e, index_t c) {
      return static_cast<residual_code>(codes[e * channels + static_cast<std::size_t>(c)]);
    });
    planes_ = g.residual_planes(tensor);
    // A foreign file may put them at an odd address.
    auto const scales = g.residual_scales(tensor);
    scales_.resize(scales.size() / sizeof(bfloat16));
    if (!scales.empty()) { std::memcpy(scales_.data(), scales.data(), scales.size()); }
    auto const columns = g.residual_columns(tensor);
    column_.assign(columns.begin(), columns.end());
  }

  static std::vector<std::vector<std::int32_t>> all_rows(grouped_checkpoint const& g, std::string_view tensor) {
    std::vector<std::vector<std::int32_t>> rows;
    for (std::size_t e = 0; e < g.experts().size(); ++e) { rows.push_back(g.rows(tensor, e)); }
    return rows;
  }

  static grouped_checkpoint::tensor const& stored_as(grouped_checkpoint const& g, std::string_view tensor) {
    auto const first = g.first_rows(tensor);
    auto const extra = g.extra_rows(tensor);
    for (auto const& t : g.tensors()) {
      // A tied tensor is found by where its bytes are.
      bool const same = g.first_rows(t.name).data() == first.data() && g.extra_rows(t.name).data() == extra.data();
      if (t.name != tensor && (!same || first.size() + extra.size() == 0)) { continue; }
      if (t.shape.size() >= 2 && t.axis == static_cast<int>(t.shape.size()) - 1) {
        throw argument_error(g.files().path().string() + ": channels of " + detail::in_quotes(tensor) +
                             " are columns (channel axis " + std::to_string(t.axis) + "); extract the expert instead");
      }
      return t;
    }
    throw argument_error(g.files().path().string() + ": has no tensor " + detail::in_quotes(tensor));
  }

  dtype type_;
  index_t cols_;
  std::size_t row_bytes_;
  std::byte const* first_;
  std::byte const* further_ = nullptr;
  std::int32_t first_count_ = 0;
  std::vector<std::vector<std::int32_t>> rows_;
  detail::residual_table residuals_;
  std::span<std::byte const> planes_;
  std::vector<bfloat16> scales_;
  std::vector<bfloat16> column_;
  std::vector<checkpoint> files_;  // whose mapping is read; one or none
};
static_assert(row_source<pool_rows>);

/// The rows of a merged tensor in memory, residuals included. Borrows the tensor.
template <storage_element T>
class grouped_rows {
 public:
  explicit grouped_rows(grouped_tensor<T> const& t) : tensor_(&t) {
    for (std::size_t e = 0; e < t.experts().size(); ++e) { rows_.push_back(t.rows(e)); }
    if (t.planes().empty()) { return; }
    residuals_ = detail::residual_table(t.experts().size(), t.channels(), t.cols(),
                                        [&](std::size_t e, index_t c) { return t.residual(e, c); });
  }

  [[nodiscard]] dtype type() const noexcept { return dtype_of<T>; }
  [[nodiscard]] index_t cols() const noexcept { return tensor_->cols(); }
  [[nodiscard]] std::size_t experts() const noexcept { return rows_.size(); }
  [[nodiscard]] index_t channels(std::size_t) const noexcept { return tensor_->channels(); }
  [[nodiscard]] bfloat16 const* column_scales() const noexcept {
    return tensor_->column_scales().empty() ? nullptr : tensor_->column_scales().data();
  }
  [[nodiscard]] stored_row row(std::size_t expert, index_t channel) const noexcept {
    stored_row found;
    found.shared = reinterpret_cast<std::byte const*>(tensor_->pool().row(rows_[expert][static_cast<std::size_t>(channel)]));
    if (residuals_.empty()) { return found; }
    residual_place const at = residuals_.at(expert, channel);
    found.code = at.code;
    found.plane = tensor_->planes().data() + at.plane;
    found.scale = tensor_->scales().data() + at.scale;
    return found;
  }

 private:
  grouped_tensor<T> const* tensor_;
  std::vector<std::vector<std::int32_t>> rows_;
  detail::residual_table residuals_;
};
static_assert(row_source<grouped_rows<bfloat16>>);

BRAID_NAMESPACE_END
