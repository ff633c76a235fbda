#include "support/catch.hpp"

#include <braid/core/glob.hpp>

#include <cstddef>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {
using braid::glob;
using braid::glob_match;

/// What a malformed pattern is told; empty where it is accepted.
std::string complaint(std::string_view pattern) {
  try {
    glob const accepted(pattern);
    return {};
  } catch (braid::argument_error const& e) { return e.what(); }
}
bool complains(std::string_view pattern, std::string_view of) {
  return complaint(pattern).find(of) != std::string::npos;
}

/// Backtracking over a syntax of lists: slow, and too short to be wrong in the same way.
struct reference_node {
  char kind = 'c';                                        // c: character, ?: any, *: run, [: set, {: alternatives
  std::string characters;                                 // c, [
  std::vector<std::vector<reference_node>> alternatives;  // {
};
using reference_pattern = std::vector<reference_node>;

bool reference_match(reference_pattern const& p, std::size_t at, std::string_view text) {
  if (at == p.size()) { return text.empty(); }
  reference_node const& n = p[at];
  if (n.kind == '*') {
    for (std::size_t skip = 0; skip <= text.size(); ++skip) {
      if (reference_match(p, at + 1, text.substr(skip))) { return true; }
    }
    return false;
  }
  if (n.kind == '{') {
    for (reference_pattern const& a : n.alternatives) {
      reference_pattern whole = a;
      whole.insert(whole.end(), p.begin() + static_cast<std::ptrdiff_t>(at) + 1, p.end());
      if (reference_match(whole, 0, text)) { return true; }
    }
    return false;
  }
  if (text.empty()) { return false; }
  if (n.kind != '?' && n.characters.find(text[0]) == std::string::npos) { return false; }
  return reference_match(p, at + 1, text.substr(1));
}

struct random_pattern {
  std::mt19937& bits;

  unsigned below(unsigned n) const { return static_cast<unsigned>(bits() % n); }

  reference_pattern operator()(int depth, std::string& text) const {
    reference_pattern p;
    for (unsigned n = below(5); n > 0; --n) {
      reference_node node;
      switch (below(depth > 0 ? 10 : 8)) {
        case 0:
        case 1: node.kind = '*'; break;
        case 2: node.kind = '?'; break;
        case 3:
          node.kind = '[';
          node.characters = below(2) == 0 ? "ab" : "c.";
          // The alphabet of the texts is abc. : a set and the inverse of the others are the same.
          text += node.characters == "ab" ? (below(2) == 0 ? "[a-b]" : "[!c.]") : (below(2) == 0 ? "[c.]" : "[^ab]");
          break;
        case 8:
        case 9:
          node.kind = '{';
          text += '{';
          for (unsigned k = 0, count = 1 + below(3); k < count; ++k) {
            if (k > 0) { text += ','; }
            std::string inner;
            node.alternatives.push_back((*this)(depth - 1, inner));
            if (count == 1 && inner.empty()) {  // {} is refused
              inner = "a";
              node.alternatives.back() = {{'c', "a", {}}};
            }
            text += inner;
          }
          text += '}';
          break;
        default:
          node.characters = std::string(1, "abc."[below(4)]);
          if (below(8) == 0) { text += '\\'; }
          text += node.characters;
      }
      if (node.kind == '*' || node.kind == '?') { text += node.kind; }
      p.push_back(node);
    }
    return p;
  }
};
}  // namespace

TEST_CASE("a pattern without special characters matches itself only", "[glob]") {
  CHECK(glob_match("lm_head.weight", "lm_head.weight"));
  CHECK_FALSE(glob_match("lm_head.weight", "lm_head.weights"));
  CHECK_FALSE(glob_match("lm_head.weight", "lm_head_weight"));
  CHECK_FALSE(glob_match("lm_head.weight", "model.lm_head.weight"));
  CHECK_FALSE(glob_match("lm_head.weight", ""));
  CHECK(glob_match("", ""));
  CHECK_FALSE(glob_match("", "a"));
}

TEST_CASE("a star is any run, dots included", "[glob]") {
  CHECK(glob_match("*", ""));
  CHECK(glob_match("*", "model.layers.0"));
  CHECK(glob_match("model.*.weight", "model.layers.0.mlp.weight"));
  CHECK_FALSE(glob_match("model.*.weight", "model.weight"));
  CHECK(glob_match("a**b", "ab"));
  CHECK_FALSE(glob_match("ab*ba", "aba"));
  CHECK(glob_match("ab*ba", "abba"));
  CHECK(glob_match("*a*b*", "xxaxxbxx"));
  CHECK_FALSE(glob_match("*a*b*", "xxbxxaxx"));
}

TEST_CASE("a question mark is one character", "[glob]") {
  CHECK(glob_match("ln_?", "ln_f"));
  CHECK_FALSE(glob_match("ln_?", "ln_"));
  CHECK_FALSE(glob_match("ln_?", "ln_10"));
  CHECK(glob_match("?*?", "ab"));
  CHECK_FALSE(glob_match("?*?", "a"));
}

