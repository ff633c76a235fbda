#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/temp_dir.hpp"
#include "support/threads.hpp"

#include <braid/serve.hpp>

#include <cstring>
#include <fstream>

using namespace braid_test;
using braid::labelled_query;
using braid::router_options;

namespace {

using text_query = labelled_query<std::string>;
using dense_query = labelled_query<std::vector<float>>;

/// Queries of three experts, told apart by some of their words.
std::vector<text_query> word_queries(random_source& random, int each) {
  std::vector<std::string> const shared{"please", "tell", "me", "about", "the", "a", "now", "what", "is", "for"};
  std::vector<std::pair<std::string, std::vector<std::string>>> const own{
      {"code", {"compile", "function", "pointer", "python", "loop"}},
      {"law", {"court", "contract", "lawyer", "statute", "tenant"}},
      {"maths", {"sum", "integral", "triangle", "equation", "prime"}}};
  std::vector<text_query> all;
  for (auto const& [expert, words] : own) {
    for (int i = 0; i < each; ++i) {
      std::string text;
      for (int w = random.between(3, 7); w > 0; --w) { text += random.one_of(shared) + " "; }
      text += random.one_of(words);
      all.push_back({text + "?", expert, random.chance(0.3) ? "g" + std::to_string(random.below(8)) : std::string()});
    }
  }
  return all;
}

std::vector<std::byte> bytes_of(std::filesystem::path const& dir) {
  std::ifstream in(dir / "router.safetensors", std::ios::binary);
  std::string const text{std::istreambuf_iterator<char>(in), {}};
  auto const b = std::as_bytes(std::span(text));
  return {b.begin(), b.end()};
}

/// A label drawn from the probabilities that the point itself implies.
dense_query noisy_query(random_source& random) {
  std::vector<float> const x{static_cast<float>(random.bell()), static_cast<float>(random.bell())};
  double const length = std::sqrt(static_cast<double>(x[0] * x[0] + x[1] * x[1]));
  double const p = 1.0 / (1.0 + std::exp(-3.0 * static_cast<double>(x[0]) / length));
  return {x, random.chance(p) ? "right" : "left"};
}

}  // namespace

TEST_CASE("a router tells tasks apart by their words", "[router]") {
  random_source random(1);
  auto const r = braid::router<>::train(word_queries(random, 80));
  CHECK(r.experts() == std::vector<std::string>{"code", "law", "maths"});
  CHECK(r.training().converged);
  CHECK(r.training().held_out_accuracy > 0.97);
  auto const q = braid::evaluate(r, word_queries(random, 100));
  CHECK(q.queries == 300);
  CHECK(q.accuracy() > 0.97);
  for (auto const& query : word_queries(random, 20)) {
    auto const to = r.route(query.query);
    double sum = 0.0;
    for (double const p : to.probability) { sum += p; }
    CHECK(sum == Catch::Approx(1.0));
    CHECK(to.confidence == to.probability[to.best]);
    CHECK(to.confidence == *std::max_element(to.probability.begin(), to.probability.end()));
    CHECK(to.unsure == (to.confidence < r.threshold()));
  }
}

TEST_CASE("a router has the same bytes on any number of threads and in any order of experts", "[router]") {
  allow_many_threads();
  random_source random(2);
  auto const queries = word_queries(random, 40);
  std::vector<text_query> other_order;
  for (char const* expert : {"maths", "code", "law"}) {
    for (auto const& q : queries) {
      if (q.expert == expert) { other_order.push_back(q); }
    }
  }
  temp_dir const dir;
  std::vector<std::byte> first;
  for (int threads : {1, 2, 5}) {
    auto const path = dir.path() / std::to_string(threads);
    braid::router<>::train(threads == 2 ? other_order : queries, braid::hashed_ngrams(), {}, braid::cpu(threads)).save(path);
    if (first.empty()) { first = bytes_of(path); }
    CHECK(first.size() > 1000);
    CHECK(bytes_of(path) == first);
  }
}

