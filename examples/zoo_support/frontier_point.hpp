#pragma once

/// One point of the frontier: how accurate the experts are that some method gives back, and what it stores for that.

#include "stored_bytes.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace zoo {

/// Whose a point is.
enum class origin {
  reference,  ///< what is given: the experts, the base
  braid,      ///< what braid offers
  rival,      ///< another method
  control     ///< a random choice in the place of braid's
};
NLOHMANN_JSON_SERIALIZE_ENUM(origin, {{origin::reference, "reference"},
                                      {origin::braid, "braid"},
                                      {origin::rival, "rival"},
                                      {origin::control, "control"}})

struct frontier_point {
  std::string family;
  std::string name;   ///< of one family no two are equal
  std::string label;  ///< in the chart; short
  zoo::origin origin = origin::reference;
  int draws = 1;                                 ///< seeds that the figures are means of
  std::vector<double> accuracy;                  ///< of each expert on its own task, 0 to 1, mean over the draws
  double deviation = 0.0;                        ///< of the draws' mean accuracies: sample standard deviation
  double stored = 0.0;                           ///< bytes stored over the bytes of all experts, mean over the draws
  stored_bytes bytes;                            ///< of the first draw, part by part
  std::optional<double> lambda;                  ///< what scales a merged delta, where it was chosen from `sweep`
  std::vector<std::pair<double, double>> sweep;  ///< lambda, mean accuracy
  double seconds = 0.0;                          ///< merging and answering all prompts
  bool front = false;                            ///< see `mark_front`

  [[nodiscard]] double mean() const {
    return std::accumulate(accuracy.begin(), accuracy.end(), 0.0) / static_cast<double>(accuracy.size());
  }
};

struct frontier {
  std::string zoo;  ///< its directory
  std::vector<std::string> tasks;
  std::size_t prompts = 0;         ///< of all tasks together
  std::uint64_t expert_bytes = 0;  ///< what `stored` is measured in
  std::uint64_t seed = 0;          ///< the first
  std::vector<frontier_point> points;
};

/// Marks the Pareto front of braid's own points: those that no other one of braid's beats, with fewer or equal bytes
/// and higher or equal accuracy, one of the two strictly. Of equal points the first counts.
inline void mark_front(std::vector<frontier_point>& points) {
  for (std::size_t i = 0; i < points.size(); ++i) {
    frontier_point& p = points[i];
    p.front = p.origin == origin::braid;
    for (std::size_t j = 0; j < points.size() && p.front; ++j) {
      frontier_point const& q = points[j];
      if (q.origin != origin::braid || j == i || q.stored > p.stored || q.mean() < p.mean()) { continue; }
      p.front = !(q.stored < p.stored || q.mean() > p.mean() || j < i);
    }
  }
}

/// {"zoo", "tasks", "prompts", "expert_bytes", "seed", "points": [{"family", "name", "label", "origin", "draws",
/// "stored", "mean", "deviation", "front", "lambda", "sweep", "accuracy": {task: share}, "bytes": {part: bytes},
/// "seconds"}, ...]}
inline nlohmann::ordered_json to_json(frontier const& f) {
  using json = nlohmann::ordered_json;
  json points = json::array();
  for (frontier_point const& p : f.points) {
    json accuracy = json::object();
    for (std::size_t i = 0; i < f.tasks.size(); ++i) { accuracy[f.tasks[i]] = p.accuracy.at(i); }
    stored_bytes const& b = p.bytes;
    json point{{"family", p.family}, {"name", p.name},           {"label", p.label},
               {"origin", p.origin}, {"draws", p.draws},         {"stored", p.stored},
               {"mean", p.mean()},   {"deviation", p.deviation}, {"front", p.front}};
    if (p.lambda) {
      point["lambda"] = *p.lambda;
      point["sweep"] = p.sweep;
    }
    point["accuracy"] = std::move(accuracy);
    point["bytes"] = {{"kept", b.kept},     {"rows", b.rows},     {"index", b.index},
                      {"planes", b.planes}, {"scales", b.scales}, {"codes", b.codes}};
    point["seconds"] = p.seconds;
    points.push_back(std::move(point));
  }
  return {{"zoo", f.zoo},   {"tasks", f.tasks},           {"prompts", f.prompts}, {"expert_bytes", f.expert_bytes},
          {"seed", f.seed}, {"points", std::move(points)}};
}

/// What `to_json` wrote.
/// @throws nlohmann::json::exception for anything else
inline frontier frontier_from_json(nlohmann::json const& json) {
  frontier f;
  json.at("zoo").get_to(f.zoo);
  json.at("tasks").get_to(f.tasks);
  json.at("prompts").get_to(f.prompts);
  json.at("expert_bytes").get_to(f.expert_bytes);
  json.at("seed").get_to(f.seed);
  for (auto const& from : json.at("points")) {
    frontier_point p;
    from.at("family").get_to(p.family);
    from.at("name").get_to(p.name);
    from.at("label").get_to(p.label);
    from.at("origin").get_to(p.origin);
    from.at("draws").get_to(p.draws);
    from.at("stored").get_to(p.stored);
    from.at("deviation").get_to(p.deviation);
    from.at("front").get_to(p.front);
    from.at("seconds").get_to(p.seconds);
    if (from.contains("lambda")) {
      p.lambda = from.at("lambda").get<double>();
      from.at("sweep").get_to(p.sweep);
    }
    for (auto const& task : f.tasks) { p.accuracy.push_back(from.at("accuracy").at(task).get<double>()); }
    auto const& bytes = from.at("bytes");
    bytes.at("kept").get_to(p.bytes.kept);
    bytes.at("rows").get_to(p.bytes.rows);
    bytes.at("index").get_to(p.bytes.index);
    bytes.at("planes").get_to(p.bytes.planes);
    bytes.at("scales").get_to(p.bytes.scales);
    bytes.at("codes").get_to(p.bytes.codes);
    f.points.push_back(std::move(p));
  }
  return f;
}

namespace detail {
inline std::string fixed(double x, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, x);
  return text;
}
}  // namespace detail

/// A table in Markdown, one row a point, a heading row for each family; points of the front are bold.
inline std::string to_markdown(frontier const& f) {
  std::string text = "| method | accuracy | deviation | stored |";
  for (auto const& task : f.tasks) { text += " " + task + " |"; }
  text += "\n|---|---|---|---|";
  for (std::size_t i = 0; i < f.tasks.size(); ++i) { text += "---|"; }
  text += "\n";
  std::string family;
  for (frontier_point const& p : f.points) {
    if (p.family != family) {
      family = p.family;
      text += "| *" + family + "* | | | |";
      for (std::size_t i = 0; i < f.tasks.size(); ++i) { text += " |"; }
      text += "\n";
    }
    std::string const bold = p.front ? "**" : "";
    std::string name = p.name;
    if (p.lambda) { name += ", lambda " + detail::fixed(*p.lambda, 1); }
    text += "| " + bold + name + bold + " | " + bold + detail::fixed(p.mean(), 3) + bold + " | " +
            (p.draws > 1 ? detail::fixed(p.deviation, 3) : std::string()) + " | " + detail::fixed(p.stored, 3) + " |";
    for (double const a : p.accuracy) {
      text += ' ';  // one by one: g++ 12 warns of " " + string
      text += detail::fixed(a, 3);
      text += " |";
    }
    text += "\n";
  }
  return text;
}

}  // namespace zoo
