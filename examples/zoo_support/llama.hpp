#pragma once

/// A Llama forward pass in Eigen and float32: RMSNorm, rotary embedding, grouped-query attention, SwiGLU, KV cache.
///
/// Many sequences run as one batch, each at its own position: the new tokens of all of them stand side by side as the
/// columns of one matrix, so that every linear layer is one matrix product, and only attention looks at a sequence by
/// itself. The linear layer is a template parameter: whatever applies a weight to columns (a dense matrix, rows found
/// through the index of a merged checkpoint) can run the model. Layers of several experts get the expert of each column,
/// so that the sequences of one batch may be answered by different experts.

#include "linear_layer.hpp"
#include "llama_config.hpp"

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace zoo {

/// One sequence of a batch: what it has seen (keys and values of all its tokens, layer by layer) and what it sees next.
struct sequence {
  std::vector<int> next;       ///< tokens for the next call of `llama::forward`, at least one
  std::size_t expert = 0;      ///< who answers, where the model has several experts
  index length = 0;            ///< tokens seen so far
  std::vector<matrix> keys;    ///< per layer: kv_heads * head_dim rows, one column per token; rotated already
  std::vector<matrix> values;  ///< per layer, likewise
};

/// A Llama, or several that share layers. Its weights don't change, so several threads may run batches of their own
/// through one object. What a sequence gets doesn't depend on the batch that it is in, where that is so for the layers:
/// then logits have the same bits in any batch.
template <linear_layer Linear = dense, embedding_layer Embedding = dense>
class llama {
 public:
  template <class Layer>
  using layer_source = std::function<Layer(std::string const& name)>;

  /// @param load gives norms and biases: an element for each expert
  /// @param make_linear gives the layer of a weight's name ("model.layers.0.mlp.up_proj.weight"), shapes are checked
  /// @param make_embedding gives that of "model.embed_tokens.weight"
  /// @throws braid::shape_error where a weight doesn't have the shape that `config` says
  llama(llama_config config, std::span<weight_source const> load, layer_source<Linear> const& make_linear,
        layer_source<Embedding> const& make_embedding);

  /// A model of one expert, whose linear layers `make_linear` gives.
  llama(llama_config config, weight_source const& load, layer_source<Linear> const& make_linear)
    requires std::constructible_from<Embedding, tensor>
      : llama(std::move(config), std::span(&load, 1), make_linear,
              [&load](std::string const& name) { return Embedding(load(name)); }) {}

  /// A model that holds all its weights.
  llama(llama_config config, weight_source const& load)
    requires std::constructible_from<Linear, tensor> && std::constructible_from<Embedding, tensor>
      : llama(std::move(config), load, [&load](std::string const& name) { return Linear(load(name)); }) {}

  [[nodiscard]] llama_config const& config() const noexcept { return config_; }
  [[nodiscard]] std::size_t experts() const noexcept { return static_cast<std::size_t>(final_norm_.cols()); }

  /// Lets every sequence see its `next` tokens, which it then has no more.
  /// @return logits [vocabulary, sequences] after the last token of each
  /// @throws braid::argument_error for a token outside the vocabulary, an expert that there isn't, or a sequence with
  ///         nothing to see
  [[nodiscard]] matrix forward(std::span<sequence* const> batch) const;

 private:
  struct layer {
    matrix attention_norm, mlp_norm;  // a column for each expert, as all vectors
    Linear query, key, value, output;
    Linear gate, up, down;
    // Empty where the model has no biases.
    matrix query_bias, key_bias, value_bias, output_bias, gate_bias, up_bias, down_bias;
  };
  struct rotation {
    matrix cosine, sine;  // head_dim / 2 rows, one column per token of the batch
  };
  struct linear_source;

  [[nodiscard]] layer load_layer(linear_source const& source, int number) const;
  [[nodiscard]] std::vector<std::size_t> experts_of(std::span<sequence* const> batch) const;
  [[nodiscard]] matrix embed(std::span<sequence* const> batch, experts_of_columns expert) const;
  [[nodiscard]] rotation rotations(std::span<sequence* const> batch, index tokens) const;
  static void rotate(rotation const& by, matrix& heads);
  void attend(std::span<sequence* const> batch, std::size_t layer_number, matrix const& keys, matrix const& values,
              bool last_only, matrix& queries) const;
  [[nodiscard]] static matrix last_of_each(std::span<sequence* const> batch, matrix const& x);
  [[nodiscard]] matrix normalised(matrix const& x, matrix const& weight, experts_of_columns expert) const;
  static void gate_with_silu(matrix const& up, matrix& gate);
  template <linear_layer Layer>
  [[nodiscard]] static matrix applied(Layer const& layer, matrix const& bias, matrix const& x, experts_of_columns expert);

  llama_config config_;
  std::vector<Embedding> embedding_;  // one
  std::vector<layer> layers_;
  matrix final_norm_;
  std::vector<Linear> head_;  // one, or none where the embedding is the head
};

/// Finds linear layers and their biases by name, and checks their shapes.
template <linear_layer Linear, embedding_layer Embedding>
struct llama<Linear, Embedding>::linear_source {
  std::span<weight_source const> load;
  layer_source<Linear> const& make;

  template <class Layer>
  static Layer checked(Layer layer, std::string const& name, index rows, index cols) {
    if (layer.rows() != rows || layer.cols() != cols) {
      throw braid::shape_error(name + ": shape " + detail::describe({layer.rows(), layer.cols()}) +
                               " where config.json asks for " + detail::describe({rows, cols}));
    }
    return layer;
  }
  Linear weight(std::string const& name, index rows, index cols) const { return checked(make(name), name, rows, cols); }
  matrix bias(std::string const& name, bool wanted, index rows) const {
    return wanted ? detail::checked_vectors(load, name, rows) : matrix();
  }
};

template <linear_layer Linear, embedding_layer Embedding>
llama<Linear, Embedding>::llama(llama_config config, std::span<weight_source const> load,
                                layer_source<Linear> const& make_linear, layer_source<Embedding> const& make_embedding)
    : config_(std::move(config)) {
  linear_source const source{load, make_linear};
  std::string const name = "model.embed_tokens.weight";
  embedding_.push_back(source.checked(make_embedding(name), name, config_.vocabulary, config_.hidden));
  for (int i = 0; i < config_.layers; ++i) { layers_.push_back(load_layer(source, i)); }
  final_norm_ = detail::checked_vectors(load, "model.norm.weight", config_.hidden);
  if (!config_.tied) { head_.push_back(source.weight("lm_head.weight", config_.vocabulary, config_.hidden)); }
}

template <linear_layer Linear, embedding_layer Embedding>
auto llama<Linear, Embedding>::load_layer(linear_source const& source, int number) const -> layer {
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
      .attention_norm = detail::checked_vectors(source.load, prefix + "input_layernorm.weight", hidden),
      .mlp_norm = detail::checked_vectors(source.load, prefix + "post_attention_layernorm.weight", hidden),
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

/// The expert of each new token.
template <linear_layer Linear, embedding_layer Embedding>
std::vector<std::size_t> llama<Linear, Embedding>::experts_of(std::span<sequence* const> batch) const {
  std::vector<std::size_t> expert;
  for (sequence const* s : batch) {
    if (s->next.empty()) { throw braid::argument_error("a sequence has no next token: give each at least one"); }
    if (s->expert >= experts()) {
      throw braid::argument_error("a sequence asks for expert number " + std::to_string(s->expert) + " of " +
                                  std::to_string(experts()) + ", counted from 0");
    }
    expert.insert(expert.end(), s->next.size(), s->expert);
  }
  return expert;
}

template <linear_layer Linear, embedding_layer Embedding>
matrix llama<Linear, Embedding>::embed(std::span<sequence* const> batch, experts_of_columns expert) const {
  matrix x(config_.hidden, static_cast<index>(expert.size()));
  index t = 0;
  for (sequence const* s : batch) {
    for (int const token : s->next) {
      if (token < 0 || token >= config_.vocabulary) {
        throw braid::argument_error("token " + std::to_string(token) + " lies outside a vocabulary of " +
                                    std::to_string(config_.vocabulary));
      }
      embedding_.front().row(s->expert, token, std::span(x.col(t++).data(), static_cast<std::size_t>(x.rows())));
    }
  }
  return x;
}

template <linear_layer Linear, embedding_layer Embedding>
auto llama<Linear, Embedding>::rotations(std::span<sequence* const> batch, index tokens) const -> rotation {
  Eigen::Map<vector const> const frequency(config_.inverse_frequency.data(), config_.head_dim / 2);
  rotation r{matrix(frequency.size(), tokens), matrix(frequency.size(), tokens)};
  // In memory of its own: Eigen's cos of a number depends on whether a packet or a single number is computed, so on
  // where a column lies in memory, and so on the batch.
  std::vector<float> room(static_cast<std::size_t>(frequency.size()));
  Eigen::Map<vector> angle(room.data(), frequency.size());
  index t = 0;
  for (sequence const* s : batch) {
    for (std::size_t i = 0; i < s->next.size(); ++i, ++t) {
      auto const position = static_cast<float>(s->length + static_cast<index>(i));
      angle = (frequency * position).array().cos();
      r.cosine.col(t) = angle;
      angle = (frequency * position).array().sin();
      r.sine.col(t) = angle;
    }
  }
  return r;
}

/// Turns element i of a head against element i + head_dim / 2 ("rotate half"), for all heads of all tokens.
template <linear_layer Linear, embedding_layer Embedding>
void llama<Linear, Embedding>::rotate(rotation const& by, matrix& heads) {
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
template <linear_layer Linear, embedding_layer Embedding>
void llama<Linear, Embedding>::attend(std::span<sequence* const> batch, std::size_t layer_number, matrix const& keys,
                           matrix const& values, bool last_only, matrix& queries) const {
  index const dim = config_.head_dim;
  index const shared = config_.heads / config_.kv_heads;
  float const scale = 1.0f / std::sqrt(static_cast<float>(dim));
  matrix scores, mixed;
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
        mixed = v.block(h * dim, 0, dim, seen).lazyProduct(scores);  // apart, as angles in `rotations`
        q = mixed;
      }
    }
  }
}

