#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/serve/hashed_ngrams.hpp>

#include <cctype>
#include <limits>
#include <map>
#include <string>

using namespace braid_test;
using braid::feature;
using braid::feature_row;
using braid::hashed_ngrams;
using braid::hashed_ngrams_options;

namespace {

/// Words, signs, blanks, digits, characters of two to four bytes, and bytes that belong nowhere.
std::string random_text(random_source& random, int pieces) {
  static std::string const alphabet[] = {"the", "Patient", "x", "SQL", "don't", "42", "7", "+", "=", "?", " ", "  ", "\t", "\n",
                                         "é", "ß", "€", "漢", "\xF0\x9F\x8C\x8D", "\x80", "\xFF", "_", "'"};
  std::string text;
  for (int i = 0; i < pieces; ++i) { text += random.one_of(alphabet); }
  return text;
}

hashed_ngrams_options random_options(random_source& random) {
  hashed_ngrams_options o;
  o.dimension = random.chance(0.3) ? random.between(1, 40) : random.between(1, 1 << 16);
  o.least_chars = random.between(1, 4);
  o.most_chars = random.chance(0.2) ? 0 : random.between(o.least_chars, 6);
  o.least_words = random.between(1, 2);
  o.most_words = random.chance(0.2) && o.most_chars != 0 ? 0 : random.between(o.least_words, 3);
  o.lower_case = random.chance(0.5);
  o.fold_digits = random.chance(0.5);
  return o;
}

/// The docstring, by the plainest code.
std::map<std::uint32_t, double> reference(hashed_ngrams_options const& o, std::string const& text) {
  std::string plain = " ";
  for (char c : text) {
    if (c == ' ' || (c >= '\t' && c <= '\r')) {
      if (plain.back() != ' ') { plain += ' '; }
    } else if (c >= '0' && c <= '9') {
      plain += o.fold_digits ? '0' : c;
    } else {
      plain += o.lower_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    }
  }
  if (plain.back() != ' ') { plain += ' '; }
  if (plain == " ") { plain.clear(); }

  std::vector<std::string> letters;
  for (char const c : plain) {
    if (letters.empty() || (c & '\xC0') != '\x80') {
      letters.emplace_back(1, c);
    } else {
      letters.back() += c;
    }
  }
  auto const in_word = [](char c) { return c == '_' || (c & '\x80') != 0 || std::isalnum(static_cast<unsigned char>(c)) != 0; };
  std::vector<std::string> words;
  bool open = false;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    char const c = plain[i];
    bool const joins = open && c == '\'' && i + 1 < plain.size() && in_word(plain[i + 1]);
    if (in_word(c) || joins) {
      if (!open) { words.emplace_back(); }
      words.back() += c;
      open = true;
    } else {
      if (c != ' ') { words.emplace_back(1, c); }
      open = false;
    }
  }
  std::map<std::uint32_t, double> row;
  auto const family = [&](std::vector<std::string> const& parts, int least, int most, std::string const& between, std::uint64_t seed) {
    std::map<std::uint64_t, int> count;
    for (int n = least; n <= most; ++n) {
      for (std::size_t i = 0; i + static_cast<std::size_t>(n) <= parts.size(); ++i) {
        std::string gram = parts[i];
        for (int k = 1; k < n; ++k) { gram += between + parts[i + static_cast<std::size_t>(k)]; }
        ++count[XXH3_64bits_withSeed(gram.data(), gram.size(), seed)];
      }
    }
    std::map<std::uint32_t, double> own;
    for (auto const& [h, times] : count) {
      auto const index = static_cast<std::uint32_t>((h >> 1) % static_cast<std::uint64_t>(o.dimension));
      own[index] += (h & 1) != 0 ? -std::sqrt(times) : std::sqrt(times);
    }
    double squares = 0.0;
    for (auto const& [index, x] : own) { squares += x * x; }
    for (auto const& [index, x] : own) { row[index] += squares > 0.0 ? x / std::sqrt(squares) : 0.0; }
  };
  if (o.most_chars != 0) { family(letters, o.least_chars, o.most_chars, "", 0); }
  if (o.most_words != 0) { family(words, o.least_words, o.most_words, " ", 1); }
  double squares = 0.0;
  for (auto const& [index, x] : row) { squares += x * x; }
  for (auto& [index, x] : row) { x = squares > 0.0 ? x / std::sqrt(squares) : 0.0; }
  return row;
}

double at(feature_row const& row, std::uint32_t index) {
  for (feature const& f : row) {
    if (f.index == index) { return static_cast<double>(f.value); }
  }
  return 0.0;
}

}  // namespace

