#include "support/golden.hpp"
#include "support/random_models.hpp"
#include "unit/io_support.hpp"

#include <braid/io/safetensors_file.hpp>
#include <braid/recipe/parse.hpp>
#include <braid/recipe/vocabulary.hpp>

#include <cstring>
#include <set>

using namespace braid_test;
using namespace braid::recipe;
using kind = braid::recipe::row_rule::kind_type;

namespace {

vocabulary words(std::vector<std::string> const& tokens, std::vector<std::string> const& added = {}) {
  vocabulary v;
  for (auto const& t : tokens) { v.entries.push_back({t, static_cast<int>(v.entries.size()), false}); }
  for (auto const& t : added) { v.entries.push_back({t, static_cast<int>(v.entries.size()), true}); }
  return v;
}

std::vector<std::string> texts(vocabulary const& v) {
  std::vector<std::string> all;
  for (auto const& e : v.entries) { all.push_back(e.token); }
  return all;
}

vocabulary_owner owner(char const* name, vocabulary const& v) {
  return {{{name}}, &v, static_cast<int>(v.entries.size())};
}

row_rule row(int model, int r) { return {kind::row, {{model, r}}}; }

using dense = std::vector<std::vector<double>>;

dense read_matrix(std::filesystem::path const& file, std::string const& tensor) {
  braid::safetensors_file const f(file);
  for (auto const& t : f.tensors()) {
    if (t.name != tensor) { continue; }
    REQUIRE(t.type == braid::dtype::f32);
    dense m(static_cast<std::size_t>(t.shape[0]), std::vector<double>(static_cast<std::size_t>(t.shape[1])));
    auto const bytes = f.bytes(t);
    for (std::size_t i = 0, at = 0; i < m.size(); ++i) {
      for (double& x : m[i]) {
        float value = 0.0f;
        std::memcpy(&value, bytes.data() + 4 * at++, 4);
        x = value;
      }
    }
    return m;
  }
  FAIL("no tensor " + tensor);
  return {};
}

/// A model's dense, brought to the plan's vocabulary.
dense arranged(vocabulary_plan const& plan, std::vector<dense> const& inputs, std::size_t model) {
  std::size_t const cols = inputs[0][0].size();
  dense out(static_cast<std::size_t>(plan.rows), std::vector<double>(cols, 0.0));
  std::vector<double> mean(cols, 0.0);
  for (std::size_t r = 0; r < out.size(); ++r) {
    row_rule const& rule = plan.of_model[model][r];
    for (auto const& from : rule.rows) {
      for (std::size_t c = 0; c < cols; ++c) {
        out[r][c] += inputs.at(static_cast<std::size_t>(from.model)).at(static_cast<std::size_t>(from.row))[c] /
                     static_cast<double>(rule.rows.size());
      }
    }
    if (rule.kind == kind::filling) { continue; }
    for (std::size_t c = 0; c < cols; ++c) { mean[c] += out[r][c] / static_cast<double>(plan.tokens.entries.size()); }
  }
  for (std::size_t r = 0; r < out.size(); ++r) {
    if (plan.of_model[model][r].kind == kind::filling) { out[r] = mean; }
  }
  return out;
}

}  // namespace

TEST_CASE("a union keeps the base's numbers and adds what others have, added tokens last", "[recipe][vocabulary]") {
  auto const base = words({"a", "b"}, {"<s>"});
  auto const x = words({"c", "a", "d"}, {"<x>", "<s>"});
  auto const y = words({"d", "e"}, {"<y>"});
  auto const plan = plan_vocabulary({}, {owner("base", base), owner("x", x), owner("y", y)}, 0);
  CHECK(texts(plan.tokens) == std::vector<std::string>{"a", "b", "<s>", "c", "d", "e", "<x>", "<y>"});
  CHECK(plan.rows == 8);
  CHECK(plan.of_model[1][0] == row(1, 1));  // its own
  CHECK(plan.of_model[2][0] == row(0, 0));  // the base's
  CHECK(plan.of_model[0][3] == row(1, 0));  // the sole owner's
  CHECK(plan.of_model[0][4] == row_rule{kind::mean, {{1, 2}, {2, 0}}});
  CHECK(plan.of_model[1][4] == row(1, 2));
}

TEST_CASE("without a base model shared tokens are averaged", "[recipe][vocabulary]") {
  auto const a = words({"p", "q"});
  auto const b = words({"q", "p", "r"});
  auto const c = words({"r"});
  tokenizer_section section;
  section.source = tokenizer_section::source_type::model;
  section.model = model_reference{{"b"}};
  auto const plan = plan_vocabulary(section, {owner("a", a), owner("b", b), owner("c", c)}, std::nullopt);
  CHECK(plan.of_model[2][0] == row_rule{kind::mean, {{0, 1}, {1, 0}}});
  CHECK(plan.of_model[0][2] == row_rule{kind::mean, {{1, 2}, {2, 0}}});
}

