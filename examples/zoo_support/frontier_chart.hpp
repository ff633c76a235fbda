#pragma once

/// The frontier as a picture: SVG without dependencies, for light and dark pages.

#include "chart_labels.hpp"
#include "frontier_point.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace zoo {

namespace detail {

/// Where data come to lie: stored bytes on a logarithmic axis; accuracy on one of errors, where equal steps divide the
/// number of wrong answers by equal factors, since all that matters happens between 0.9 and 1.
class chart_scale {
 public:
  static constexpr double width = 960.0;
  static constexpr double height = 640.0;
  static constexpr box plot{70.0, 64.0, 770.0, 570.0};

  explicit chart_scale(std::vector<frontier_point> const& points) {
    double least = 1.0;
    for (auto const& p : points) { least = std::min(least, p.stored); }
    left_ = least * 0.93;
  }

  [[nodiscard]] double x(double stored) const {
    return plot.left + (plot.right - plot.left) * std::log(stored / left_) / std::log(right / left_);
  }
  [[nodiscard]] double y(double accuracy) const {
    double const a = std::clamp(accuracy, 0.0, 1.0);
    double const share = std::log((1.0 - a + floor) / (1.0 + floor)) / std::log(floor / (1.0 + floor));
    return plot.bottom - (plot.bottom - plot.top) * share;
  }
  [[nodiscard]] double least_stored() const noexcept { return left_; }

