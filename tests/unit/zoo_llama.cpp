#include "../../examples/zoo_support/evaluate.hpp"
#include "../../examples/zoo_support/weights.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

// The forward pass against a second one that shares nothing with it: float64, plain loops, no cache, no batch, written
// from the equations. Then the real zoo, whose accuracies are known.

namespace {

using floats = std::vector<double>;
using weights = std::map<std::string, zoo::tensor>;

/// W x + bias, where there is one.
floats linear(weights const& w, std::string const& name, floats const& x) {
  zoo::tensor const& m = w.at(name + ".weight");
  floats y(static_cast<std::size_t>(m.shape[0]));
  for (std::size_t r = 0; r < y.size(); ++r) {
    for (std::size_t c = 0; c < x.size(); ++c) { y[r] += static_cast<double>(m.values[r * x.size() + c]) * x[c]; }
    auto const bias = w.find(name + ".bias");
    if (bias != w.end()) { y[r] += static_cast<double>(bias->second.values[r]); }
  }
  return y;
}

floats rms_norm(weights const& w, std::string const& name, floats const& x, double epsilon) {
  double sum = 0;
  for (double const v : x) { sum += v * v; }
  floats y = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    y[i] *= static_cast<double>(w.at(name).values[i]) / std::sqrt(sum / static_cast<double>(x.size()) + epsilon);
  }
  return y;
}

/// Rotates each pair (i, i + dim / 2) of the head at `head` by position * theta^(-2i / dim).
void rotate(floats& x, std::size_t head, std::size_t dim, std::size_t position, double theta) {
  for (std::size_t i = 0; i < dim / 2; ++i) {
    double const exponent = -2.0 * static_cast<double>(i) / static_cast<double>(dim);
    double const angle = static_cast<double>(position) * std::pow(theta, exponent);
    double& a = x[head * dim + i];
    double& b = x[head * dim + dim / 2 + i];
    double const turned = a * std::cos(angle) - b * std::sin(angle);
    b = b * std::cos(angle) + a * std::sin(angle);
    a = turned;
  }
}

void add(floats& x, floats const& y) {
  for (std::size_t i = 0; i < x.size(); ++i) { x[i] += y[i]; }
}

/// Logits after the last token.
floats reference(zoo::llama_config const& c, double theta, weights const& w, std::vector<int> const& tokens) {
  auto const dim = static_cast<std::size_t>(c.head_dim);
  auto const heads = static_cast<std::size_t>(c.heads);
  auto const kv_heads = static_cast<std::size_t>(c.kv_heads);
  auto const hidden = static_cast<std::size_t>(c.hidden);
  double const epsilon = static_cast<double>(c.norm_epsilon);
  std::vector<floats> x;
  for (int const t : tokens) {
    auto const row = w.at("model.embed_tokens.weight").values.begin() + static_cast<std::ptrdiff_t>(t) * c.hidden;
    x.emplace_back(row, row + c.hidden);
  }
  for (int i = 0; i < c.layers; ++i) {
    std::string const p = "model.layers." + std::to_string(i) + ".";
    std::vector<floats> q, k, v;
    for (std::size_t t = 0; t < x.size(); ++t) {
      floats const y = rms_norm(w, p + "input_layernorm.weight", x[t], epsilon);
      q.push_back(linear(w, p + "self_attn.q_proj", y));
      k.push_back(linear(w, p + "self_attn.k_proj", y));
      v.push_back(linear(w, p + "self_attn.v_proj", y));
      for (std::size_t h = 0; h < heads; ++h) { rotate(q[t], h, dim, t, theta); }
      for (std::size_t h = 0; h < kv_heads; ++h) { rotate(k[t], h, dim, t, theta); }
    }
    for (std::size_t t = 0; t < x.size(); ++t) {
      floats mixed(heads * dim);
      for (std::size_t h = 0; h < heads; ++h) {
        std::size_t const g = h / (heads / kv_heads);
        floats score(t + 1);
        for (std::size_t s = 0; s <= t; ++s) {
          for (std::size_t e = 0; e < dim; ++e) { score[s] += q[t][h * dim + e] * k[s][g * dim + e]; }
          score[s] = std::exp(score[s] / std::sqrt(static_cast<double>(dim)));
        }
        double total = 0;
        for (double const s : score) { total += s; }
        for (std::size_t s = 0; s <= t; ++s) {
          for (std::size_t e = 0; e < dim; ++e) { mixed[h * dim + e] += score[s] / total * v[s][g * dim + e]; }
        }
      }
      add(x[t], linear(w, p + "self_attn.o_proj", mixed));
      floats const y = rms_norm(w, p + "post_attention_layernorm.weight", x[t], epsilon);
      floats inner = linear(w, p + "mlp.gate_proj", y);
      floats const up = linear(w, p + "mlp.up_proj", y);
      for (std::size_t e = 0; e < inner.size(); ++e) { inner[e] *= up[e] / (1 + std::exp(-inner[e])); }
      add(x[t], linear(w, p + "mlp.down_proj", inner));
    }
  }
  floats const y = rms_norm(w, "model.norm.weight", x.back(), epsilon);
  if (!c.tied) { return linear(w, "lm_head", y); }
  floats logits;
  for (int t = 0; t < c.vocabulary; ++t) {
    double sum = 0;
    float const* const row = w.at("model.embed_tokens.weight").values.data() + static_cast<std::size_t>(t) * hidden;
    for (std::size_t e = 0; e < hidden; ++e) { sum += static_cast<double>(row[e]) * y[e]; }
    logits.push_back(sum);
  }
  return logits;
}

