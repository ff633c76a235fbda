/// Experts that answer from the pool of a merged checkpoint say what rebuilt experts say, alone and in mixed batches.

#include "../../examples/zoo_support/evaluate.hpp"
#include "../../examples/zoo_support/resident.hpp"
#include "../../examples/zoo_support/served.hpp"
#include "support/catch.hpp"
#include "support/models_on_disk.hpp"
#include "support/temp_dir.hpp"
#include "support/threads.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/engine/run.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/none.hpp>
#include <braid/residual/any.hpp>
#include <braid/serve/router.hpp>
#include <braid/similarity/cosine.hpp>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace braid_test {
namespace {

namespace fs = std::filesystem;

using merge = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact,
                                   braid::consensus::mean, braid::residual::any>;

fs::path source_dir() { return BRAID_TEST_SOURCE_DIR; }

/// The experts of a merged checkpoint, rebuilt in files of their own.
std::vector<braid::checkpoint> rebuilt(braid::grouped_checkpoint const& g, fs::path const& dir) {
  std::vector<braid::checkpoint> all;
  for (auto const& name : g.experts()) {
    g.extract(name, dir / name);
    all.emplace_back(dir / name, name);
  }
  return all;
}

/// The tensors that a configuration asks for.
std::vector<std::pair<std::string, shape_t>> tensors_of(zoo::llama_config const& c) {
  std::vector<std::pair<std::string, shape_t>> all{{"model.embed_tokens.weight", {c.vocabulary, c.hidden}},
                                                   {"model.norm.weight", {c.hidden}}};
  if (!c.tied) { all.push_back({"lm_head.weight", {c.vocabulary, c.hidden}}); }
  index_t const q = index_t{c.heads} * c.head_dim;
  index_t const kv = index_t{c.kv_heads} * c.head_dim;
  for (int i = 0; i < c.layers; ++i) {
    std::string const p = "model.layers." + std::to_string(i) + ".";
    auto const add = [&](std::string const& name, index_t rows, index_t cols, bool bias) {
      all.push_back({p + name + ".weight", {rows, cols}});
      if (bias) { all.push_back({p + name + ".bias", {rows}}); }
    };
    all.push_back({p + "input_layernorm.weight", {c.hidden}});
    all.push_back({p + "post_attention_layernorm.weight", {c.hidden}});
    add("self_attn.q_proj", q, c.hidden, c.attention_bias);
    add("self_attn.k_proj", kv, c.hidden, c.attention_bias);
    add("self_attn.v_proj", kv, c.hidden, c.attention_bias);
    add("self_attn.o_proj", c.hidden, q, c.attention_bias);
    add("mlp.gate_proj", c.intermediate, c.hidden, c.mlp_bias);
    add("mlp.up_proj", c.intermediate, c.hidden, c.mlp_bias);
    add("mlp.down_proj", c.hidden, c.intermediate, c.mlp_bias);
  }
  return all;
}

/// A base and experts of one configuration: DIR/base, DIR/a, DIR/b, ...
std::vector<braid::checkpoint> write_llamas(fs::path const& dir, nlohmann::json const& config, random_source& random, dtype type,
                                            int experts) {
  auto const c = zoo::llama_config::from_json(config, "config.json");
  std::vector<disk_model> models(static_cast<std::size_t>(experts) + 1);
  for (auto const& [name, shape] : tensors_of(c)) {
    auto const rows = shape.size() == 1 ? 1 : shape[0];
    family const f = random_family(random, type, rows, shape.back(), experts);
    models[0].push_back({name, type, shape, f.base.packed()});
    for (std::size_t e = 1; e < models.size(); ++e) { models[e].push_back({name, type, shape, f.experts[e - 1].weight.packed()}); }
  }
  std::vector<braid::checkpoint> all;
  for (std::size_t e = 0; e < models.size(); ++e) {
    fs::path const where = dir / (e == 0 ? "base" : std::string(1, static_cast<char>('a' + e - 1)));
    write_model(where, models[e]);
    write_note(where / "config.json", config.dump());
    all.emplace_back(where);
  }
  return all;
}

nlohmann::json random_config(random_source& random) {
  int const kv_heads = random.between(1, 3);
  return {{"model_type", "llama"},
          {"vocab_size", random.between(5, 40)},
          {"hidden_size", random.between(3, 37)},
          {"intermediate_size", random.between(1, 41)},
          {"num_hidden_layers", random.between(1, 3)},
          {"num_attention_heads", kv_heads * random.between(1, 3)},
          {"num_key_value_heads", kv_heads},
          {"head_dim", 2 * random.between(1, 9)},
          {"tie_word_embeddings", random.chance(0.5)},
          {"attention_bias", random.chance(0.5)},
          {"mlp_bias", random.chance(0.5)}};
}

bool same_bits(zoo::matrix const& a, zoo::matrix const& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

/// A text in pieces, as a sequence sees it: prompt, then what was said.
using pieces = std::vector<std::vector<int>>;

}  // namespace

TEST_CASE("logits from the pool have the bits of rebuilt experts, alone and in mixed batches", "[zoo][serve]") {
  allow_many_threads();
  random_source random(11);
  for (int round = 0; round < 24; ++round) {
    temp_dir const dir;
    auto const config = random_config(random);
    dtype const type = round % 3 == 0 ? dtype::f32 : dtype::bf16;
    auto models = write_llamas(dir.path(), config, random, type, 3);
    std::vector<braid::checkpoint> const experts(models.begin() + 1, models.end());
    braid::residual::any code;
    if (round % 2 == 0) { code = braid::residual::sign_bits<1>{}; }
    braid::run(merge{{.residual = code, .groups = round % 2 == 0 ? 1 : 2}}, models[0], experts, dir.path() / "merged");
    braid::grouped_checkpoint const grouped(dir.path() / "merged");
    auto const own = rebuilt(grouped, dir.path() / "rebuilt");
    auto const served = zoo::served_model(grouped, braid::cpu(round % 4 == 0 ? 3 : 1));
    auto const c = zoo::shared_config(grouped);
    auto const apart = zoo::served_model(c, zoo::weights_of(own), braid::cpu(1));
    REQUIRE(served.experts() == 3);

    constexpr std::size_t texts = 5;
    std::vector<pieces> said(texts);
    std::vector<std::size_t> expert;
    for (auto& text : said) {
      expert.push_back(static_cast<std::size_t>(random.below(3)));
      for (int piece = 0; piece < 3; ++piece) {
        auto& tokens = text.emplace_back(static_cast<std::size_t>(random.between(1, piece == 0 ? 7 : 2)));
        for (int& t : tokens) { t = random.below(c.vocabulary); }
      }
    }
    std::vector<zoo::sequence> together(texts);
    std::vector<zoo::sequence*> batch;
    for (auto& s : together) { batch.push_back(&s); }
    std::vector<zoo::matrix> mixed;
    for (std::size_t piece = 0; piece < 3; ++piece) {
      for (std::size_t i = 0; i < texts; ++i) {
        together[i].next = said[i][piece];
        together[i].expert = expert[i];
      }
      mixed.push_back(served.forward(batch));
    }
    for (std::size_t i = 0; i < texts; ++i) {
      zoo::sequence alone, rebuilt_alone, dense_alone;
      alone.expert = rebuilt_alone.expert = expert[i];
      zoo::llama<> const dense(c, zoo::weights_of(own[expert[i]]));
      for (std::size_t piece = 0; piece < 3; ++piece) {
        CAPTURE(round, config.dump(), i, piece);
        auto const logits = [&](auto const& model, zoo::sequence& s) {
          s.next = said[i][piece];
          zoo::sequence* one[] = {&s};
          return model.forward(one);
        };
        zoo::matrix const here = logits(served, alone);
        CHECK(same_bits(here, mixed[piece].col(static_cast<zoo::index>(i))));
        CHECK(same_bits(here, logits(apart, rebuilt_alone)));
        zoo::matrix const other = logits(dense, dense_alone);  // another order of sums
        CHECK((here - other).cwiseAbs().maxCoeff() <= 2e-3f * std::max(1e-3f, other.cwiseAbs().maxCoeff()));
      }
    }
  }
}

TEST_CASE("a zoo's answers through router and lookup are those of its rebuilt experts", "[zoo][serve]") {
  allow_many_threads();
  fs::path const zoo_dir = source_dir() / "examples/zoo";
  auto questions = zoo::read_questions(zoo_dir / "prompts.json");
  std::vector<braid::checkpoint> experts;
  std::vector<braid::labelled_query<std::string>> training;
  for (auto const& task : questions.tasks) {
    experts.emplace_back(zoo_dir / task.name);
    std::ifstream in(source_dir() / "examples/queries/zoo/train" / (task.name + ".txt"));
    for (std::string line; std::getline(in, line);) {
      if (!line.empty()) { training.push_back({line, task.name}); }
    }
  }
  auto const router = braid::router<>::train(training, braid::hashed_ngrams(), {.parts = 0});
  int const stop = questions.symbols.encode(".").front();

  struct merged_zoo {
    int groups;
    braid::residual::any code;
  };
  for (auto const& m : {merged_zoo{2, {}}, merged_zoo{1, braid::residual::sign_bits<1>{}}}) {
    temp_dir const dir;
    braid::run(merge{{.residual = m.code, .groups = m.groups}}, braid::checkpoint(zoo_dir / "base"), experts, dir.path() / "merged");
    braid::grouped_checkpoint const grouped(dir.path() / "merged");
    auto const own = rebuilt(grouped, dir.path() / "rebuilt");
    auto const served = zoo::served_model(grouped, braid::cpu(2));
    REQUIRE(router.experts() == grouped.experts());

    // Prompts of all tasks in turn: every batch is mixed.
    std::vector<zoo::prompt> prompts;
    std::vector<std::size_t> right;
    std::vector<int> limits;
    constexpr std::size_t each = 40;
    for (std::size_t i = 0; i < each; ++i) {
      for (auto const& task : questions.tasks) {
        prompts.push_back(task.prompts[i]);
        right.push_back(grouped.expert_number(task.name));
        limits.push_back(8);
      }
    }
    std::vector<std::vector<int>> asked;
    std::vector<std::size_t> routed;
    for (auto const& p : prompts) {
      asked.push_back(questions.symbols.encode(p.text));
      routed.push_back(router.route(p.text).expert);
    }
    auto const through = zoo::generate(served, asked, limits, stop, routed);
    std::size_t agreed = 0;
    std::vector<std::size_t> correct(4), correct_rebuilt(4);
    for (std::size_t e = 0; e < 4; ++e) {
      // One expert, from its own rebuilt files, by the same products.
      auto const config = zoo::llama_config::from_json(own[e].config(), own[e].name());
      auto const alone = zoo::served_model(config, zoo::weights_of(std::vector{own[e]}), braid::cpu(1));
      auto const said = zoo::generate(alone, asked, limits, stop);
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        if (right[i] != e || routed[i] != e) { continue; }
        ++agreed;
        CHECK(through[i] == said[i]);
        correct[e] += questions.symbols.decode(through[i]) == prompts[i].answer + "." ? 1u : 0u;
        correct_rebuilt[e] += questions.symbols.decode(said[i]) == prompts[i].answer + "." ? 1u : 0u;
      }
    }
    CHECK(agreed == prompts.size());  // the zoo's prompts name their task
    CHECK(correct == correct_rebuilt);
    CHECK(std::accumulate(correct.begin(), correct.end(), std::size_t{0}) > prompts.size() / 3);
  }
}