/// The columns of each sequence's last token.
template <linear_layer Linear, embedding_layer Embedding>
matrix llama<Linear, Embedding>::last_of_each(std::span<sequence* const> batch, matrix const& x) {
  matrix last(x.rows(), static_cast<index>(batch.size()));
  index end = 0;
  for (index i = 0; i < last.cols(); ++i) {
    end += static_cast<index>(batch[static_cast<std::size_t>(i)]->next.size());
    last.col(i) = x.col(end - 1);
  }
  return last;
}

template <linear_layer Linear, embedding_layer Embedding>
matrix llama<Linear, Embedding>::normalised(matrix const& x, matrix const& weight, experts_of_columns expert) const {
  matrix y(x.rows(), x.cols());
  vector column(x.rows());  // so that the order of the sum doesn't depend on where the column lies
  for (index t = 0; t < x.cols(); ++t) {
    column = x.col(t);
    float const mean_square = column.squaredNorm() / static_cast<float>(x.rows());
    auto const own = weight.col(static_cast<index>(expert[static_cast<std::size_t>(t)]));
    y.col(t) = column.cwiseProduct(own) * (1.0f / std::sqrt(mean_square + config_.norm_epsilon));
  }
  return y;
}

/// gate = silu(gate) * up, column by column for the reason that `rotations` has.
template <linear_layer Linear, embedding_layer Embedding>
void llama<Linear, Embedding>::gate_with_silu(matrix const& up, matrix& gate) {
  vector column(gate.rows());
  for (index t = 0; t < gate.cols(); ++t) {
    column = gate.col(t);
    column.array() *= up.col(t).array() / (1.0f + (-column.array()).exp());
    gate.col(t) = column;
  }
}