TEST_CASE("hashed n-grams are what their documentation says", "[router]") {
  random_source random(1);
  for (int round = 0; round < 400; ++round) {
    auto const options = random_options(random);
    std::string const text = random_text(random, random.between(0, 30));
    CAPTURE(round, text, options.dimension);
    feature_row const row = hashed_ngrams(options)(text);
    auto const expected = reference(options, text);
    double squares = 0.0;
    for (std::size_t i = 0; i < row.size(); ++i) {
      REQUIRE((i == 0 || row[i - 1].index < row[i].index));
      REQUIRE(row[i].index < static_cast<std::uint64_t>(options.dimension));
      REQUIRE(expected.count(row[i].index) == 1);
      squares += static_cast<double>(row[i].value) * static_cast<double>(row[i].value);
    }
    for (auto const& [index, x] : expected) { REQUIRE(at(row, index) == Catch::Approx(x).margin(1e-6)); }
    if (!row.empty()) { REQUIRE(squares == Catch::Approx(1.0).epsilon(1e-5)); }
  }
}

TEST_CASE("case, digits and blanks change no feature where they are folded", "[router]") {
  hashed_ngrams const folded;
  CHECK(folded("Add 12 and 345!") == folded("  add\t98 and\n671!  "));
  CHECK(folded("add 12") != folded("add 123"));
  hashed_ngrams const exact({.lower_case = false, .fold_digits = false});
  CHECK(exact("add 12") != exact("Add 12"));
  CHECK(exact("add 12") != exact("add 13"));
  CHECK(exact("add 12") == exact("add  12 "));
}

TEST_CASE("text without anything in it has no features", "[router]") {
  for (char const* text : {"", " ", "\t \r\n"}) { CHECK(hashed_ngrams()(text).empty()); }
  CHECK(!hashed_ngrams()("a").empty());
}

TEST_CASE("hashed n-grams have their stored values", "[router]") {
  // From Python: h = xxhash.xxh3_64_intdigest(b"say hi", 1); the index is (h >> 1) % 1000, the sign minus if h is odd.
  auto const only = [](hashed_ngrams_options o, char const* text) {
    feature_row const row = hashed_ngrams(o)(text);
    REQUIRE(row.size() == 1);
    return row[0];
  };
  hashed_ngrams_options const word{.dimension = 1000, .most_chars = 0, .most_words = 1};
  CHECK(only(word, "Hi") == feature{944, 1.0f});
  CHECK(only(word, "\u6F22") == feature{72, 1.0f});
  CHECK(only({.dimension = 1000, .most_chars = 0, .least_words = 2, .most_words = 2}, "Say hi") == feature{333, -1.0f});
  CHECK(only({.dimension = 32768, .least_chars = 4, .most_chars = 4, .most_words = 0}, "hi") == feature{27293, 1.0f});
}

TEST_CASE("options of n-grams that can't be meant are refused", "[router]") {
  auto const refused = [](hashed_ngrams_options o) { CHECK_THROWS_AS(hashed_ngrams(o), braid::argument_error); };
  refused({.dimension = 0});
  refused({.dimension = (braid::index_t{1} << 26) + 1});
  refused({.least_chars = 0});
  refused({.least_chars = 3, .most_chars = 2});
  refused({.most_chars = 17});
  refused({.least_words = 3, .most_words = 1});
  refused({.most_chars = 0, .most_words = 0});
  CHECK_NOTHROW(hashed_ngrams({.most_chars = 0}));
}

TEST_CASE("n-grams come back from their description", "[router]") {
  random_source random(2);
  for (int round = 0; round < 100; ++round) {
    auto const options = random_options(random);
    CHECK(hashed_ngrams::from_json(hashed_ngrams(options).to_json()).options() == options);
  }
  auto j = hashed_ngrams().to_json();
  j["name"] = "other";
  CHECK_THROWS_AS(hashed_ngrams::from_json(j), braid::argument_error);
  j = hashed_ngrams().to_json();
  j.erase("words");
  CHECK_THROWS_AS(hashed_ngrams::from_json(j), braid::argument_error);
  j = hashed_ngrams().to_json();
  j["dimension"] = -1;
  CHECK_THROWS_AS(hashed_ngrams::from_json(j), braid::argument_error);
}

TEST_CASE("a dense row becomes its direction", "[router]") {
  random_source random(3);
  for (int round = 0; round < 100; ++round) {
    std::vector<float> row(static_cast<std::size_t>(random.between(1, 60)));
    double squares = 0.0;
    for (float& x : row) {
      x = random.chance(0.2) ? 0.0f : static_cast<float>(random.bell());
      squares += static_cast<double>(x) * static_cast<double>(x);
    }
    auto const n = static_cast<braid::index_t>(row.size());
    feature_row const f = braid::dense_features(row, n);
    for (std::uint32_t i = 0; i < row.size(); ++i) {
      CHECK(at(f, i) == Catch::Approx(row[i] == 0.0f ? 0.0 : static_cast<double>(row[i]) / std::sqrt(squares)));
    }
    CHECK(braid::dense_rows("test", n)(row) == f);
  }
  std::vector<float> const two{1.0f, 2.0f};
  CHECK_THROWS_AS(braid::dense_features(two, 3), braid::shape_error);
  std::vector<float> const bad{1.0f, std::numeric_limits<float>::quiet_NaN()};
  CHECK_THROWS_AS(braid::dense_features(bad, 2), braid::value_error);
  CHECK_THROWS_AS(braid::dense_rows("none", 0), braid::argument_error);
}
