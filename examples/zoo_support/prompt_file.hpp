#pragma once

/// Prompts for a server: a line each, JSON lines with answers, or a zoo's prompts.json.

#include "prompts.hpp"

#include <braid/core/error.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace zoo {

/// A prompt, and what is known about it.
struct asked_prompt {
  std::string text;
  std::optional<std::string> answer{};  ///< the right one, without the full stop
  std::string expert{};                 ///< whose task it is; empty where nobody says
};

/// *.json: a zoo's prompts.json. *.jsonl: objects with the texts "query" and perhaps "answer" and "expert". All else: a
/// prompt a line. Empty lines are left out.
/// @throws braid::io_error where the file can't be read, braid::argument_error where it isn't of its layout or has no prompts
inline std::vector<asked_prompt> read_prompts(std::filesystem::path const& file) {
  std::vector<asked_prompt> all;
  if (file.extension() == ".json") {
    for (auto const& task : read_questions(file).tasks) {
      for (auto const& p : task.prompts) { all.push_back({p.text, p.answer, task.name}); }
    }
    return all;
  }
  std::ifstream in(file, std::ios::binary);
  std::error_code ec;
  if (!in || std::filesystem::is_directory(file, ec)) {
    throw braid::io_error(file.string() + ": can't be read; check the path of --prompts");
  }
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (!line.empty() && line.back() == '\r') { line.pop_back(); }
    if (line.find_first_not_of(" \t") == std::string::npos) { continue; }
    asked_prompt p{line};
    if (file.extension() == ".jsonl") {
      try {
        auto const json = nlohmann::json::parse(line);
        p.text = json.at("query").get<std::string>();
        if (json.contains("answer")) { p.answer = json.at("answer").get<std::string>(); }
        if (json.contains("expert")) { p.expert = json.at("expert").get<std::string>(); }
      } catch (nlohmann::json::exception const&) {
        throw braid::argument_error(file.string() + ":" + std::to_string(number) +
                                    ": isn't an object with the texts \"query\" and perhaps \"answer\" and \"expert\"");
      }
    }
    all.push_back(std::move(p));
  }
  if (all.empty()) { throw braid::argument_error(file.string() + ": has no prompts"); }
  return all;
}

}  // namespace zoo
