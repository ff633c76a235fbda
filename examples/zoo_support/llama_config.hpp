#pragma once

/// The shape of a Llama model, read from the config.json that transformers writes. Both layouts of the rotary
/// parameters are understood: `rope_theta` with `rope_scaling` (transformers 4) and `rope_parameters` (5).

#include <braid/core/error.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

namespace zoo {

/// Everything about a Llama that isn't a weight.
struct llama_config {
  int vocabulary = 0;    ///< rows of the embedding
  int hidden = 0;        ///< width of the residual stream
  int intermediate = 0;  ///< width inside the MLP
  int layers = 0;
  int heads = 0;     ///< query heads
  int kv_heads = 0;  ///< key and value heads; divides `heads`
  int head_dim = 0;  ///< even; heads * head_dim need not be `hidden`
  float norm_epsilon = 1e-6f;
  bool tied = false;  ///< the head is the embedding
  bool attention_bias = false;
  bool mlp_bias = false;
  std::vector<float> inverse_frequency;  ///< head_dim / 2 angles per position, scaling included

  friend bool operator==(llama_config const&, llama_config const&) = default;

  /// @param json the parsed config.json
  /// @param where the file's name, for messages
  /// @throws braid::argument_error for a model that isn't a Llama, or a field that is missing or can't be meant
  static llama_config from_json(nlohmann::json const& json, std::string const& where);
};

namespace detail {

/// Reads fields of one JSON object; says file and field when something is wrong.
class config_reader {
 public:
  config_reader(nlohmann::json const& json, std::string const& where) : json_(json), where_(where) {
    if (!json.is_object()) { throw braid::argument_error(where + ": not a JSON object; need a Llama's config.json"); }
  }

  [[noreturn]] void fail(std::string const& what) const { throw braid::argument_error(where_ + ": " + what); }

  [[nodiscard]] bool has(char const* field) const { return json_.contains(field) && !json_[field].is_null(); }

  [[nodiscard]] int positive(char const* field) const {
    if (!has(field)) { fail(std::string("no field \"") + field + "\""); }
    auto const& value = json_[field];
    if (!value.is_number_integer() || value < 1 || value > 1'000'000'000) {
      fail(std::string("\"") + field + "\" must be a positive integer, is " + value.dump());
    }
    return value.get<int>();
  }
  [[nodiscard]] int positive(char const* field, int otherwise) const {
    return has(field) ? positive(field) : otherwise;
  }

  [[nodiscard]] double number(char const* field, double otherwise) const {
    if (!has(field)) { return otherwise; }
    if (!json_[field].is_number() || !(json_[field] > 0)) {
      fail(std::string("\"") + field + "\" must be a positive number, is " + json_[field].dump());
    }
    return json_[field].get<double>();
  }

  [[nodiscard]] bool flag(char const* field) const {
    if (!has(field)) { return false; }
    if (!json_[field].is_boolean()) { fail(std::string("\"") + field + "\" must be true or false"); }
    return json_[field].get<bool>();
  }

  [[nodiscard]] std::string text(char const* field, char const* otherwise) const {
    if (!has(field)) { return otherwise; }
    if (!json_[field].is_string()) { fail(std::string("\"") + field + "\" must be a string"); }
    return json_[field].get<std::string>();
  }

  [[nodiscard]] config_reader object(char const* field) const {
    return has(field) ? config_reader(json_[field], where_) : config_reader(empty(), where_);
  }

 private:
  static nlohmann::json const& empty() {
    static nlohmann::json const object = nlohmann::json::object();
    return object;
  }
  nlohmann::json const& json_;
  std::string const& where_;
};

/// Angles per position for each pair of a head's elements: theta^(-2i / head_dim), stretched as the config says.
inline std::vector<float> rotary_frequencies(config_reader const& top, int head_dim) {
  config_reader const rope = top.object(top.has("rope_parameters") ? "rope_parameters" : "rope_scaling");
  double const theta = rope.number("rope_theta", top.number("rope_theta", 10000.0));
  std::string const type = rope.text("rope_type", rope.text("type", "default").c_str());
  std::vector<float> frequency;
  for (int i = 0; i < head_dim / 2; ++i) {
    frequency.push_back(static_cast<float>(std::pow(theta, -2.0 * i / head_dim)));
  }
  if (type == "default") { return frequency; }

  double const factor = rope.number("factor", 1.0);
  if (type == "linear") {
    for (float& f : frequency) { f = static_cast<float>(f / factor); }
  } else if (type == "llama3") {
    // Long wavelengths are stretched, short ones stay, those between are interpolated.
    double const low = rope.number("low_freq_factor", 1.0);
    double const high = rope.number("high_freq_factor", 4.0);
    double const context = rope.number("original_max_position_embeddings", 8192.0);
    if (!(high > low)) { top.fail("\"high_freq_factor\" must be larger than \"low_freq_factor\""); }
    for (float& f : frequency) {
      double const turns = context * f / (2.0 * std::numbers::pi);
      double const kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
      f = static_cast<float>(f * (kept + (1.0 - kept) / factor));
    }
  } else {
    top.fail("rotary embedding of type \"" + type + "\" isn't supported (default, linear and llama3 are)");
  }
  return frequency;
}

}  // namespace detail

inline llama_config llama_config::from_json(nlohmann::json const& json, std::string const& where) {
  detail::config_reader const in(json, where);
  if (auto const type = in.text("model_type", "llama"); type != "llama") {
    in.fail("model_type is \"" + type + "\"; only \"llama\" can be run");
  }
  if (auto const act = in.text("hidden_act", "silu"); act != "silu") {
    in.fail("hidden_act is \"" + act + "\"; only \"silu\" can be run");
  }
  llama_config c;
  c.vocabulary = in.positive("vocab_size");
  c.hidden = in.positive("hidden_size");
  c.intermediate = in.positive("intermediate_size");
  c.layers = in.positive("num_hidden_layers");
  c.heads = in.positive("num_attention_heads");
  c.kv_heads = in.positive("num_key_value_heads", c.heads);
  c.head_dim = in.positive("head_dim", c.hidden / c.heads);
  if (c.heads % c.kv_heads != 0) { in.fail("\"num_key_value_heads\" must divide \"num_attention_heads\""); }
  if (c.head_dim < 2 || c.head_dim % 2 != 0) { in.fail("\"head_dim\" must be even, is " + std::to_string(c.head_dim)); }
  c.norm_epsilon = static_cast<float>(in.number("rms_norm_eps", 1e-6));
  c.tied = in.flag("tie_word_embeddings");
  c.attention_bias = in.flag("attention_bias");
  c.mlp_bias = in.flag("mlp_bias");
  c.inverse_frequency = detail::rotary_frequencies(in, c.head_dim);
  return c;
}

}  // namespace zoo