TEST_CASE("tokens have the sources that a recipe gives them", "[recipe][vocabulary]") {
  auto const base = words({"a", "b"});
  auto const x = words({"a", "c"});
  auto const section = *parse(
                            "merge_method: linear\nmodels: [{model: base}, {model: x}]\n"
                            "tokenizer: {source: union, pad_to_multiple_of: 8, tokens: {a: {source: x, force: true}, "
                            "c: {source: {kind: zero}},\n"
                            "  new: {source: {kind: model_token, model: x, token: c}}, other: {source: {kind: "
                            "model_token, model: base, token_id: 1}}, "
                            "nobody: }}\n")
                            .tokenizer;
  auto const plan = plan_vocabulary(section, {owner("base", base), owner("x", x)}, 0);
  CHECK(texts(plan.tokens) == std::vector<std::string>{"a", "b", "c", "new", "other", "nobody"});
  CHECK(plan.rows == 8);
  CHECK(plan.of_model[0][0] == row(1, 0));
  CHECK(plan.of_model[1][0] == row(1, 0));
  CHECK(plan.of_model[0][2] == row_rule{kind::zero, {}});
  CHECK(plan.of_model[1][2] == row(1, 1));
  CHECK(plan.of_model[0][3] == row(1, 1));
  CHECK(plan.of_model[1][4] == row(0, 1));
  CHECK(plan.of_model[1][5].kind == kind::zero);
  CHECK(plan.of_model[0][7].kind == kind::filling);
  CHECK(plan.notes.size() == 1);
}

TEST_CASE("tokens beyond a model's rows have no row", "[recipe][vocabulary]") {
  auto const base = words({"a", "b", "c"});
  auto const x = words({"a", "c", "d"});
  vocabulary_owner cut = owner("base", base);
  cut.rows = 2;
  auto const plan = plan_vocabulary({}, {cut, owner("x", x)}, 0);
  CHECK(texts(plan.tokens) == std::vector<std::string>{"a", "b", "c", "d"});
  CHECK(plan.of_model[0][2] == row(1, 1));
}

TEST_CASE("what can't be planned is refused", "[recipe][vocabulary]") {
  auto const base = words({"a"});
  auto const refuse = [&](std::string const& tokenizer) {
    auto const section =
        *parse("merge_method: linear\nmodels: [{model: base}, {model: x}]\ntokenizer: " + tokenizer + "\n").tokenizer;
    return message_of([&] { (void)plan_vocabulary(section, {owner("base", base)}, 0); });
  };
  CHECK(refuse("{source: y}").find("the tokenizer of y is wanted") == 0);
  CHECK(refuse("{tokens: {q: {source: y}}}").find("a token's row is to come from y, which isn't merged") == 0);
  CHECK(refuse("{tokens: {q: {source: base}}}") == "the model base has no row for the token \"q\"");
  CHECK(refuse("{tokens: {q: {source: {kind: model_token, model: base, token_id: 1}}}}") ==
        "the model base has no row for token number 1");
  CHECK_THROWS_AS(plan_vocabulary({}, {{{{"base"}}, nullptr, 3}}, 0), braid::argument_error);
}

TEST_CASE("every row of a random plan is a model's own row, or one of another", "[recipe][vocabulary]") {
  random_source random(4711);
  for (int trial = 0; trial < 100; ++trial) {
    auto const n = static_cast<std::size_t>(random.between(1, 4));
    std::vector<vocabulary> all(n);
    std::vector<vocabulary_owner> owners;
    for (std::size_t m = 0; m < n; ++m) {
      std::set<std::string> chosen;
      for (index_t k = random.between(1, 12); k > 0; --k) {
        chosen.insert("t" + std::to_string(random.between(0, 20)));
      }
      all[m] = words({chosen.begin(), chosen.end()});
      owners.push_back({{{"m" + std::to_string(m)}}, &all[m], static_cast<int>(all[m].entries.size())});
    }
    auto const plan = plan_vocabulary({}, owners, 0);
    CHECK(plan.rows == static_cast<int>(plan.tokens.entries.size()));
    for (std::size_t m = 0; m < n; ++m) {
      auto const own = all[m].ids();
      for (auto const& e : plan.tokens.entries) {
        row_rule const& rule = plan.of_model[m][static_cast<std::size_t>(e.id)];
        if (auto const it = own.find(e.token); it != own.end()) {
          CHECK(rule == row(static_cast<int>(m), it->second));
          continue;
        }
        REQUIRE_FALSE(rule.rows.empty());
        for (auto const& from : rule.rows) {
          CHECK(all[static_cast<std::size_t>(from.model)].entries[static_cast<std::size_t>(from.row)].token == e.token);
        }
      }
    }
  }
}

