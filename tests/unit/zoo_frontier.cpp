/// The frontier's figures on their way to JSON, Markdown and SVG.

#include "../../examples/zoo_support/frontier_chart.hpp"
#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <set>

namespace braid_test {
namespace {

using zoo::frontier;
using zoo::frontier_point;
using zoo::origin;

frontier random_frontier(random_source& random) {
  frontier f;
  f.zoo = "somewhere/\"zoo\" & <co>";
  f.tasks = {"add", "sort"};
  f.prompts = 123;
  f.expert_bytes = 456;
  f.seed = 7;
  int const count = random.between(1, 60);
  for (int i = 0; i < count; ++i) {
    frontier_point p;
    p.family = "family " + std::to_string(i / 7);
    p.name = "point <" + std::to_string(i) + "> & more";
    p.label = random.chance(0.7) ? "K = " + std::to_string(i / 2) : "";
    p.origin = static_cast<origin>(random.below(4));
    p.draws = random.chance(0.3) ? 5 : 1;
    // A coarse grid, so that points are equal in one or both figures.
    p.accuracy = {random.below(9) / 8.0, random.below(9) / 8.0};
    p.stored = random.between(2, 12) / 12.0;
    p.deviation = p.draws > 1 ? 0.01 : 0.0;
    p.bytes = {random.bits() % 1000, random.bits() % 1000, 3, 4, 5, 6};
    if (random.chance(0.3)) {
      p.lambda = 0.5;
      p.sweep = {{0.5, 0.25}, {1.0, 0.125}};
    }
    f.points.push_back(std::move(p));
  }
  mark_front(f.points);
  return f;
}

/// Whether every tag that is opened is closed, in order, and every ampersand begins an entity.
bool is_well_formed(std::string const& xml) {
  std::vector<std::string> open;
  for (std::size_t i = 0; i < xml.size(); ++i) {
    if (xml[i] == '&' && xml.find(';', i) > i + 6) { return false; }
    if (xml[i] != '<') { continue; }
    std::size_t const end = xml.find('>', i);
    if (end == std::string::npos) { return false; }
    std::string const tag = xml.substr(i + 1, end - i - 1);
    if (tag.find('<') != std::string::npos || std::count(tag.begin(), tag.end(), '"') % 2 != 0) { return false; }
    std::string const name = tag.substr(tag.front() == '/' ? 1 : 0, tag.find_first_of(" /", 1) - (tag.front() == '/' ? 1 : 0));
    if (tag.front() == '/') {
      if (open.empty() || open.back() != tag.substr(1)) { return false; }
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
    i = end;
  }
  return open.empty();
}

}  // namespace

TEST_CASE("a point lies on the front unless another one of braid's is as good and cheaper, or better and as cheap", "[zoo]") {
  random_source random(1);
  for (int round = 0; round < 50; ++round) {
    auto const f = random_frontier(random);
    for (auto const& p : f.points) {
      if (p.origin != origin::braid) {
        CHECK_FALSE(p.front);
        continue;
      }
      bool const beaten = std::any_of(f.points.begin(), f.points.end(), [&](auto const& q) {
        return q.origin == origin::braid && q.stored <= p.stored && q.mean() >= p.mean() &&
               (q.stored < p.stored || q.mean() > p.mean());
      });
      // Of equal points one is on the front.
      bool const has_twin_on_front = std::any_of(f.points.begin(), f.points.end(), [&](auto const& q) {
        return &q != &p && q.front && q.stored == p.stored && q.mean() == p.mean();
      });
      CHECK(p.front == (!beaten && !has_twin_on_front));
    }
  }
}

TEST_CASE("figures come back from JSON as they were", "[zoo]") {
  random_source random(2);
  for (int round = 0; round < 20; ++round) {
    auto const f = random_frontier(random);
    auto const text = to_json(f).dump();
    auto const back = zoo::frontier_from_json(nlohmann::json::parse(text));
    CHECK(to_json(back).dump() == text);
    CHECK(back.points.size() == f.points.size());
    CHECK(back.points[0].bytes == f.points[0].bytes);
    CHECK(back.points[0].mean() == f.points[0].mean());
  }
  CHECK_THROWS_AS(zoo::frontier_from_json(nlohmann::json::parse(R"({"zoo": "z", "rows": []})")), nlohmann::json::exception);
}

TEST_CASE("the chart is well-formed and has every point", "[zoo]") {
  random_source random(3);
  for (int round = 0; round < 20; ++round) {
    auto const f = random_frontier(random);
    auto const svg = zoo::to_svg(f);
    CHECK(is_well_formed(svg));
    CHECK(svg.find("nan") == std::string::npos);
    CHECK(svg.find("inf") == std::string::npos);
    std::size_t titles = 0;
    for (std::size_t at = svg.find("<title>"); at != std::string::npos; at = svg.find("<title>", at + 1)) { ++titles; }
    CHECK(titles == f.points.size());
  }
  CHECK_FALSE(is_well_formed("<svg><g></svg></g>"));
  CHECK_FALSE(is_well_formed("<svg>a & b</svg>"));
}

TEST_CASE("names in the chart overlap neither each other nor a point", "[zoo]") {
  using zoo::detail::box;
  random_source random(4);
  for (int round = 0; round < 50; ++round) {
    box const plot{0, 0, 500, 300};
    std::vector<zoo::detail::chart_label> labels;
    std::vector<box> markers;
    for (int i = 0; i < 60; ++i) {
      double const x = 10 + 480 * random.unit();
      double const y = 10 + 280 * random.unit() * random.unit();
      labels.push_back({x, y, "name " + std::to_string(i / 2), random.chance(0.3)});
      markers.push_back({x - 4, y - 4, x + 4, y + 4});
    }
    auto const out = zoo::detail::placed(labels, markers, plot);
    CHECK(out.size() > 5);
    for (std::size_t i = 0; i < out.size(); ++i) {
      CHECK(out[i].at.inside(plot));
      for (auto const& m : markers) { CHECK_FALSE(out[i].at.overlaps(m)); }
      for (std::size_t j = 0; j < i; ++j) {
        CHECK_FALSE(out[i].at.overlaps(out[j].at));
        CHECK(out[i].text != out[j].text);
      }
    }
  }
}

TEST_CASE("the Markdown table has a row for each point and family, of equally many cells", "[zoo]") {
  random_source random(5);
  auto const f = random_frontier(random);
  auto const text = to_markdown(f);
  std::set<std::string> families;
  for (auto const& p : f.points) { families.insert(p.family); }
  auto const lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
  CHECK(lines == 2 + f.points.size() + families.size());
  CHECK(static_cast<std::size_t>(std::count(text.begin(), text.end(), '|')) == 7 * lines);
}

}  // namespace braid_test
