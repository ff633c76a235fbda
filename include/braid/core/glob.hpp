#pragma once

/// Patterns for tensor names. Tensor names have dots where paths have slashes, and `*` crosses them.

#include <braid/core/error.hpp>

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// A pattern, compiled once, that a whole text matches or not. Characters are bytes, case counts.
///
/// | pattern     | matches                                                                    |
/// |-------------|----------------------------------------------------------------------------|
/// | `*`         | any run of characters, dots included, also none                            |
/// | `?`         | one character                                                              |
/// | `[abx-z]`   | one of a set; `]` may stand first in it, `-` first or last                 |
/// | `[!a-z]`    | one character outside the set; `[^a-z]` is the same                        |
/// | `{q,k*,}`   | one of the alternatives, which are patterns themselves and may be empty    |
/// | `\*`        | the character after the backslash, also inside sets                        |
/// | else        | itself                                                                     |
///
/// @complexity `matches` takes at most O(pattern x text), whatever the pattern: there is no backtracking. Texts that
///   don't begin and end with the pattern's fixed characters are turned away at once.
class glob {
 public:
  /// Not explicit: rules are written with plain strings.
  /// @throws argument_error where the pattern is malformed; it says where and how to write what was probably meant
  template <std::convertible_to<std::string_view> Text>
  glob(Text const& pattern) : pattern_(std::string_view(pattern)) {
    compile();
  }

  /// The pattern as it was written.
  [[nodiscard]] std::string const& pattern() const noexcept { return pattern_; }

  /// Whether the whole text fits the pattern. Safe to call from several threads.
  [[nodiscard]] bool matches(std::string_view text) const {
    if (text.size() < prefix_.size() + suffix_.size() || !text.starts_with(prefix_) || !text.ends_with(suffix_)) {
      return false;
    }
    text.remove_prefix(prefix_.size());
    text.remove_suffix(suffix_.size());
    if (nodes_.empty()) { return text.empty(); }
    if (nodes_.size() == 1 && nodes_.front().kind == node_kind::run) { return true; }
    if (text.find(inside_) == std::string_view::npos) { return false; }
    constexpr std::size_t small = 4;
    std::size_t const words = nodes_.size() / 64 + 1;  // a bit for each node, and one for the end
    if (words <= small) {
      std::array<std::uint64_t, 2 * small> bits{};
      return simulate(text, bits.data(), bits.data() + small, words);
    }
    std::vector<std::uint64_t> bits(2 * words);
    return simulate(text, bits.data(), bits.data() + words, words);
  }

 private:
  // A program of nodes whose jumps all go forward; only `run` stays where it is. So one pass over the live nodes in
  // ascending order, per character, follows every path at once.
  enum class node_kind : unsigned char { one, any, set, run, fork, jump };
  struct node {
    node_kind kind;
    char character = 0;      // one
    std::uint32_t next = 0;  // one: braces it stands in; set: its number; fork: the next alternative; jump: their end
  };
  using byte_set = std::array<std::uint64_t, 4>;
  struct open_brace {
    std::size_t at;                    // in the pattern, for messages
    std::size_t fork;                  // of the alternative being read
    std::vector<std::uint32_t> jumps;  // that leave the earlier alternatives
  };

  static constexpr bool contains(byte_set const& s, char c) noexcept {
    auto const b = static_cast<unsigned char>(c);
    return (s[b >> 6] >> (b & 63u) & 1u) != 0;
  }
  static constexpr void insert(byte_set& s, unsigned b) noexcept { s[b >> 6] |= std::uint64_t{1} << (b & 63u); }

  [[noreturn]] void fail(std::size_t at, std::string_view what) const {
    throw argument_error("pattern '" + pattern_ + "', character " + std::to_string(at + 1) + ": " + std::string(what));
  }

  [[nodiscard]] std::uint32_t here() const noexcept { return static_cast<std::uint32_t>(nodes_.size()); }

  void compile() {
    std::vector<open_brace> open;
    auto const depth = [&] { return static_cast<std::uint32_t>(open.size()); };
    for (std::size_t i = 0; i < pattern_.size(); ++i) {
      char const c = pattern_[i];
      switch (c) {
        case '*':
          // Two runs in a row are one.
          if (nodes_.empty() || nodes_.back().kind != node_kind::run) { nodes_.push_back({node_kind::run}); }
          break;
        case '?': nodes_.push_back({node_kind::any}); break;
        case '[': i = compile_set(i); break;
        case ']': fail(i, "']' without a '[' before it; write \\] for the character itself");
        case '{':
          open.push_back({i, nodes_.size(), {}});
          nodes_.push_back({node_kind::fork});
          break;
        case '}':
          if (open.empty()) { fail(i, "'}' without a '{' before it; write \\} for the character itself"); }
          if (open.back().at + 1 == i) {
            fail(open.back().at, "'{}' holds no alternatives; write \\{\\} for the characters");
          }
          // The last alternative has no next one: its fork points at itself, which adds no path.
          nodes_[open.back().fork].next = static_cast<std::uint32_t>(open.back().fork);
          // The last alternative jumps too, if only to the next node: what follows the brace must not melt into it
          // (`*` after `*`, fixed characters at the end).
          open.back().jumps.push_back(here());
          nodes_.push_back({node_kind::jump});
          for (std::uint32_t const j : open.back().jumps) { nodes_[j].next = here(); }
          open.pop_back();
          break;
        case ',':
          if (open.empty()) {
            nodes_.push_back({node_kind::one, c});
            break;
          }
          open.back().jumps.push_back(here());
          nodes_.push_back({node_kind::jump});
          nodes_[open.back().fork].next = here();
          open.back().fork = nodes_.size();
          nodes_.push_back({node_kind::fork});
          break;
        case '\\':
          if (i + 1 == pattern_.size()) { fail(i, "a backslash at the end; write \\\\ for the character itself"); }
          nodes_.push_back({node_kind::one, pattern_[++i], depth()});
          break;
        default: nodes_.push_back({node_kind::one, c, depth()}); break;
      }
    }
    if (!open.empty()) { fail(open.back().at, "'{' is never closed; write \\{ for the character itself"); }
    take_fixed_ends();
  }

