#include "queries.hpp"

#include "text.hpp"

#include "../zoo_support/prompts.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace program {
namespace {

namespace fs = std::filesystem;

std::ifstream open(fs::path const& file) {
  std::ifstream in(file, std::ios::binary);
  std::error_code ec;
  if (!in || fs::is_directory(file, ec)) { throw braid::io_error(printable(file.string()) + ": can't be read; check the path of --queries"); }
  return in;
}

bool next_line(std::ifstream& in, std::string& line) {
  if (!std::getline(in, line)) { return false; }
  if (!line.empty() && line.back() == '\r') { line.pop_back(); }
  return true;
}

bool is_blank(std::string const& line) { return line.find_first_not_of(" \t\r") == std::string::npos; }

/// A query a line. Lines between empty ones are a group, if the file has any empty line between queries.
void read_plain(fs::path const& file, std::string const& expert, std::vector<query>& to) {
  auto in = open(file);
  std::string line;
  std::size_t const first = to.size();
  std::size_t group = 0;
  bool ended = false;
  while (next_line(in, line)) {
    if (is_blank(line)) {
      ended = to.size() > first;
      continue;
    }
    if (ended) { ++group; }
    ended = false;
    to.push_back({line, expert, printable(file.string()) + ":" + std::to_string(group)});
  }
  if (group == 0) {
    for (std::size_t i = first; i < to.size(); ++i) { to[i].group.clear(); }
  }
}

void read_json_lines(fs::path const& file, std::string const& expert, bool need_experts, std::vector<query>& to) {
  auto in = open(file);
  std::string line;
  for (int number = 1; next_line(in, line); ++number) {
    if (is_blank(line)) { continue; }
    std::string const where = printable(file.string()) + ":" + std::to_string(number) + ": ";
    query q{{}, expert, {}};
    try {
      auto const json = nlohmann::json::parse(line);
      q.query = json.at("query").get<std::string>();
      if (json.contains("expert")) { q.expert = json.at("expert").get<std::string>(); }
      if (json.contains("group")) { q.group = json.at("group").get<std::string>(); }
    } catch (nlohmann::json::exception const&) {
      throw braid::argument_error(where + "isn't an object with the texts \"query\", \"expert\" and perhaps \"group\"");
    }
    if (need_experts && q.expert.empty()) {
      throw braid::argument_error(where + "names no expert; add \"expert\", or write --queries NAME=PATH");
    }
    to.push_back(std::move(q));
  }
}

void read_zoo(fs::path const& file, std::vector<query>& to) {
  for (auto const& task : zoo::read_questions(file).tasks) {
    for (auto const& p : task.prompts) { to.push_back({p.text, task.name, {}}); }
  }
}

void read_path(fs::path const& path, std::string const& name, bool need_experts, std::vector<query>& to) {
  std::error_code ec;
  if (fs::is_directory(path, ec)) {
    std::vector<fs::path> files;
    for (auto const& entry : fs::directory_iterator(path)) {
      if (entry.path().extension() == ".txt") { files.push_back(entry.path()); }
    }
    std::sort(files.begin(), files.end());
    for (auto const& file : files) { read_plain(file, name.empty() ? file.stem().string() : name, to); }
  } else if (path.extension() == ".jsonl") {
    read_json_lines(path, name, need_experts, to);
  } else if (path.extension() == ".json") {
    read_zoo(path, to);
  } else {
    read_plain(path, name.empty() ? path.stem().string() : name, to);
  }
}

}  // namespace

std::vector<query> read_queries(std::vector<std::string> const& arguments, bool need_experts) {
  std::vector<query> all;
  for (auto const& argument : arguments) {
    std::size_t const equals = argument.find('=');
    bool const named = equals != std::string::npos && argument.substr(0, equals).find('/') == std::string::npos;
    std::size_t const before = all.size();
    std::string const path = named ? argument.substr(equals + 1) : argument;
    read_path(path, named ? argument.substr(0, equals) : std::string(), need_experts, all);
    if (all.size() == before) { throw braid::argument_error(printable(path) + ": has no queries"); }
  }
  return all;
}

}  // namespace program
