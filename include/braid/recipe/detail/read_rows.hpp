#pragma once

#include <braid/backend/channel_block.hpp>
#include <braid/backend/cpu/method_blocks.hpp>
#include <braid/recipe/adapter.hpp>

#include <optional>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

/// Rows of a model's tensor as they are read: stored, plus the adapter's delta, rounded to the type of reading.
class read_rows final : public computed_rows {
 public:
  /// All must outlive it.
  /// @param lora, delta  what is added; null: nothing
  /// @param type         what is read; nothing: the stored type
  /// @param cols         elements of a row
  read_rows(checkpoint const& model, tensor_meta const& tensor, adapter const* lora, lora_delta const* delta,
            std::optional<dtype> type, index_t cols)
      : lora_(lora), delta_(delta), stored_(tensor.type), type_(is_computable(tensor.type) ? type.value_or(tensor.type) : tensor.type),
        cols_(cols), data_(model.bytes(tensor).data()) {}

  [[nodiscard]] dtype type() const noexcept { return type_; }
  [[nodiscard]] std::byte const* data() const noexcept { return data_; }
  /// Whether rows are what is stored.
  [[nodiscard]] bool plain() const noexcept { return delta_ == nullptr && type_ == stored_; }

  void rows(index_t first, index_t count, std::byte* to) const override {
    std::size_t const row_bytes = static_cast<std::size_t>(cols_) * size_of(stored_);
    std::byte const* from = data_ + static_cast<std::size_t>(first) * row_bytes;
    if (plain()) {
      std::memcpy(to, from, static_cast<std::size_t>(count) * row_bytes);
      return;
    }
    thread_local std::vector<std::byte> aligned;
    bool const lies_well = reinterpret_cast<std::uintptr_t>(from) % size_of(stored_) == 0;
    auto const fetch = [&](index_t r) {
      std::byte const* const row = from + static_cast<std::size_t>(r) * row_bytes;
      if (lies_well) { return row; }
      aligned.assign(row, row + row_bytes);
      return static_cast<std::byte const*>(aligned.data());
    };
    std::size_t const out_bytes = static_cast<std::size_t>(cols_) * size_of(type_);
    if (delta_ == nullptr) {
      for (index_t r = 0; r < count; ++r) {
        braid::detail::convert(stored_, fetch(r), type_, to + static_cast<std::size_t>(r) * out_bytes, cols_);
      }
      return;
    }
    std::vector<float> sum(static_cast<std::size_t>(count * cols_));
    lora_->rows(*delta_, first, count, sum.data());
    std::vector<float> wide(sum_order::segment);
    for (index_t r = 0; r < count; ++r) {
      std::byte const* const row = fetch(r);
      braid::detail::for_each_segment(cols_, [&](index_t c, int n) {
        float* const delta = sum.data() + r * cols_ + c;
        braid::detail::widen(stored_, braid::detail::at_column(row, stored_, c), wide.data(), n);
        for (int i = 0; i < n; ++i) { delta[i] = wide[static_cast<std::size_t>(i)] + delta[i]; }
        braid::detail::store_rounded(type_, delta, braid::detail::out_column(to, type_, cols_, r, c), n);
      });
    }
  }

  /// One row in float32.
  void widened(index_t row, float* to) const {
    thread_local std::vector<std::byte> one;
    one.resize(static_cast<std::size_t>(cols_) * size_of(type_));
    rows(row, 1, one.data());
    braid::detail::for_each_segment(cols_, [&](index_t c, int n) {
      braid::detail::widen(type_, braid::detail::at_column(one.data(), type_, c), to + c, n);
    });
  }

 private:
  adapter const* lora_;
  lora_delta const* delta_;
  dtype stored_;
  dtype type_;
  index_t cols_;
  std::byte const* data_;
};

}  // namespace recipe::detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