/// A Llama of random shape and weights.
struct specimen {
  std::mt19937 random;
  nlohmann::json json;
  double theta;
  zoo::llama_config config;
  weights tensors;

  explicit specimen(unsigned seed) : random(seed) {
    int const kv_heads = between(1, 3);
    theta = between(0, 1) == 1 ? 10000.0 : 500.0;
    json = {{"model_type", "llama"},
            {"vocab_size", between(5, 40)},
            {"hidden_size", between(3, 37)},
            {"intermediate_size", between(1, 41)},
            {"num_hidden_layers", between(1, 3)},
            {"num_attention_heads", kv_heads * between(1, 3)},
            {"num_key_value_heads", kv_heads},
            {"head_dim", 2 * between(1, 9)},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", theta},
            {"tie_word_embeddings", between(0, 1) == 1},
            {"attention_bias", between(0, 1) == 1},
            {"mlp_bias", between(0, 1) == 1}};
    config = zoo::llama_config::from_json(json, "config.json");
    std::int64_t const hidden = config.hidden;
    std::int64_t const inner = config.intermediate;
    std::int64_t const q = config.heads * config.head_dim;
    std::int64_t const kv = config.kv_heads * config.head_dim;
    make("model.embed_tokens.weight", {config.vocabulary, hidden});
    make("model.norm.weight", {hidden});
    if (!config.tied) { make("lm_head.weight", {config.vocabulary, hidden}); }
    for (int i = 0; i < config.layers; ++i) {
      std::string const p = "model.layers." + std::to_string(i) + ".";
      make(p + "input_layernorm.weight", {hidden});
      make(p + "post_attention_layernorm.weight", {hidden});
      make(p + "self_attn.q_proj", q, hidden, config.attention_bias);
      make(p + "self_attn.k_proj", kv, hidden, config.attention_bias);
      make(p + "self_attn.v_proj", kv, hidden, config.attention_bias);
      make(p + "self_attn.o_proj", hidden, q, config.attention_bias);
      make(p + "mlp.gate_proj", inner, hidden, config.mlp_bias);
      make(p + "mlp.up_proj", inner, hidden, config.mlp_bias);
      make(p + "mlp.down_proj", hidden, inner, config.mlp_bias);
    }
  }

  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }

  std::vector<int> text(int length) {
    std::vector<int> tokens(static_cast<std::size_t>(length));
    for (int& t : tokens) { t = between(0, config.vocabulary - 1); }
    return tokens;
  }

  zoo::llama<> model() const {
    return {config, [this](std::string const& name) { return tensors.at(name); }};
  }

 private:
  void make(std::string const& name, std::vector<std::int64_t> shape) {
    std::size_t size = 1;
    for (auto const extent : shape) { size *= static_cast<std::size_t>(extent); }
    zoo::tensor t{std::move(shape), std::vector<float>(size)};
    std::normal_distribution<float> normal(0.0f, 0.4f);
    for (float& v : t.values) { v = normal(random); }
    tensors[name] = std::move(t);
  }
  void make(std::string const& name, std::int64_t rows, std::int64_t cols, bool bias) {
    make(name + ".weight", {rows, cols});
    if (bias) { make(name + ".bias", {rows}); }
  }
};

/// The largest difference, relative to the largest logit.
double difference(zoo::matrix const& logits, zoo::index column, floats const& expected) {
  double largest = 0;
  double apart = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    apart = std::max(apart, std::abs(static_cast<double>(logits(static_cast<zoo::index>(i), column)) - expected[i]));
  }
  return apart / largest;
}