TEST_CASE("a router that is sure of p is right in p of the cases", "[router]") {
  random_source random(3);
  std::vector<dense_query> train, test;
  for (int i = 0; i < 4000; ++i) { train.push_back(noisy_query(random)); }
  for (int i = 0; i < 8000; ++i) { test.push_back(noisy_query(random)); }
  braid::dense_rows const rows("points", 2);
  auto const r = braid::router<braid::dense_rows>::train(train, rows);
  auto const q = braid::evaluate(r, test);
  CHECK(q.calibration_error < 0.03);
  CHECK(q.accuracy() > 0.8);
  // Without calibration, and held back by a large l2, it is far too modest: the calibration's work can be seen.
  auto const held_back = braid::router<braid::dense_rows>::train(train, rows, {.l2 = 0.5, .parts = 0});
  auto const calibrated = braid::router<braid::dense_rows>::train(train, rows, {.l2 = 0.5});
  CHECK(braid::evaluate(held_back, test).calibration_error > 0.1);
  CHECK(braid::evaluate(calibrated, test).calibration_error < 0.04);
  CHECK(held_back.temperature() == 1.0);
  CHECK(calibrated.temperature() < 0.5);
}

TEST_CASE("every expert counts the same, however many queries it has", "[router]") {
  std::vector<dense_query> queries;
  for (int i = 0; i < 1000; ++i) { queries.push_back({{1.0f, 0.0f}, i < 990 ? "many" : "few"}); }
  auto const r = braid::router<braid::dense_rows>::train(queries, braid::dense_rows("d", 2), {.parts = 0});
  auto const to = r.route(std::vector<float>{1.0f, 0.0f});
  CHECK(to.probability[0] == Catch::Approx(0.5).margin(1e-3));
}

TEST_CASE("an unsure query goes to the default expert", "[router]") {
  random_source random(4);
  auto r = braid::router<>::train(word_queries(random, 60), braid::hashed_ngrams(), {.threshold = 0.6, .default_expert = "law"});
  CHECK(r.default_expert() == 1);
  for (char const* nothing : {"", "   ", "\xF0\x9F\x8C\x8D"}) {
    auto const to = r.route(std::string_view(nothing));
    CHECK(to.unsure);
    CHECK(to.confidence < 0.6);
    CHECK(r.experts()[to.expert] == "law");
  }
  auto const sure = r.route("please integral equation triangle");
  CHECK(!sure.unsure);
  CHECK(r.experts()[sure.expert] == "maths");
  r.set_default_expert("code");
  CHECK(r.experts()[r.route("").expert] == "code");
  r.set_threshold(0.0);
  CHECK(!r.route("").unsure);
  r.set_threshold(1.0);
  auto const strict = r.route("please integral equation triangle");
  CHECK((strict.unsure && strict.expert == 0 && strict.best == 2));
  CHECK_THROWS_AS(r.set_threshold(1.5), braid::argument_error);
  CHECK_THROWS_AS(r.set_default_expert("poetry"), braid::argument_error);
}

TEST_CASE("any function to a dense row can be the embedding", "[router]") {
  std::vector<float> const weights{0.5f, 2.0f, -1.0f};
  auto const embed = [&weights](std::string const& text) {
    std::vector<float> row(3);
    for (char const c : text) { row[static_cast<std::size_t>(c - 'a')] += weights[static_cast<std::size_t>(c - 'a')]; }
    return row;
  };
  braid::embedding_function<std::string, decltype(embed)> const embedding("letters", 3, embed);
  std::vector<text_query> queries;
  for (char const* text : {"aaab", "aab", "aaa", "ab"}) { queries.push_back({text, "a"}); }
  for (char const* text : {"ccb", "cccb", "cc", "bcc"}) { queries.push_back({text, "c"}); }
  auto const r = braid::router<braid::embedding_function<std::string, decltype(embed)>>::train(queries, embedding);
  CHECK(r.route("aaaa").best == 0);
  CHECK(r.route("ccbc").best == 1);
  temp_dir const dir;
  r.save(dir.path() / "r");
  auto const again = decltype(r)::load(dir.path() / "r", embedding);
  CHECK(again.route("aab").probability == r.route("aab").probability);
  decltype(embedding) const renamed("other letters", 3, embed);
  CHECK_THROWS_AS(decltype(r)::load(dir.path() / "r", renamed), braid::argument_error);
  CHECK_THROWS_AS(braid::router<>::load(dir.path() / "r"), braid::format_error);
}