TEST_CASE("vocabularies are read from every kind of tokenizer.json", "[recipe][vocabulary]") {
  auto const read = [](char const* text) { return read_vocabulary(nlohmann::json::parse(text), "t.json"); };
  CHECK(
      texts(read(
          R"({"model": {"vocab": {"b": 1, "a": 0}}, "added_tokens": [{"id": 2, "content": "<s>"}, {"id": 1, "content": "b"}]})")) ==
      std::vector<std::string>{"a", "b", "<s>"});
  CHECK(texts(read(R"({"model": {"vocab": [["x", 0.0], ["y", -1.5]]}})")) == std::vector<std::string>{"x", "y"});
  for (char const* const bad :
       {"{}", R"({"model": {}})", R"({"model": {"vocab": 3}})", R"({"model": {"vocab": {"a": -1}}})",
        R"({"model": {"vocab": {"a": 0, "b": 0}}})", R"({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]})",
        R"({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "a"}]})",
        R"({"model": {"vocab": [[]]}})"}) {
    INFO(bad);
    CHECK(code_of([&] { (void)read(bad); }) == number(braid::format_code::tokenizer_json));
  }
}

TEST_CASE("embeddings are brought to one vocabulary as mergekit does", "[recipe][vocabulary][golden]") {
  int cases = 0;
  for (auto const& e : golden_entries()) {
    if (!e.contains("vocabulary")) { continue; }
    INFO(e.at("name").get<std::string>());
    ++cases;
    auto const r = parse_file(golden_dir() / e.at("recipe").get<std::string>());
    std::vector<vocabulary_owner> owners;
    std::vector<vocabulary> vocabularies;
    std::vector<double> weights;
    std::optional<std::size_t> base;
    for (auto const& m : r.modules[0].models) {
      std::filesystem::path const dir = m.model.model.path;
      vocabularies.push_back(read_vocabulary(golden_json(dir / "tokenizer.json"), dir));
      if (r.base_model && m.model == *r.base_model) { base = owners.size(); }
      owners.push_back({m.model, nullptr, golden_json(dir / "config.json").at("vocab_size").get<int>()});
      weights.push_back(*detail::read_number(find(m.settings, "weight")->conditions[0].values[0].text));
    }
    for (std::size_t m = 0; m < owners.size(); ++m) { owners[m].tokens = &vocabularies[m]; }
    auto const plan = plan_vocabulary(*r.tokenizer, owners, base);
    auto const expected_rows = golden_json(e.at("vocabulary").get<std::string>());
    CHECK(expected_rows.size() == plan.tokens.entries.size());
    for (char const* const tensor : {"model.embed_tokens.weight", "lm_head.weight"}) {
      std::vector<dense> inputs;
      for (auto const& o : owners) {
        inputs.push_back(read_matrix(golden_dir() / o.model.model.path / "model.safetensors", tensor));
      }
      dense const expected = read_matrix(golden_dir() / e.at("output").get<std::string>(), tensor);
      CHECK(static_cast<int>(expected.size()) == plan.rows);
      double total = 0.0;
      for (double const w : weights) { total += w; }
      dense merged(static_cast<std::size_t>(plan.rows), std::vector<double>(expected[0].size(), 0.0));
      for (std::size_t m = 0; m < owners.size(); ++m) {
        dense const x = arranged(plan, inputs, m);
        for (std::size_t i = 0; i < x.size(); ++i) {
          for (std::size_t c = 0; c < x[i].size(); ++c) { merged[i][c] += weights[m] / total * x[i][c]; }
        }
      }
      double largest = 0.0;
      auto const compare = [&](std::size_t ours, std::size_t theirs) {
        for (std::size_t c = 0; c < merged[ours].size(); ++c) {
          largest = std::max(largest, std::abs(merged[ours][c] - expected[theirs][c]));
        }
      };
      for (auto const& t : plan.tokens.entries) {
        compare(static_cast<std::size_t>(t.id), expected_rows.at(t.token).get<std::size_t>());
      }
      for (std::size_t i = plan.tokens.entries.size(); i < expected.size(); ++i) { compare(i, i); }
      CHECK(largest < 1e-7);
    }
  }
  CHECK(cases == 7);
}

TEST_CASE("rows that are filled, and rows that go, are counted", "[recipe][vocabulary]") {
  vocabulary_plan plan;
  plan.rows = 5;
  plan.of_model = {{{kind::row, {{0, 0}}}, {kind::row, {{0, 1}}}, {kind::row, {{0, 2}}}, {kind::row, {{0, 3}}}, {kind::row, {{0, 4}}}},
                   {{kind::row, {{1, 0}}}, {kind::row, {{0, 1}}}, {kind::mean, {{0, 1}, {1, 1}}}, {kind::zero, {}}, {kind::filling, {}}}};
  CHECK(filling_note(plan, 0, 5) == "");
  CHECK(filling_note(plan, 0, 7) == "2 of its own rows not used");
  CHECK(filling_note(plan, 1, 3) ==
        "rows filled: 1 from another model, 1 by a mean, 1 with zeros, 1 without a token; 2 of its own rows not used");
}