std::string zoo_path(std::string const& name) { return std::string(BRAID_TEST_SOURCE_DIR) + "/examples/zoo/" + name; }

}  // namespace

TEST_CASE("the forward pass agrees with a naive one in float64, whatever the shape", "[zoo]") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    specimen s(seed);
    auto const model = s.model();
    // A batch of sequences of different lengths, then a few tokens more for each, again of different counts.
    std::vector<std::vector<int>> texts(static_cast<std::size_t>(s.between(1, 5)));
    std::vector<zoo::sequence> sequences(texts.size());
    std::vector<zoo::sequence*> batch;
    for (auto& q : sequences) { batch.push_back(&q); }
    for (int round = 0; round < 3; ++round) {
      for (std::size_t i = 0; i < texts.size(); ++i) {
        auto const next = s.text(s.between(1, round == 1 ? 1 : 6));
        texts[i].insert(texts[i].end(), next.begin(), next.end());
        sequences[i].next = next;
      }
      zoo::matrix const logits = model.forward(batch);
      REQUIRE(logits.rows() == s.config.vocabulary);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        CAPTURE(seed, round, i, s.json.dump());
        CHECK(difference(logits, static_cast<zoo::index>(i), reference(s.config, s.theta, s.tensors, texts[i])) < 2e-4);
        CHECK(sequences[i].length == static_cast<zoo::index>(texts[i].size()));
        CHECK(sequences[i].next.empty());
      }
    }
  }
}

TEST_CASE("decoding with a cache says what decoding without one says", "[zoo]") {
  for (unsigned seed = 100; seed < 130; ++seed) {
    specimen s(seed);
    auto const model = s.model();
    int const stop = 0;
    std::vector<std::vector<int>> prompts;
    std::vector<int> limits;
    for (int i = 0; i < 4; ++i) {
      prompts.push_back(s.text(s.between(1, 7)));
      limits.push_back(s.between(0, 6));
    }
    auto const said = zoo::generate(model, prompts, limits, stop);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      std::vector<int> expected;
      std::vector<int> text = prompts[i];
      while (expected.size() < static_cast<std::size_t>(limits[i]) && (expected.empty() || expected.back() != stop)) {
        floats const logits = reference(s.config, s.theta, s.tensors, text);
        expected.push_back(static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
        text.push_back(expected.back());
      }
      CAPTURE(seed, i);
      CHECK(said[i] == expected);
    }
  }
}

TEST_CASE("a weight of another shape than the config's is refused by name", "[zoo]") {
  specimen s(7);
  s.tensors["model.layers.0.mlp.up_proj.weight"].shape[0] += 1;
  std::string message;
  try {
    (void)s.model();
  } catch (braid::shape_error const& e) {
    message = e.what();
  }
  CHECK(message.find("model.layers.0.mlp.up_proj.weight") != std::string::npos);
  CHECK(message.find(std::to_string(s.config.intermediate)) != std::string::npos);
}

TEST_CASE("a token outside the vocabulary and a sequence with nothing to see are refused", "[zoo]") {
  specimen s(8);
  auto const model = s.model();
  zoo::sequence sequence;
  zoo::sequence* const batch[] = {&sequence};
  CHECK_THROWS_AS(model.forward(batch), braid::argument_error);
  sequence.next = {s.config.vocabulary};
  CHECK_THROWS_AS(model.forward(batch), braid::argument_error);
  sequence.next = {-1};
  CHECK_THROWS_AS(model.forward(batch), braid::argument_error);
}

TEST_CASE("each expert of the zoo answers its own prompts, and the base few of them", "[zoo]") {
  auto questions = zoo::read_questions(zoo_path("prompts.json"));
  REQUIRE(questions.tasks.size() == 4);
  auto const load = [](std::string const& name) {
    braid::checkpoint const files(zoo_path(name));
    return zoo::llama<>(zoo::llama_config::from_json(files.config(), name), zoo::weights_of(files));
  };
  auto const base = load("base");
  for (auto& task : questions.tasks) {
    REQUIRE(task.prompts.size() == 500);
    task.prompts.resize(60);  // enough to see the difference, quick in a debug build too
    CAPTURE(task.name);
    CHECK(zoo::accuracy(load(task.name), questions.symbols, task.prompts) > 0.98);
    CHECK(zoo::accuracy(base, questions.symbols, task.prompts) < 0.8);
  }
}
