#pragma once

/// A Llama forward pass in Eigen and float32: RMSNorm, rotary embedding, grouped-query attention, SwiGLU, KV cache.
///
/// Many sequences run as one batch, each at its own position: the new tokens of all of them stand side by side as the
/// columns of one matrix, so that every linear layer is one matrix product, and only attention looks at a sequence by
/// itself. The linear layer is a template parameter: whatever applies a weight to columns (a dense matrix, rows found
/// through the index of a merged checkpoint) can run the model.

#include "llama_config.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
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

/// What the model needs of a linear layer: `y = W x`, with `x` [cols, tokens] and `y` [rows, tokens], column-major.
/// `apply` overwrites `y`, which never overlaps `x`, and may be called from several threads at once.
template <class L>
concept linear_layer = requires(L const layer, const_columns x, columns y) {
  { layer.rows() } -> std::convertible_to<index>;
  { layer.cols() } -> std::convertible_to<index>;
  layer.apply(x, y);
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

inline vector checked_vector(weight_source const& load, std::string const& name, index size) {
  tensor const t = checked(load, name, {size});
  return Eigen::Map<vector const>(t.values.data(), size);
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

 private:
  index rows_;
  index cols_;
  std::vector<float> values_;
};

static_assert(linear_layer<dense>);

/// One sequence of a batch: what it has seen (keys and values of all its tokens, layer by layer) and what it sees next.
struct sequence {
  std::vector<int> next;       ///< tokens for the next call of `llama::forward`, at least one
  index length = 0;            ///< tokens seen so far
  std::vector<matrix> keys;    ///< per layer: kv_heads * head_dim rows, one column per token; rotated already
  std::vector<matrix> values;  ///< per layer, likewise
};

/// A Llama. Its weights don't change, so several threads may run batches of their own through one object.
template <linear_layer Linear = dense>
class llama {
 public:
  /// @param load gives embeddings, norms and biases
  /// @param make_linear gives the layer of a weight's name ("model.layers.0.mlp.up_proj.weight"), shapes are checked
  /// @throws braid::shape_error where a weight doesn't have the shape that `config` says
  llama(llama_config config, weight_source const& load,
        std::function<Linear(std::string const& name)> const& make_linear);

  /// A model that holds all its weights.
  llama(llama_config config, weight_source const& load)
    requires std::constructible_from<Linear, tensor>
      : llama(std::move(config), load, [&load](std::string const& name) { return Linear(load(name)); }) {}

  [[nodiscard]] llama_config const& config() const noexcept { return config_; }

  /// Lets every sequence see its `next` tokens, which it then has no more.
  /// @return logits [vocabulary, sequences] after the last token of each
  /// @throws braid::argument_error for a token outside the vocabulary, or a sequence with nothing to see
  [[nodiscard]] matrix forward(std::span<sequence* const> batch) const;

 private:
  struct layer {
    vector attention_norm, mlp_norm;
    Linear query, key, value, output;
    Linear gate, up, down;
    // Empty where the model has no biases.
    vector query_bias, key_bias, value_bias, output_bias, gate_bias, up_bias, down_bias;
  };
  struct rotation {
    matrix cosine, sine;  // head_dim / 2 rows, one column per token of the batch
  };
  struct linear_source;

  [[nodiscard]] layer load_layer(linear_source const& source, int number) const;
  [[nodiscard]] matrix embed(std::span<sequence* const> batch) const;
  [[nodiscard]] rotation rotations(std::span<sequence* const> batch, index tokens) const;
  static void rotate(rotation const& by, matrix& heads);
  void attend(std::span<sequence* const> batch, std::size_t layer_number, matrix const& keys, matrix const& values,
              bool last_only, matrix& queries) const;
  [[nodiscard]] static matrix last_of_each(std::span<sequence* const> batch, matrix const& x);
  [[nodiscard]] matrix normalised(matrix const& x, vector const& weight) const;
  [[nodiscard]] static matrix applied(Linear const& linear, vector const& bias, matrix const& x);

  llama_config config_;
  matrix embedding_;  // hidden rows, one column per token of the vocabulary
  std::vector<layer> layers_;
  vector final_norm_;
  std::vector<Linear> head_;  // one, or none where the embedding is the head
};

/// Finds linear layers and their biases by name, and checks their shapes.
template <linear_layer Linear>
struct llama<Linear>::linear_source {
  weight_source const& load;
  std::function<Linear(std::string const&)> const& make;

  Linear weight(std::string const& name, index rows, index cols) const {
    Linear linear = make(name);
    if (linear.rows() != rows || linear.cols() != cols) {
      throw braid::shape_error(name + ": shape " + detail::describe({linear.rows(), linear.cols()}) +
                               " where config.json asks for " + detail::describe({rows, cols}));
    }
    return linear;
  }
  vector bias(std::string const& name, bool wanted, index rows) const {
    return wanted ? detail::checked_vector(load, name, rows) : vector();
  }
};

template <linear_layer Linear>
llama<Linear>::llama(llama_config config, weight_source const& load,
                     std::function<Linear(std::string const& name)> const& make_linear)
    : config_(std::move(config)) {
  linear_source const source{load, make_linear};
  tensor const embedding = detail::checked(load, "model.embed_tokens.weight", {config_.vocabulary, config_.hidden});
  embedding_ = Eigen::Map<matrix const>(embedding.values.data(), config_.hidden, config_.vocabulary);
  for (int i = 0; i < config_.layers; ++i) { layers_.push_back(load_layer(source, i)); }
  final_norm_ = detail::checked_vector(load, "model.norm.weight", config_.hidden);
  if (!config_.tied) { head_.push_back(source.weight("lm_head.weight", config_.vocabulary, config_.hidden)); }
}

template <linear_layer Linear>
auto llama<Linear>::load_layer(linear_source const& source, int number) const -> layer {
  std::string const prefix = "model.layers." + std::to_string(number) + ".";
  std::string const attention = prefix + "self_attn.";
  std::string const mlp = prefix + "mlp.";
  index const hidden = config_.hidden;
  index const inner = config_.intermediate;
  index const q = index{config_.heads} * config_.head_dim;
  index const kv = index{config_.kv_heads} * config_.head_dim;
  bool const ab = config_.attention_bias;
  bool const mb = config_.mlp_bias;
  return {
      .attention_norm = detail::checked_vector(source.load, prefix + "input_layernorm.weight", hidden),
      .mlp_norm = detail::checked_vector(source.load, prefix + "post_attention_layernorm.weight", hidden),
      .query = source.weight(attention + "q_proj.weight", q, hidden),
      .key = source.weight(attention + "k_proj.weight", kv, hidden),
      .value = source.weight(attention + "v_proj.weight", kv, hidden),
      .output = source.weight(attention + "o_proj.weight", hidden, q),
      .gate = source.weight(mlp + "gate_proj.weight", inner, hidden),
      .up = source.weight(mlp + "up_proj.weight", inner, hidden),
      .down = source.weight(mlp + "down_proj.weight", hidden, inner),
      .query_bias = source.bias(attention + "q_proj.bias", ab, q),
      .key_bias = source.bias(attention + "k_proj.bias", ab, kv),
      .value_bias = source.bias(attention + "v_proj.bias", ab, kv),
      .output_bias = source.bias(attention + "o_proj.bias", ab, hidden),
      .gate_bias = source.bias(mlp + "gate_proj.bias", mb, inner),
      .up_bias = source.bias(mlp + "up_proj.bias", mb, inner),
      .down_bias = source.bias(mlp + "down_proj.bias", mb, hidden),
  };
}

template <linear_layer Linear>
matrix llama<Linear>::embed(std::span<sequence* const> batch) const {
  index tokens = 0;
  for (sequence const* s : batch) {
    if (s->next.empty()) { throw braid::argument_error("a sequence has no next token: give each at least one"); }
    tokens += static_cast<index>(s->next.size());
  }
  matrix x(config_.hidden, tokens);
  index t = 0;
  for (sequence const* s : batch) {
    for (int const token : s->next) {
      if (token < 0 || token >= config_.vocabulary) {
        throw braid::argument_error("token " + std::to_string(token) + " lies outside a vocabulary of " +
                                    std::to_string(config_.vocabulary));
      }
      x.col(t++) = embedding_.col(token);
    }
  }
  return x;
}

template <linear_layer Linear>
auto llama<Linear>::rotations(std::span<sequence* const> batch, index tokens) const -> rotation {
  Eigen::Map<vector const> const frequency(config_.inverse_frequency.data(), config_.head_dim / 2);
  rotation r{matrix(frequency.size(), tokens), matrix(frequency.size(), tokens)};
  index t = 0;
  for (sequence const* s : batch) {
    for (std::size_t i = 0; i < s->next.size(); ++i, ++t) {
      auto const position = static_cast<float>(s->length + static_cast<index>(i));
      r.cosine.col(t) = (frequency * position).array().cos();
      r.sine.col(t) = (frequency * position).array().sin();
    }
  }
  return r;
}

/// Turns element i of a head against element i + head_dim / 2 ("rotate half"), for all heads of all tokens.
template <linear_layer Linear>
void llama<Linear>::rotate(rotation const& by, matrix& heads) {
  index const half = by.cosine.rows();
  for (index t = 0; t < heads.cols(); ++t) {
    for (index h = 0; h < heads.rows(); h += 2 * half) {
      for (index i = 0; i < half; ++i) {
        float& lower = heads(h + i, t);
        float& upper = heads(h + half + i, t);
        float const turned = lower * by.cosine(i, t) - upper * by.sine(i, t);
        upper = upper * by.cosine(i, t) + lower * by.sine(i, t);
        lower = turned;
      }
    }
  }
}

/// Replaces each query by its attention's output. Keys and values of the new tokens join their sequence first; a token
/// then sees those up to itself, so no mask is needed. The query heads that share a key-value head lie side by side.
template <linear_layer Linear>
void llama<Linear>::attend(std::span<sequence* const> batch, std::size_t layer_number, matrix const& keys,
                           matrix const& values, bool last_only, matrix& queries) const {
  index const dim = config_.head_dim;
  index const shared = config_.heads / config_.kv_heads;
  float const scale = 1.0f / std::sqrt(static_cast<float>(dim));
  matrix scores;
  index token = 0;
  index asking = 0;
  for (sequence* s : batch) {
    auto const fresh = static_cast<index>(s->next.size());
    matrix& k = s->keys[layer_number];
    matrix& v = s->values[layer_number];
    if (k.cols() < s->length + fresh) {
      index const capacity = std::max<index>(s->length + fresh + 16, 2 * k.cols());
      k.conservativeResize(keys.rows(), capacity);
      v.conservativeResize(values.rows(), capacity);
    }
    k.middleCols(s->length, fresh) = keys.middleCols(token, fresh);
    v.middleCols(s->length, fresh) = values.middleCols(token, fresh);
    token += fresh;
    for (index i = last_only ? fresh - 1 : 0; i < fresh; ++i, ++asking) {
      index const seen = s->length + i + 1;
      for (index h = 0; h < config_.kv_heads; ++h) {
        Eigen::Map<matrix> q(queries.col(asking).data() + h * shared * dim, dim, shared);
        scores = k.block(h * dim, 0, dim, seen).transpose().lazyProduct(q) * scale;
        for (index g = 0; g < shared; ++g) {
          auto column = scores.col(g).array();
          column = (column - column.maxCoeff()).exp();
          column /= column.sum();
        }
        q = v.block(h * dim, 0, dim, seen).lazyProduct(scores);
      }
    }
  }
}

/// The columns of each sequence's last token.
template <linear_layer Linear>
matrix llama<Linear>::last_of_each(std::span<sequence* const> batch, matrix const& x) {
  matrix last(x.rows(), static_cast<index>(batch.size()));
  index end = 0;
  for (index i = 0; i < last.cols(); ++i) {
    end += static_cast<index>(batch[static_cast<std::size_t>(i)]->next.size());
    last.col(i) = x.col(end - 1);
  }
  return last;
}

template <linear_layer Linear>
matrix llama<Linear>::normalised(matrix const& x, vector const& weight) const {
  matrix y(x.rows(), x.cols());
  for (index t = 0; t < x.cols(); ++t) {
    float const mean_square = x.col(t).squaredNorm() / static_cast<float>(x.rows());
    y.col(t) = x.col(t).cwiseProduct(weight) * (1.0f / std::sqrt(mean_square + config_.norm_epsilon));
  }
  return y;
}

template <linear_layer Linear>
matrix llama<Linear>::applied(Linear const& linear, vector const& bias, matrix const& x) {
  matrix y(linear.rows(), x.cols());
  linear.apply(x, y);
  if (bias.size() != 0) { y.colwise() += bias; }
  return y;
}

template <linear_layer Linear>
matrix llama<Linear>::forward(std::span<sequence* const> batch) const {
  matrix x = embed(batch);
  rotation turn = rotations(batch, x.cols());
  for (sequence* s : batch) {
    s->keys.resize(layers_.size());
    s->values.resize(layers_.size());
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    layer const& l = layers_[i];
    matrix y = normalised(x, l.attention_norm);
    matrix keys = applied(l.key, l.key_bias, y);
    matrix const values = applied(l.value, l.value_bias, y);
    rotate(turn, keys);
    bool const last_layer = i + 1 == layers_.size();
    if (last_layer) {  // of the earlier tokens only keys and values are needed from here on
      x = last_of_each(batch, x);
      y = last_of_each(batch, y);
      turn = {last_of_each(batch, turn.cosine), last_of_each(batch, turn.sine)};
    }
    matrix queries = applied(l.query, l.query_bias, y);
    rotate(turn, queries);
    attend(batch, i, keys, values, last_layer, queries);
    x += applied(l.output, l.output_bias, queries);

    y = normalised(x, l.mlp_norm);
    matrix inner = applied(l.gate, l.gate_bias, y);
    inner.array() *= applied(l.up, l.up_bias, y).array() / (1.0f + (-inner.array()).exp());  // silu(gate) * up
    x += applied(l.down, l.down_bias, inner);
  }
  for (sequence* s : batch) {
    s->length += static_cast<index>(s->next.size());
    s->next.clear();
  }
  x = normalised(x, final_norm_);
  if (!head_.empty()) { return applied(head_.front(), vector(), x); }
  matrix logits(config_.vocabulary, x.cols());
  detail::multiply(embedding_.data(), x, logits);
  return logits;
}

}  // namespace zoo