 private:
  static constexpr double right = 1.08;
  static constexpr double floor = 0.004;  // of the errors: what a perfect point counts as
  double left_;
};

struct family_style {
  std::string_view colour;
  int shape;  // 0 circle, 1 square, 2 diamond, 3 triangle, 4 cross
};

/// Families in the order in which they come: colours that can be told apart with any eyes, on white and on black.
inline family_style style_of(std::size_t family) {
  static constexpr family_style styles[] = {
      {"#8a8f98", 4}, {"#b07d4a", 3}, {"#3f8fd6", 0}, {"#1fa187", 0}, {"#e2662d", 2}, {"#f0a27a", 2}, {"#c9302c", 0},
      {"#d4a017", 1}, {"#a3a847", 1}, {"#c04fa0", 1}, {"#7f6fd0", 1}, {"#5fb3c8", 3}, {"#6a8f4e", 3}, {"#9a7b9f", 3}};
  return styles[family % std::size(styles)];
}

inline std::string number(double x) { return fixed(x, 1); }

inline std::string escaped(std::string_view text) {
  std::string out;
  for (char const c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

inline std::string text_at(double x, double y, std::string_view kind, std::string_view anchor, std::string_view text) {
  return "<text class=\"" + std::string(kind) + "\" x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" +
         std::string(anchor) + "\">" + escaped(text) + "</text>\n";
}

inline std::string marker(double x, double y, family_style s, double size) {
  auto const at = [&](double dx, double dy) { return number(x + dx * size) + "," + number(y + dy * size) + " "; };
  std::string const fill = "fill=\"" + std::string(s.colour) + "\"";
  switch (s.shape) {
    case 0: return "<circle cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" r=\"" + number(size) + "\" " + fill + "/>";
    case 1: return "<polygon points=\"" + at(-.9, -.9) + at(.9, -.9) + at(.9, .9) + at(-.9, .9) + "\" " + fill + "/>";
    case 2: return "<polygon points=\"" + at(0, -1.25) + at(1.25, 0) + at(0, 1.25) + at(-1.25, 0) + "\" " + fill + "/>";
    case 3: return "<polygon points=\"" + at(0, -1.2) + at(1.1, .9) + at(-1.1, .9) + "\" " + fill + "/>";
    default:
      return "<path d=\"M" + at(-1, -1) + "L" + at(1, 1) + "M" + at(1, -1) + "L" + at(-1, 1) +
             "\" fill=\"none\" stroke-width=\"2.4\" stroke=\"" + std::string(s.colour) + "\"/>";
  }
}

inline std::string axes(chart_scale const& scale) {
  static constexpr box plot = chart_scale::plot;
  std::string svg;
  for (double const a : {0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0}) {
    double const y = scale.y(a);
    svg += "<line class=\"grid\" x1=\"" + number(plot.left) + "\" x2=\"" + number(plot.right) + "\" y1=\"" + number(y) +
           "\" y2=\"" + number(y) + "\"/>\n";
    svg += text_at(plot.left - 8, y + 4, "tick", "end", fixed(a, a == 0.95 || a == 0.98 || a == 0.99 ? 2 : 1));
  }
  for (double const s : {0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0}) {
    if (s < scale.least_stored()) { continue; }
    double const x = scale.x(s);
    svg += "<line class=\"grid\" y1=\"" + number(plot.top) + "\" y2=\"" + number(plot.bottom) + "\" x1=\"" +
           number(x) + "\" x2=\"" + number(x) + "\"/>\n";
    svg += text_at(x, plot.bottom + 18, "tick", "middle", fixed(s, s == 0.125 ? 3 : s == 0.25 || s == 0.15 ? 2 : 1));
  }
  svg += text_at(0.5 * (plot.left + plot.right), plot.bottom + 42, "axis", "middle",
                 "stored: bytes over those of all experts (logarithmic)");
  svg += "<text class=\"axis\" text-anchor=\"middle\" transform=\"translate(20," +
         number(0.5 * (plot.top + plot.bottom)) + ") rotate(-90)\">accuracy (logarithmic in the errors)</text>\n";
  return svg;
}

}  // namespace detail

/// A chart of all points. Braid's own Pareto front is a line; a vertical bar is a standard deviation up and down; a
/// point's name is its tooltip, and written beside it where there is room.
inline std::string to_svg(frontier const& f) {
  using namespace detail;
  chart_scale const scale(f.points);
  std::vector<std::string> families;
  auto const family_of = [&](frontier_point const& p) {
    auto const at = std::find(families.begin(), families.end(), p.family);
    if (at != families.end()) { return static_cast<std::size_t>(at - families.begin()); }
    families.push_back(p.family);
    return families.size() - 1;
  };
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + fixed(chart_scale::width, 0) + " " +
                    fixed(chart_scale::height, 0) + "\" width=\"" + fixed(chart_scale::width, 0) + "\" height=\"" +
                    fixed(chart_scale::height, 0) + "\" font-family=\"Helvetica, Arial, sans-serif\">\n";
  svg += "<style>\n"
         ".page { fill: #ffffff } .title { fill: #1c2128; font-size: 17px; font-weight: bold }\n"
         ".axis { fill: #1c2128; font-size: 13px } .tick { fill: #57606a; font-size: 12px }\n"
         ".note { fill: #57606a; font-size: 12px }\n"
         ".name { fill: #3a424c; font-size: 11px } .key { fill: #1c2128; font-size: 12px }\n"
         ".grid { stroke: #d8dde3; stroke-width: 1 } .front { stroke: #1c2128; stroke-width: 1.6; fill: none }\n"
         ".leader { stroke: #8a939e; stroke-width: 0.8 }\n"
         "@media (prefers-color-scheme: dark) {\n"
         "  .page { fill: #14181d } .title, .axis, .key { fill: #e8ecf1 }\n"
         "  .tick, .note { fill: #a5afbb } .name { fill: #c6ced8 }\n"
         "  .grid { stroke: #2f3740 } .front { stroke: #e8ecf1 } .leader { stroke: #6b7684 }\n"
         "}\n"
         "</style>\n";
  svg += "<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n";
  svg += text_at(chart_scale::plot.left, 26, "title", "start",
                 "What " + std::to_string(f.tasks.size()) + " experts still know, and what that takes to store");
  svg += text_at(chart_scale::plot.left, 46, "note", "start",
                 "mean exact match of each expert on its own task, " + std::to_string(f.prompts) + " prompts");
  svg += axes(scale);

  std::vector<frontier_point const*> front;
  for (auto const& p : f.points) {
    if (p.front) { front.push_back(&p); }
  }
  std::sort(front.begin(), front.end(), [](auto const* a, auto const* b) { return a->stored < b->stored; });
  std::string line;
  std::vector<box> taken;  // by the line and by markers
  for (std::size_t i = 0; i < front.size(); ++i) {  // steps: between two points one has the lower of the two
    std::string const x = number(scale.x(front[i]->stored));
    if (i > 0) {
      line += x + "," + number(scale.y(front[i - 1]->mean())) + " ";
      box const corner{scale.x(front[i - 1]->stored), scale.y(front[i]->mean()), scale.x(front[i]->stored),
                       scale.y(front[i - 1]->mean())};
      taken.push_back({corner.left, corner.bottom - 2, corner.right, corner.bottom + 2});
      taken.push_back({corner.right - 2, corner.top, corner.right + 2, corner.bottom});
    }
    line += x + "," + number(scale.y(front[i]->mean())) + " ";
  }
  svg += "<polyline class=\"front\" points=\"" + line + "\"/>\n";

  std::vector<chart_label> labels;
  std::string dots;
  for (auto const& p : f.points) {
    family_style const style = style_of(family_of(p));
    double const x = scale.x(p.stored);
    double const y = scale.y(p.mean());
    if (p.draws > 1 && p.deviation > 0.0) {
      dots += "<line stroke=\"" + std::string(style.colour) + "\" x1=\"" + number(x) + "\" x2=\"" + number(x) +
              "\" y1=\"" + number(scale.y(p.mean() - p.deviation)) + "\" y2=\"" + number(scale.y(p.mean() + p.deviation)) + "\"/>\n";
    }
    dots += "<g><title>" + escaped(p.family + ": " + p.name) + ", accuracy " + fixed(p.mean(), 3) + ", stored " +
            fixed(p.stored, 3) + "</title>" + marker(x, y, style, p.front ? 5.0 : 4.0) + "</g>\n";
    taken.push_back({x - 4, y - 4, x + 4, y + 4});
    if (!p.label.empty()) { labels.push_back({x, y, p.label, p.front}); }
  }
  // Those of the front first; of equal names the best is written.
  std::stable_sort(labels.begin(), labels.end(), [](auto const& a, auto const& b) {
    return a.important != b.important ? a.important : a.y < b.y;
  });
  std::string names;
  for (placed_label const& l : placed(labels, taken, chart_scale::plot)) {
    if (l.far) {
      names += "<line class=\"leader\" x1=\"" + number(l.from_x) + "\" y1=\"" + number(l.from_y) + "\" x2=\"" +
               number(l.to_x) + "\" y2=\"" + number(l.to_y) + "\"/>\n";
    }
    names += text_at(l.at.left, l.at.bottom - 3, "name", "start", l.text);
  }
  svg += dots + names;

  double y = chart_scale::plot.top + 6;
  double const key = chart_scale::plot.right + 22;
  svg += "<polyline class=\"front\" points=\"" + number(key - 8) + "," + number(y - 4) + " " + number(key + 8) + "," +
         number(y - 4) + "\"/>\n" + text_at(key + 16, y, "key", "start", "Pareto front of braid");
  for (std::size_t i = 0; i < families.size(); ++i) {
    y += 21;
    svg += marker(key, y - 4, style_of(i), 4.5) + "\n" + text_at(key + 16, y, "key", "start", families[i]);
  }
  return svg + "</svg>\n";
}

}  // namespace zoo
