#include "frontier.hpp"
#include "measure.hpp"

#include <braid/core/glob.hpp>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>

namespace zoo {

namespace {

constexpr int draws_of_random = 5;

double deviation_of(std::vector<double> const& values) {
  if (values.size() < 2) { return 0.0; }
  double mean = 0.0;
  for (double const v : values) { mean += v / static_cast<double>(values.size()); }
  double squares = 0.0;
  for (double const v : values) { squares += (v - mean) * (v - mean); }
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

frontier_point measured(plan const& p, bench& b, std::uint64_t seed) {
  auto const start = std::chrono::steady_clock::now();
  frontier_point point;
  point.family = p.family;
  point.name = p.name;
  point.label = p.label;
  point.origin = p.origin;
  point.draws = p.random ? draws_of_random : 1;

  float lambda = p.lambdas.front();
  std::vector<outcome> draws;
  if (p.lambdas.size() > 1) {
    double best = -1.0;
    outcome first;
    for (float const l : p.lambdas) {
      outcome o = p.measure(b, seed, l);
      // Written as they are meant: 0.2, not 0.20000000298.
      point.sweep.emplace_back(std::round(static_cast<double>(l) * 1e6) / 1e6, o.mean());
      if (o.mean() > best) {
        best = o.mean();
        lambda = l;
        point.lambda = point.sweep.back().first;
        first = std::move(o);
      }
    }
    draws.push_back(std::move(first));
  }
  while (draws.size() < static_cast<std::size_t>(point.draws)) {
    draws.push_back(p.measure(b, seed + draws.size(), lambda));
  }

  std::vector<double> means;
  point.accuracy.resize(draws.front().accuracy.size());
  for (outcome const& o : draws) {
    means.push_back(o.mean());
    point.stored += o.stored / point.draws;
    for (std::size_t i = 0; i < point.accuracy.size(); ++i) { point.accuracy[i] += o.accuracy[i] / point.draws; }
  }
  point.deviation = deviation_of(means);
  point.bytes = draws.front().bytes;
  point.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return point;
}

/// The figures of a point, after its name.
std::string cells(frontier_point const& p) {
  char text[96];
  std::snprintf(text, sizeof text, "%8.3f  %8.3f", p.stored, p.mean());
  std::string line = text;
  if (p.draws > 1) {
    std::snprintf(text, sizeof text, " +- %.3f", p.deviation);
    line += text;
  }
  if (p.lambda) {
    std::snprintf(text, sizeof text, "  lambda %.1f", *p.lambda);
    line += text;
  }
  return line;
}

std::vector<plan> wanted_plans(std::vector<plan> plans, std::string const& pattern) {
  braid::glob const glob(pattern);
  std::string names;
  for (plan const& p : plans) { names += (names.empty() ? "'" : ", '") + p.family + ": " + p.name + "'"; }
  std::erase_if(plans, [&](plan const& p) { return !glob.matches(p.family + ": " + p.name); });
  if (plans.empty()) { throw braid::argument_error("--rows '" + pattern + "' matches none of " + names); }
  return plans;
}

}  // namespace

frontier measure_frontier(std::string const& dir, frontier_options const& options) {
  std::shared_ptr<moments const> weights;
  prompt_range asked = options.prompts;
  if (!options.moments.empty()) {
    weights = std::make_shared<moments>(read_moments(options.moments));
    asked.held_out = std::max(asked.held_out, static_cast<std::size_t>(weights->prompts));
  }
  keeper const zoo(dir, asked);
  bench b(zoo, options.through_files);
  auto const plans = wanted_plans(frontier_plans(b.tensors(), weights), options.points);
  frontier f;
  f.zoo = dir;
  f.tasks = zoo.tasks();
  f.prompts = zoo.prompts();
  f.expert_bytes = b.tensors().expert_bytes;
  f.seed = options.seed;

  std::cout << "Stored: bytes of all tensors, index, residuals and their scales included, over those of all experts.\n"
               "Accuracy: mean over the tasks of the exact match of each expert on its own task, "
            << f.prompts << " prompts in all;\nmean +- standard deviation of five seeds where anything is random.\n";
  std::size_t width = 0;
  for (plan const& p : plans) { width = std::max(width, p.name.size()); }
  std::string family;
  for (plan const& p : plans) {
    if (p.family != family) {
      family = p.family;
      std::cout << '\n'
                << family << std::string(width + 2 - std::min(width + 2, family.size()), ' ')
                << "    stored  accuracy\n";
    }
    std::cout << "  " << p.name << std::string(width - p.name.size(), ' ') << std::flush;
    f.points.push_back(measured(p, b, options.seed));
    std::cout << "  " << cells(f.points.back()) << std::endl;
  }
  mark_front(f.points);
  return f;
}

}  // namespace zoo
