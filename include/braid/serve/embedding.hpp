#pragma once

/// From a query to a row of features: what a router looks at.

#include <braid/core/error.hpp>
#include <braid/core/types.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

/// One number of a row of features that isn't zero.
struct feature {
  std::uint32_t index = 0;
  float value = 0.0f;
  friend bool operator==(feature const&, feature const&) = default;
};

/// The features of a query, in rising order of their index, none twice; all others are zero.
using feature_row = std::vector<feature>;

/// Turns a query into features. `query_type` owns a query; the call may also take what is convertible to it.
/// `to_json()` describes the embedding, so that a router isn't used with another one than it was trained with.
template <class E>
concept query_embedding = std::copy_constructible<E> && std::copy_constructible<typename E::query_type> &&
                          requires(E const& e, typename E::query_type const& q) {
  { e(q) } -> std::same_as<feature_row>;
  { e.dimension() } -> std::convertible_to<index_t>;  // features are below it, and it is below 2^32
  { e.to_json() } -> std::convertible_to<nlohmann::json>;
};

/// A dense row as features: divided by its length, so that `l2` means the same for every embedding. A row of zeros
/// stays. The sum of squares is float64, from the left.
/// @param row        [dimension]
/// @param dimension  what the router expects
/// @throws shape_error for another length, value_error where an element isn't finite
[[nodiscard]] inline feature_row dense_features(std::span<float const> row, index_t dimension) {
  if (static_cast<index_t>(row.size()) != dimension) {
    throw shape_error("router: an embedding of " + std::to_string(row.size()) + " elements where " +
                      std::to_string(dimension) + " are expected");
  }
  double squares = 0.0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (!std::isfinite(row[i])) {
      throw value_error("router: element " + std::to_string(i) + " of an embedding isn't finite");
    }
    squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
  }
  double const length = std::sqrt(squares);
  feature_row features;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] != 0.0f) {
      features.push_back({static_cast<std::uint32_t>(i), static_cast<float>(static_cast<double>(row[i]) / length)});
    }
  }
  return features;
}

/// Any function from a query to a dense row, such as a sentence encoder.
///
///   auto const encode = [&](std::string const& text) { return encoder.mean_hidden_state(text); };
///   braid::embedding_function<std::string, decltype(encode)> const embed("encoder-v1", 384, encode);
///
/// @tparam Query     what a query is
/// @tparam Function  called with a Query, gives something that converts to std::span<float const>, [dimension]
template <class Query, class Function>
class embedding_function {
 public:
  using query_type = Query;

  /// @param name  of this very embedding: a router that was trained with another name is refused
  /// @throws argument_error unless 1 <= dimension < 2^32
  embedding_function(std::string name, index_t dimension, Function f)
      : name_(std::move(name)), dimension_(dimension), function_(std::move(f)) {
    if (dimension < 1 || dimension > index_t{0xFFFFFFFF}) {
      throw argument_error("embedding '" + name_ + "': dimension " + std::to_string(dimension) +
                           " isn't between 1 and 4294967295");
    }
  }

  [[nodiscard]] feature_row operator()(Query const& q) const {
    auto const& row = function_(q);
    return dense_features(std::span<float const>(row), dimension_);
  }
  [[nodiscard]] index_t dimension() const noexcept { return dimension_; }
  [[nodiscard]] nlohmann::json to_json() const { return {{"name", name_}, {"dimension", dimension_}}; }

 private:
  std::string name_;
  index_t dimension_;
  Function function_;
};

/// Queries that come as dense rows already: what `embedding_function` does after its function.
class dense_rows {
 public:
  using query_type = std::vector<float>;

  /// @throws argument_error unless 1 <= dimension < 2^32
  dense_rows(std::string name, index_t dimension) : check_(std::move(name), dimension, {}) {}

  [[nodiscard]] feature_row operator()(std::span<float const> row) const { return dense_features(row, dimension()); }
  [[nodiscard]] index_t dimension() const noexcept { return check_.dimension(); }
  [[nodiscard]] nlohmann::json to_json() const { return check_.to_json(); }

 private:
  struct identity {
    std::vector<float> const& operator()(std::vector<float> const& row) const noexcept { return row; }
  };
  embedding_function<std::vector<float>, identity> check_;
};
static_assert(query_embedding<dense_rows>);

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
