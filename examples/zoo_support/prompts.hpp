#pragma once

/// The questions of a zoo: prompts.json, one token per character.

#include <braid/core/error.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace zoo {

/// Text to token numbers and back: token i is written as the i-th symbol. A symbol is one character (a UTF-8
/// sequence); longer ones such as "<pad>" can be said, not asked.
class tokenizer {
 public:
  explicit tokenizer(std::vector<std::string> symbols) : symbols_(std::move(symbols)) {
    for (std::size_t i = 0; i < symbols_.size(); ++i) { numbers_.emplace(symbols_[i], static_cast<int>(i)); }
  }

  /// @throws braid::argument_error for a character that is no symbol
  [[nodiscard]] std::vector<int> encode(std::string_view text) const {
    std::vector<int> tokens;
    while (!text.empty()) {
      std::size_t bytes = 1;
      while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xC0u) == 0x80u) { ++bytes; }
      auto const found = numbers_.find(text.substr(0, bytes));
      if (found == numbers_.end()) {
        throw braid::argument_error("no symbol for \"" + std::string(text.substr(0, bytes)) +
                                    "\": list it under \"chars\" of prompts.json");
      }
      tokens.push_back(found->second);
      text.remove_prefix(bytes);
    }
    return tokens;
  }

  /// Tokens beyond the last symbol (a vocabulary padded for speed) read as "?".
  [[nodiscard]] std::string decode(std::vector<int> const& tokens) const {
    std::string text;
    for (int const t : tokens) {
      auto const i = static_cast<std::size_t>(t);
      text += i < symbols_.size() ? symbols_[i] : "?";
    }
    return text;
  }

 private:
  std::vector<std::string> symbols_;
  std::map<std::string, int, std::less<>> numbers_;
};

struct prompt {
  std::string text;    ///< "add 602+363="
  std::string answer;  ///< "965", without the full stop
};

struct task {
  std::string name;
  std::vector<prompt> prompts;
};

/// What prompts.json holds: {"chars": [symbol, ...], "tasks": {name: [[text, answer], ...], ...}}, tasks in the
/// order of the file.
struct questions {
  tokenizer symbols;
  std::vector<task> tasks;
};

/// @throws braid::io_error where the file can't be read, braid::argument_error where it isn't of that layout
inline questions read_questions(std::filesystem::path const& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) { throw braid::io_error(file.string() + ": can't be read; a zoo holds prompts.json beside its models"); }
  try {
    auto const json = nlohmann::ordered_json::parse(in);
    questions q{tokenizer(json.at("chars").get<std::vector<std::string>>()), {}};
    for (auto const& [name, prompts] : json.at("tasks").items()) {
      task t{name, {}};
      for (auto const& pair : prompts) {
        t.prompts.push_back({pair.at(0).get<std::string>(), pair.at(1).get<std::string>()});
        if (t.prompts.back().text.empty()) { throw braid::argument_error("task " + name + " has an empty prompt"); }
      }
      if (t.prompts.empty()) { throw braid::argument_error("task " + name + " has no prompts"); }
      q.tasks.push_back(std::move(t));
    }
    if (q.tasks.empty()) { throw braid::argument_error("no tasks"); }
    return q;
  } catch (nlohmann::json::exception const& e) {
    throw braid::argument_error(file.string() + ": " + e.what());
  } catch (braid::argument_error const& e) {
    throw braid::argument_error(file.string() + ": " + e.what());
  }
}

}  // namespace zoo