TEST_CASE("a server's resident memory is that of the pool, however many experts it has", "[zoo][serve]") {
  if (zoo::resident_memory().file == 0) { return; }  // no /proc
  random_source random(12);
  nlohmann::json const config{{"model_type", "llama"},         {"vocab_size", 64},           {"hidden_size", 512},
                              {"intermediate_size", 2048},     {"num_hidden_layers", 2},     {"num_attention_heads", 8},
                              {"num_key_value_heads", 8},      {"tie_word_embeddings", true}};
  temp_dir const dir;
  auto const models = write_llamas(dir.path(), config, random, dtype::bf16, 4);
  for (int const n : {1, 4}) {
    std::vector<braid::checkpoint> const experts(models.begin() + 1, models.begin() + 1 + n);
    fs::path const out = dir.path() / ("merged" + std::to_string(n));
    braid::run(merge{{.groups = 1}}, models[0], experts, out);
    auto const before = zoo::resident_memory();
    braid::grouped_checkpoint const grouped(out);
    auto const served = zoo::served_model(grouped, braid::cpu(1));
    for (int e = 0; e < n; ++e) {
      zoo::sequence s;
      s.expert = static_cast<std::size_t>(e);
      for (int t = 0; t < 64; ++t) { s.next.push_back(t); }
      zoo::sequence* one[] = {&s};
      (void)served.forward(one);
    }
    auto const after = zoo::resident_memory();
    auto const pool = static_cast<double>(grouped.stored_bytes());
    double const mapped = static_cast<double>(after.file) - static_cast<double>(before.file);
    double const own = static_cast<double>(after.anonymous) - static_cast<double>(before.anonymous);
    CAPTURE(n, pool, mapped, own);
    CHECK(mapped > 0.95 * pool);
    CHECK(mapped < 1.05 * pool + 2e6);  // and pages of the program that weren't used before
    CHECK(own < 0.2 * pool);
    CHECK(pool < 1.1 * static_cast<double>(grouped.expert_bytes()) / n);  // one group: about one model's worth
  }
}