TEST_CASE("sets hold characters, ranges and their opposites", "[glob]") {
  CHECK(glob_match("w[123]", "w2"));
  CHECK_FALSE(glob_match("w[123]", "w4"));
  CHECK(glob_match("[a-cx-z]", "y"));
  CHECK_FALSE(glob_match("[a-cx-z]", "d"));
  CHECK(glob_match("[!a-z]", "A"));
  CHECK_FALSE(glob_match("[!a-z]", "q"));
  CHECK_FALSE(glob_match("[!a-z]", ""));
  CHECK(glob_match("[^a-z]", "7"));
  CHECK(glob_match("[]]", "]"));
  CHECK_FALSE(glob_match("[!]]", "]"));
  CHECK(glob_match("[a-]", "-"));
  CHECK(glob_match("[-a]", "-"));
  CHECK(glob_match("[a!]", "!"));
  CHECK(glob_match("[\\]a]", "]"));
  CHECK(glob_match("[\\\\]", "\\"));
  CHECK(glob_match("[*?{]", "{"));
  CHECK(glob_match("[\x80-\xFF]", "\xC3"));
}

TEST_CASE("braces hold alternatives, which are patterns and may nest", "[glob]") {
  glob const projections("*.{q,k,v,o}_proj.weight");
  CHECK(projections.matches("model.layers.0.self_attn.k_proj.weight"));
  CHECK_FALSE(projections.matches("model.layers.0.self_attn.kv_proj.weight"));
  CHECK_FALSE(projections.matches("model.layers.0.self_attn._proj.weight"));
  CHECK(glob_match("x{,y}", "x"));
  CHECK(glob_match("x{,y}", "xy"));
  CHECK(glob_match("{a*,b{1,2}}c", "b2c"));
  CHECK(glob_match("{a*,b{1,2}}c", "a...c"));
  CHECK_FALSE(glob_match("{a*,b{1,2}}c", "b3c"));
  CHECK(glob_match("{abc}", "abc"));
  CHECK(glob_match("{a,b*}*c", "ac"));  // the star behind belongs to both
  CHECK(glob_match("{a,b*}*c", "axxc"));
  CHECK(glob_match("*{*,x}", "anything"));
  CHECK(glob_match("{a,b}xyz", "axyz"));  // and so do the characters behind
  CHECK_FALSE(glob_match("{a,bx}yz", "ayx"));
  CHECK(glob_match("a,b", "a,b"));  // outside braces a comma is a comma
}

TEST_CASE("a backslash takes the next character as it is", "[glob]") {
  CHECK(glob_match("\\*", "*"));
  CHECK_FALSE(glob_match("\\*", "a"));
  CHECK(glob_match("a\\{b\\,c\\}", "a{b,c}"));
  CHECK(glob_match("{a\\,b,c}", "a,b"));
  CHECK(glob_match("\\\\", "\\"));
  CHECK(glob_match("\\q", "q"));
}

TEST_CASE("random patterns agree with a backtracking reference", "[glob]") {
  std::mt19937 bits(7);
  random_pattern const make{bits};
  std::string first_difference;
  int matched = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string pattern;
    reference_pattern const reference = make(2, pattern);
    glob const compiled(pattern);
    CHECK(compiled.pattern() == pattern);
    for (int t = 0; t < 12; ++t) {
      std::string text;
      for (unsigned n = make.below(7); n > 0; --n) { text += "abc."[make.below(4)]; }
      bool const expected = reference_match(reference, 0, text);
      matched += expected ? 1 : 0;
      if (compiled.matches(text) != expected && first_difference.empty()) {
        first_difference = pattern + " on " + text;
      }
    }
  }
  CHECK(first_difference == "");
  CHECK(matched > 1000);
}

TEST_CASE("patterns that blow up a backtracking matcher are answered at once", "[glob]") {
  std::string stars;
  std::string alternatives;
  for (int i = 0; i < 100; ++i) {
    stars += "*a";
    alternatives += "{a,aa,{a,a*}}";
  }
  std::string const text(2000, 'a');
  CHECK(glob_match(stars, text));
  CHECK_FALSE(glob_match(stars + "b*", text));
  CHECK(glob_match(alternatives, text));
  CHECK_FALSE(glob_match(alternatives + "?b*", text));
}

TEST_CASE("braces nest as deep as anybody likes", "[glob]") {
  std::string pattern(50000, '{');
  pattern += "a,b";
  pattern.append(50000, '}');
  glob const deep(pattern);
  CHECK(deep.matches("b"));
  CHECK_FALSE(deep.matches("c"));
}

TEST_CASE("a malformed pattern is refused with the place and the cure", "[glob]") {
  CHECK(complaint("model.[0-3") ==
        "pattern 'model.[0-3', character 7: '[' is never closed; write \\[ for the character itself");
  CHECK(complains("[]", "character 1: '[' is never closed"));
  CHECK(complains("[!]", "never closed"));
  CHECK(complains("[a\\", "never closed"));
  CHECK(complains("[a-", "never closed"));
  CHECK(complains("ab[z-a]", "character 4: a range in a set runs backwards"));
  CHECK(complains("a]", "character 2: ']' without a '['"));
  CHECK(complains("{a,b", "character 1: '{' is never closed"));
  CHECK(complains("{a,{b}", "character 1: '{' is never closed"));
  CHECK(complains("a}", "character 2: '}' without a '{'"));
  CHECK(complains("a{}b", "character 2: '{}' holds no alternatives"));
  CHECK(complains("weight\\", "character 7: a backslash at the end"));
  CHECK(complaint("{,}") == "");
  CHECK_THROWS_AS(glob_match("[", "anything"), braid::argument_error);
}

TEST_CASE("a glob is made from any kind of string, copied and assigned", "[glob]") {
  glob a = "*.weight";
  glob const b = std::string("*.bias");
  glob const c = std::string_view("?");
  CHECK(a.matches("x.weight"));
  CHECK(c.matches("x"));
  a = b;
  CHECK(a.matches("x.bias"));
  CHECK(a.pattern() == "*.bias");
}
