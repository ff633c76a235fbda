#pragma once

/// Where experts' rows are, whatever holds them: one type for the sources of rows that a zoo has.

#include <braid/serve/row_source.hpp>

#include <concepts>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace zoo {

/// Weights of experts that share nothing, each in one piece. Borrows them, but keeps `files` open.
class whole_rows {
 public:
  /// @param experts for each its weight [channels, cols]
  /// @param files   whose mapping is read
  /// @throws braid::argument_error for a type that braid doesn't compute with, braid::shape_error where a weight isn't of
  ///         whole rows
  whole_rows(braid::dtype type, braid::index_t cols, std::vector<std::span<std::byte const>> experts,
             std::vector<braid::checkpoint> files = {})
      : type_(type),
        cols_(cols),
        row_bytes_(static_cast<std::size_t>(cols) * braid::size_of(type)),
        experts_(std::move(experts)),
        files_(std::move(files)) {
    if (!braid::is_computable(type)) {
      throw braid::argument_error("can't compute with elements of type " + std::string(name_of(type)));
    }
    for (auto const& e : experts_) {
      if (row_bytes_ == 0 || e.size() % row_bytes_ != 0) {
        throw braid::shape_error(std::to_string(e.size()) + " bytes aren't whole rows of " + std::to_string(row_bytes_));
      }
    }
  }

  [[nodiscard]] braid::dtype type() const noexcept { return type_; }
  [[nodiscard]] braid::index_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::size_t experts() const noexcept { return experts_.size(); }
  [[nodiscard]] braid::index_t channels(std::size_t expert) const noexcept {
    return static_cast<braid::index_t>(experts_[expert].size() / row_bytes_);
  }
  [[nodiscard]] braid::bfloat16 const* column_scales() const noexcept { return nullptr; }
  [[nodiscard]] braid::stored_row row(std::size_t expert, braid::index_t channel) const noexcept {
    braid::stored_row found;
    found.shared = experts_[expert].data() + static_cast<std::size_t>(channel) * row_bytes_;
    return found;
  }

 private:
  braid::dtype type_;
  braid::index_t cols_;
  std::size_t row_bytes_;
  std::vector<std::span<std::byte const>> experts_;
  std::vector<braid::checkpoint> files_;
};
static_assert(braid::row_source<whole_rows>);

/// Any of them: the kind is a run-time value, so that one forward pass is compiled for all.
class any_rows {
 public:
  template <class Source>
    requires(!std::same_as<Source, any_rows> && braid::row_source<Source>)
  any_rows(Source source) : rows_(std::move(source)) {}

  [[nodiscard]] braid::dtype type() const noexcept { return std::visit([](auto const& s) { return s.type(); }, rows_); }
  [[nodiscard]] braid::index_t cols() const noexcept { return std::visit([](auto const& s) { return s.cols(); }, rows_); }
  [[nodiscard]] std::size_t experts() const noexcept { return std::visit([](auto const& s) { return s.experts(); }, rows_); }
  [[nodiscard]] braid::index_t channels(std::size_t expert) const noexcept {
    return std::visit([&](auto const& s) { return s.channels(expert); }, rows_);
  }
  [[nodiscard]] braid::bfloat16 const* column_scales() const noexcept {
    return std::visit([](auto const& s) { return s.column_scales(); }, rows_);
  }
  [[nodiscard]] braid::stored_row row(std::size_t expert, braid::index_t channel) const noexcept {
    return std::visit([&](auto const& s) { return s.row(expert, channel); }, rows_);
  }

 private:
  std::variant<whole_rows, braid::pool_rows, braid::grouped_rows<braid::bfloat16>> rows_;
};
static_assert(braid::row_source<any_rows>);

}  // namespace zoo