TEST_CASE("experts of another shape than the first are refused by name", "[zoo][serve]") {
  random_source random(13);
  temp_dir const dir;
  auto config = random_config(random);
  auto const models = write_llamas(dir.path(), config, random, dtype::bf16, 2);
  config["rope_theta"] = 777.0;
  write_note(dir.path() / "b/config.json", config.dump());
  braid::run(merge{{.groups = 1}}, braid::checkpoint(dir.path() / "base"),
             std::vector{braid::checkpoint(dir.path() / "a"), braid::checkpoint(dir.path() / "b")}, dir.path() / "merged");
  braid::grouped_checkpoint const grouped(dir.path() / "merged");
  CHECK_THROWS_AS(zoo::served_model(grouped, braid::cpu(1)), braid::argument_error);
}

TEST_CASE("rows that an embedding looks up are those that extract gives, widened", "[serve]") {
  random_source random(14);
  temp_dir const dir;
  auto const models = write_llamas(dir.path(), random_config(random), random, dtype::bf16, 3);
  std::vector<braid::checkpoint> const experts(models.begin() + 1, models.end());
  braid::run(merge{{.residual = braid::residual::ternary{}, .groups = 1}}, models[0], experts, dir.path() / "merged");
  braid::grouped_checkpoint const grouped(dir.path() / "merged");
  for (auto const& t : grouped.tensors()) {
    if (t.shape.size() != 2) { continue; }
    braid::row_linear const linear{braid::pool_rows(grouped, t.name)};
    std::vector<float> row(static_cast<std::size_t>(t.row_elements));
    for (std::size_t e = 0; e < 3; ++e) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(t.channels * t.row_elements) * 2);
      grouped.read(t.name, e, bytes);
      for (index_t c = 0; c < t.channels; ++c) {
        linear.row(e, c, row);
        bool equal = true;
        for (index_t k = 0; k < t.row_elements; ++k) {
          equal = equal && row[static_cast<std::size_t>(k)] == load(t.type, bytes.data(), c * t.row_elements + k);
        }
        REQUIRE(equal);
      }
    }
    CHECK_THROWS_AS(linear.row(3, 0, row), braid::argument_error);
    CHECK_THROWS_AS(linear.row(0, t.channels, row), braid::argument_error);
    CHECK_THROWS_AS(linear.row(0, -1, row), braid::argument_error);
    row.pop_back();
    CHECK_THROWS_AS(linear.row(0, 0, row), braid::shape_error);
  }
}

}  // namespace braid_test