template <linear_layer Linear, embedding_layer Embedding>
template <linear_layer Layer>
matrix llama<Linear, Embedding>::applied(Layer const& layer, matrix const& bias, matrix const& x, experts_of_columns expert) {
  matrix y(layer.rows(), x.cols());
  if constexpr (expert_layer<Layer>) {
    layer.apply(expert, x, y);
  } else {
    layer.apply(x, y);
  }
  if (bias.size() == 0) { return y; }
  for (index t = 0; t < y.cols(); ++t) { y.col(t) += bias.col(static_cast<index>(expert[static_cast<std::size_t>(t)])); }
  return y;
}

template <linear_layer Linear, embedding_layer Embedding>
matrix llama<Linear, Embedding>::forward(std::span<sequence* const> batch) const {
  std::vector<std::size_t> expert = experts_of(batch);
  matrix x = embed(batch, expert);
  rotation turn = rotations(batch, x.cols());
  for (sequence* s : batch) {
    s->keys.resize(layers_.size());
    s->values.resize(layers_.size());
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    layer const& l = layers_[i];
    matrix y = normalised(x, l.attention_norm, expert);
    matrix keys = applied(l.key, l.key_bias, y, expert);
    matrix const values = applied(l.value, l.value_bias, y, expert);
    rotate(turn, keys);
    bool const last_layer = i + 1 == layers_.size();
    if (last_layer) {  // of the earlier tokens only keys and values are needed from here on
      x = last_of_each(batch, x);
      y = last_of_each(batch, y);
      turn = {last_of_each(batch, turn.cosine), last_of_each(batch, turn.sine)};
      expert.clear();
      for (sequence const* s : batch) { expert.push_back(s->expert); }
    }
    matrix queries = applied(l.query, l.query_bias, y, expert);
    rotate(turn, queries);
    attend(batch, i, keys, values, last_layer, queries);
    x += applied(l.output, l.output_bias, queries, expert);

    y = normalised(x, l.mlp_norm, expert);
    matrix inner = applied(l.gate, l.gate_bias, y, expert);
    gate_with_silu(applied(l.up, l.up_bias, y, expert), inner);
    x += applied(l.down, l.down_bias, inner, expert);
  }
  for (sequence* s : batch) {
    s->length += static_cast<index>(s->next.size());
    s->next.clear();
  }
  x = normalised(x, final_norm_, expert);
  return head_.empty() ? applied(embedding_.front(), matrix(), x, expert) : applied(head_.front(), matrix(), x, expert);
}

}  // namespace zoo
