#pragma once

/// What the forward pass of a Llama needs of linear layers, and the plainest one.

#include <braid/core/error.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace zoo {

using index = Eigen::Index;
using matrix = Eigen::MatrixXf;  ///< column-major: one column per token
using vector = Eigen::VectorXf;
using const_columns = Eigen::Ref<matrix const>;
using columns = Eigen::Ref<matrix>;

/// A weight as it comes from a checkpoint, widened to float32, the last dimension contiguous.
struct tensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

/// Gives the tensor of a name such as "model.norm.weight"; throws where there is none.
using weight_source = std::function<tensor(std::string const& name)>;

/// The expert that each column of a batch belongs to.
using experts_of_columns = std::span<std::size_t const>;

/// A linear layer that several experts share: `y = W_expert x`, each column with its own expert.
template <class L>
concept expert_layer =
    requires(L const layer, experts_of_columns expert, const_columns x, columns y) { layer.apply(expert, x, y); };

/// What the model needs of a linear layer: `y = W x`, with `x` [cols, tokens] and `y` [rows, tokens], column-major.
/// `apply` overwrites `y`, which never overlaps `x`, and may be called from several threads at once.
template <class L>
concept linear_layer = requires(L const layer, const_columns x, columns y) {
  { layer.rows() } -> std::convertible_to<index>;
  { layer.cols() } -> std::convertible_to<index>;
} && (expert_layer<L> || requires(L const layer, const_columns x, columns y) { layer.apply(x, y); });

/// What it needs of the embedding besides: one of its rows, for an expert.
template <class L>
concept embedding_layer = linear_layer<L> && requires(L const layer, std::size_t expert, index row, std::span<float> out) {
  layer.row(expert, row, out);
};

namespace detail {

inline std::string describe(std::vector<std::int64_t> const& shape) {
  std::string s = "[";
  for (auto const extent : shape) { s += (s.size() > 1 ? ", " : "") + std::to_string(extent); }
  return s + "]";
}

/// The tensor of that name, which must have that shape.
inline tensor checked(weight_source const& load, std::string const& name, std::vector<std::int64_t> const& shape) {
  tensor t = load(name);
  if (t.shape != shape) {
    throw braid::shape_error(name + ": shape " + describe(t.shape) + " where config.json asks for " + describe(shape));
  }
  return t;
}

/// A vector of each expert, side by side.
inline matrix checked_vectors(std::span<weight_source const> load, std::string const& name, index size) {
  matrix all(size, static_cast<index>(load.size()));
  for (index e = 0; e < all.cols(); ++e) {
    tensor const t = checked(load[static_cast<std::size_t>(e)], name, {size});
    all.col(e) = Eigen::Map<vector const>(t.values.data(), size);
  }
  return all;
}

}  // namespace detail

namespace detail {

/// y = W x, with the weight's rows one after the other at `weight`.
inline void multiply(float const* weight, const_columns const& x, columns y) {
  using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  y.noalias() = Eigen::Map<row_major const>(weight, y.rows(), x.rows()) * x;
}

}  // namespace detail

/// A linear layer that holds its weight: float32, `rows` outputs by `cols` inputs.
class dense {
 public:
  /// @param weight rank 2, [rows, cols]
  explicit dense(tensor weight)
      : rows_(weight.shape.at(0)), cols_(weight.shape.at(1)), values_(std::move(weight.values)) {}

  [[nodiscard]] index rows() const noexcept { return rows_; }
  [[nodiscard]] index cols() const noexcept { return cols_; }

  void apply(const_columns const& x, columns y) const { detail::multiply(values_.data(), x, y); }
  void row(std::size_t, index number, std::span<float> out) const {
    std::copy_n(values_.begin() + number * cols_, cols_, out.begin());
  }

 private:
  index rows_;
  index cols_;
  std::vector<float> values_;
};

static_assert(embedding_layer<dense>);

}  // namespace zoo