TEST_CASE("training data and options that can't be meant are refused", "[router]") {
  random_source random(5);
  auto const queries = word_queries(random, 5);
  auto const refused = [&](router_options const& o) {
    CHECK_THROWS_AS(braid::router<>::train(queries, braid::hashed_ngrams(), o), braid::argument_error);
  };
  refused({.l2 = 0.0});
  refused({.l2 = -1.0});
  refused({.l2 = std::nan("")});
  refused({.parts = 1});
  refused({.parts = -3});
  refused({.threshold = -0.1});
  refused({.threshold = std::nan("")});
  refused({.default_expert = "poetry"});
  refused({.most_iterations = 0});
  refused({.tolerance = -1.0});
  auto const refused_queries = [&](std::vector<text_query> const& q) {
    CHECK_THROWS_AS(braid::router<>::train(q), braid::argument_error);
  };
  refused_queries({});
  refused_queries({{"one", "a"}, {"two", "a"}});
  refused_queries({{"one", "a"}, {"two", "a"}, {"three", "b c"}, {"four", "b c"}});
  refused_queries({{"one", "a"}, {"two", "b"}});  // nothing can be held out
  refused_queries({{"one", "a", "g"}, {"two", "a", "g"}, {"three", "b"}, {"four", "b"}});
  CHECK_NOTHROW(braid::router<>::train({{"one", "a"}, {"two", "b"}}, braid::hashed_ngrams(), {.parts = 0}));
  auto const r = braid::router<>::train(queries);
  CHECK_THROWS_AS(braid::evaluate(r, {{"one", "poetry"}}), braid::argument_error);
}

TEST_CASE("the quality of a router is counted query by query", "[router]") {
  random_source random(6);
  auto const r = braid::router<>::train(word_queries(random, 30), braid::hashed_ngrams(), {.threshold = 0.7});
  auto queries = word_queries(random, 50);
  for (std::size_t i = 0; i < queries.size(); i += 4) { queries[i].expert = "law"; }  // so that there are mistakes
  auto const q = braid::evaluate(r, queries);
  std::size_t right = 0, unsure = 0, right_sure = 0, served = 0;
  double entropy = 0.0;
  std::map<std::pair<std::size_t, std::size_t>, std::size_t> confusion;
  std::map<int, std::pair<double, double>> bins;  // by confidence: right ones, sum of confidences
  for (auto const& asked : queries) {
    auto const to = r.route(asked.query);
    std::size_t const expected = r.expert_number(asked.expert);
    bool const hit = to.best == expected;
    bool const sure = to.confidence >= 0.7;
    right += hit ? 1u : 0u;
    unsure += sure ? 0u : 1u;
    right_sure += hit && sure ? 1u : 0u;
    served += (sure ? to.best : 0) == expected ? 1u : 0u;
    entropy -= std::log(to.probability[expected]);
    ++confusion[{expected, to.best}];
    int b = 0;
    while (to.confidence > (b + 1) / 15.0) { ++b; }
    bins[b].first += hit ? 1.0 : 0.0;
    bins[b].second += to.confidence;
  }
  auto const n = static_cast<double>(queries.size());
  double calibration = 0.0;
  for (auto const& [b, sums] : bins) { calibration += std::abs(sums.first - sums.second) / n; }
  CHECK(q.queries == queries.size());
  CHECK(q.right == right);
  CHECK(right < queries.size());
  CHECK(q.unsure == unsure);
  CHECK(q.right_sure == right_sure);
  CHECK(q.served_right == served);
  CHECK(q.accuracy() == static_cast<double>(right) / n);
  CHECK(q.cross_entropy == Catch::Approx(entropy / n));
  CHECK(q.calibration_error == Catch::Approx(calibration));
  for (std::size_t i = 0; i < 9; ++i) { CHECK(q.confusion[i] == confusion[{i / 3, i % 3}]); }
  CHECK(std::isnan(braid::evaluate(r, {}).accuracy()));
}