  /// @param first  of the opening bracket
  /// @return that of the closing one
  std::size_t compile_set(std::size_t first) {
    constexpr std::string_view unclosed = "'[' is never closed; write \\[ for the character itself";
    std::size_t i = first + 1;
    bool const outside = i < pattern_.size() && (pattern_[i] == '!' || pattern_[i] == '^');
    if (outside) { ++i; }
    byte_set set{};
    auto const read_one = [&] {
      if (pattern_[i] == '\\' && ++i == pattern_.size()) { fail(first, unclosed); }
      return static_cast<unsigned>(static_cast<unsigned char>(pattern_[i++]));
    };
    std::size_t const start = i;
    while (true) {
      if (i >= pattern_.size()) { fail(first, unclosed); }
      if (pattern_[i] == ']' && i != start) { break; }
      std::size_t const at = i;
      unsigned const low = read_one();
      unsigned high = low;
      if (i + 1 < pattern_.size() && pattern_[i] == '-' && pattern_[i + 1] != ']') {
        ++i;
        high = read_one();
        if (high < low) { fail(at, "a range in a set runs backwards; write its lower end first"); }
      }
      for (unsigned b = low; b <= high; ++b) { insert(set, b); }
    }
    if (outside) {
      for (std::uint64_t& word : set) { word = ~word; }
    }
    nodes_.push_back({node_kind::set, 0, static_cast<std::uint32_t>(sets_.size())});
    sets_.push_back(set);
    return i;
  }

  /// Moves the fixed characters at both ends out of the program, and notes the longest run of them between: most
  /// names are told apart by these.
  void take_fixed_ends() {
    std::size_t first = 0;
    while (first < nodes_.size() && nodes_[first].kind == node_kind::one) { prefix_ += nodes_[first++].character; }
    std::size_t last = nodes_.size();
    while (last > first && nodes_[last - 1].kind == node_kind::one) { --last; }
    for (std::size_t i = last; i < nodes_.size(); ++i) { suffix_ += nodes_[i].character; }
    nodes_.resize(last, {node_kind::any});
    nodes_.erase(nodes_.begin(), nodes_.begin() + static_cast<std::ptrdiff_t>(first));
    for (node& n : nodes_) {
      if (n.kind == node_kind::fork || n.kind == node_kind::jump) { n.next -= static_cast<std::uint32_t>(first); }
    }
    std::string characters;
    for (node const& n : nodes_) {
      // An alternative needn't be taken, so what stands in one isn't fixed.
      if (n.kind == node_kind::one && n.next == 0) {
        characters += n.character;
        if (characters.size() > inside_.size()) { inside_ = characters; }
      } else {
        characters.clear();
      }
    }
  }

  /// @param live  `words` words of zeros: the nodes at the current character
  /// @param next  as many: those at the next one
  [[nodiscard]] bool simulate(std::string_view text, std::uint64_t* live, std::uint64_t* next,
                              std::size_t words) const {
    auto const set_bit = [](std::uint64_t* bits, std::size_t i) { bits[i >> 6] |= std::uint64_t{1} << (i & 63u); };
    set_bit(live, 0);
    for (std::size_t t = 0; t <= text.size(); ++t) {
      bool const ended = t == text.size();
      char const c = ended ? '\0' : text[t];
      bool any_next = false;
      for (std::size_t w = 0; w < words; ++w) {
        while (live[w] != 0) {
          auto const i = w * 64 + static_cast<std::size_t>(std::countr_zero(live[w]));
          live[w] &= live[w] - 1;
          if (i == nodes_.size()) {
            if (ended) { return true; }
            continue;
          }
          node const& n = nodes_[i];
          bool step = false;
          switch (n.kind) {
            case node_kind::one: step = c == n.character; break;
            case node_kind::any: step = true; break;
            case node_kind::set: step = contains(sets_[n.next], c); break;
            case node_kind::run:
              set_bit(live, i + 1);
              if (!ended) { set_bit(next, i); }
              any_next = true;
              break;
            case node_kind::fork:
              set_bit(live, i + 1);
              if (n.next != i) { set_bit(live, n.next); }
              break;
            case node_kind::jump: set_bit(live, n.next); break;
          }
          if (step && !ended) {
            set_bit(next, i + 1);
            any_next = true;
          }
        }
      }
      if (!any_next) { return false; }
      std::swap(live, next);
    }
    return false;
  }

  std::string pattern_;
  std::string prefix_;
  std::string suffix_;
  std::string inside_;  // fixed characters that stand somewhere between the two
  std::vector<node> nodes_;
  std::vector<byte_set> sets_;
};

/// Whether the whole text fits the pattern; keep a `glob` where the pattern is used more than once.
/// @throws argument_error where the pattern is malformed
[[nodiscard]] inline bool glob_match(std::string_view pattern, std::string_view text) {
  return glob(pattern).matches(text);
}

BRAID_NAMESPACE_END
