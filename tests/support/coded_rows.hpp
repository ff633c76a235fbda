#pragma once

/// A weight of several experts with every code there is, for products by rows: random bytes, which every code gives a meaning.

#include "support/random_models.hpp"

#include <braid/serve/row_source.hpp>

namespace braid_test {

/// Models braid::row_source. Experts share rows; each row of each expert may have a residual of its own code.
class coded_rows {
 public:
  /// @param codes  what rows may have
  coded_rows(random_source& random, dtype type, std::size_t experts, index_t channels, index_t cols,
             std::vector<braid::residual_code> const& codes, bool column_scales)
      : type_(type),
        cols_(cols),
        experts_(experts),
        channels_(channels),
        row_bytes_(static_cast<std::size_t>(cols) * braid::size_of(type)) {
    auto const rows = static_cast<std::size_t>(2 * channels);
    memory_.reserve(rows * row_bytes_);
    for (std::size_t i = 0; i < rows * static_cast<std::size_t>(cols); ++i) { append(element(random)); }
    if (column_scales) {
      for (index_t c = 0; c < cols; ++c) { columns_.emplace_back(static_cast<float>(0.5 + random.unit())); }
    }
    for (std::size_t i = 0; i < experts * static_cast<std::size_t>(channels); ++i) {
      placed p{};
      p.row = 2 * (i % static_cast<std::size_t>(channels)) + static_cast<std::size_t>(random.below(2));
      p.code = random.one_of(codes);
      p.plane = planes_.size();
      p.scale = scales_.size();
      for (index_t b = 0; b < braid::residual_bytes(p.code, cols); ++b) { planes_.push_back(plane_byte(random, p.code)); }
      for (int s = 0; s < braid::residual_scales(p.code); ++s) { scales_.emplace_back(static_cast<float>(random.bell()) * 0.1f); }
      places_.push_back(p);
    }
  }

  /// Gives a row of the pool another element.
  void set(std::size_t expert, index_t channel, index_t column, float x) {
    std::size_t const end = memory_.size();
    append(x);
    std::size_t const bytes = memory_.size() - end;
    placed const& p = places_[expert * static_cast<std::size_t>(channels_) + static_cast<std::size_t>(channel)];
    std::memcpy(memory_.data() + p.row * row_bytes_ + static_cast<std::size_t>(column) * bytes, memory_.data() + end, bytes);
    memory_.resize(end);
  }

  [[nodiscard]] dtype type() const noexcept { return type_; }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::size_t experts() const noexcept { return experts_; }
  [[nodiscard]] index_t channels(std::size_t) const noexcept { return channels_; }
  [[nodiscard]] braid::bfloat16 const* column_scales() const noexcept { return columns_.empty() ? nullptr : columns_.data(); }
  [[nodiscard]] braid::stored_row row(std::size_t expert, index_t channel) const noexcept {
    placed const& p = places_[expert * static_cast<std::size_t>(channels_) + static_cast<std::size_t>(channel)];
    return {memory_.data() + p.row * row_bytes_, p.code, planes_.data() + p.plane, scales_.data() + p.scale};
  }

 private:
  struct placed {
    std::size_t row, plane, scale;
    braid::residual_code code;
  };

  /// Now and then the largest number that the type holds, so that sums don't fit.
  float element(random_source& random) const {
    if (!random.chance(0.003)) { return static_cast<float>(random.bell()); }
    switch (type_) {
      case dtype::f32: return 0x1.fffffep127f;
      case dtype::bf16: return -0x1.fep127f;
      case dtype::f16: return 65504.0f;
      default: return random.chance(0.5) ? 448.0f : -448.0f;
    }
  }
  void append(float x) {
    auto const put = [&]<class T>(T value) {
      auto const* const bytes = reinterpret_cast<std::byte const*>(&value);
      memory_.insert(memory_.end(), bytes, bytes + sizeof value);
    };
    switch (type_) {
      case dtype::f32: put(x); break;
      case dtype::bf16: put(braid::bfloat16(x)); break;
      case dtype::f16: put(braid::float16(x)); break;
      case dtype::f8_e4m3: put(braid::float8_e4m3(x)); break;
      default: put(braid::float8_e5m2(x)); break;
    }
  }
  static std::byte plane_byte(random_source& random, braid::residual_code code) {
    return static_cast<std::byte>(random.below(code == braid::residual_code::ternary ? 243 : 256));
  }

  dtype type_;
  index_t cols_;
  std::size_t experts_;
  index_t channels_;
  std::size_t row_bytes_;
  std::vector<std::byte> memory_, planes_;
  std::vector<braid::bfloat16> scales_, columns_;
  std::vector<placed> places_;
};
static_assert(braid::row_source<coded_rows>);

inline std::vector<braid::residual_code> const& all_codes() {
  using enum braid::residual_code;
  static std::vector<braid::residual_code> const codes{none, sign1, sign2, sign3, ternary, trellis1, trellis2};
  return codes;
}

}  // namespace braid_test
