// The queries in examples/queries: what docs/serving.md reports of them, and that nothing leaks from test to training.

#include "support/catch.hpp"

#include <braid/serve/router.hpp>
#include <braid/serve/router_quality.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

namespace {

using queries = std::vector<braid::labelled_query<std::string>>;

std::filesystem::path const root = std::filesystem::path(BRAID_TEST_SOURCE_DIR) / "examples";

queries read(std::string const& folder) {
  queries all;
  std::set<std::filesystem::path> files;
  for (auto const& entry : std::filesystem::directory_iterator(root / "queries" / folder)) { files.insert(entry.path()); }
  for (auto const& file : files) {
    std::ifstream in(file);
    int group = 0;
    for (std::string line; std::getline(in, line);) {
      if (line.empty()) {
        ++group;
      } else {
        all.push_back({line, file.stem().string(), !folder.starts_with("zoo") ? file.stem().string() + std::to_string(group) : ""});
      }
    }
  }
  return all;
}

queries zoo_prompts() {
  std::ifstream in(root / "zoo" / "prompts.json");
  auto const json = nlohmann::json::parse(in);
  queries all;
  for (auto const& [task, prompts] : json.at("tasks").items()) {
    for (auto const& p : prompts) { all.push_back({p.at(0).get<std::string>(), task}); }
  }
  return all;
}

/// The text as a router of default options reads it.
std::set<std::string> texts(queries const& q, bool fold_digits) {
  std::set<std::string> all;
  for (auto const& one : q) { all.insert(braid::detail::plain_text(one.query, true, fold_digits)); }
  return all;
}

std::size_t common(std::set<std::string> const& a, std::set<std::string> const& b) {
  std::size_t n = 0;
  for (auto const& text : a) { n += b.count(text); }
  return n;
}

}  // namespace

TEST_CASE("queries for training and for tests never overlap", "[router]") {
  auto const train = read("natural/train");
  auto const test = read("natural/test");
  CHECK(train.size() == 6 * 400);
  CHECK(test.size() == 6 * 200);
  CHECK(texts(train, true).size() == train.size());  // whatever the numbers in them
  CHECK(texts(test, true).size() == test.size());
  CHECK(common(texts(train, true), texts(test, true)) == 0);
  auto const written_train = read("written/train");
  auto const written_test = read("written/test");
  CHECK(written_test.size() == 6 * 200);
  CHECK(texts(written_test, true).size() == written_test.size());
  for (auto const& tests : {test, written_test}) {
    CHECK(common(texts(written_train, true), texts(tests, true)) == 0);
    CHECK(common(texts(train, true), texts(tests, true)) == 0);
  }
  auto const zoo_train = read("zoo/train");
  CHECK(zoo_train.size() == 4 * 300);
  CHECK(common(texts(zoo_train, false), texts(zoo_prompts(), false)) == 0);
  CHECK(common(texts(zoo_train, false), texts(read("zoo/bare"), false)) == 0);
}

TEST_CASE("the router reaches 0.95 on queries in natural English", "[router]") {
  auto const r = braid::router<>::train(read("natural/train"));
  CHECK(r.training().converged);
  auto const q = braid::evaluate(r, read("natural/test"));
  CHECK(q.accuracy() >= 0.95);
  CHECK(q.sure_accuracy() >= 0.97);
  CHECK(q.sure_accuracy() > q.accuracy());
  CHECK(q.calibration_error <= 0.06);
}

TEST_CASE("with written queries beside those of templates the router reaches 0.92 on a blind test", "[router]") {
  auto queries = read("natural/train");
  for (auto& one : read("written/train")) { queries.push_back(std::move(one)); }
  auto const r = braid::router<>::train(queries, braid::hashed_ngrams(), {.parts = 0});
  CHECK(braid::evaluate(r, read("written/test")).accuracy() >= 0.92);
  CHECK(braid::evaluate(r, read("natural/test")).accuracy() >= 0.98);
}

TEST_CASE("the router tells the zoo's tasks apart where that can be done, and is unsure where not", "[router]") {
  auto const r = braid::router<>::train(read("zoo/train"));
  CHECK(braid::evaluate(r, zoo_prompts()).accuracy() == 1.0);
  CHECK(braid::evaluate(r, read("zoo/bare")).accuracy() == 1.0);
  // Random letters, to be sorted, enciphered or looked up: nobody can know.
  queries sums, words;
  for (auto const& one : read("zoo/wordless")) { (one.expert == "add" ? sums : words).push_back(one); }
  auto const told = braid::evaluate(r, sums);
  CHECK(told.accuracy() == 1.0);
  CHECK(told.unsure == 0);
  auto const guessed = braid::evaluate(r, words);
  CHECK(guessed.accuracy() < 0.5);
  CHECK(static_cast<double>(guessed.unsure) > 0.9 * static_cast<double>(guessed.queries));
}
