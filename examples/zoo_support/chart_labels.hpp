#pragma once

/// Finds room for the names of points in a chart.

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>
#include <string>
#include <vector>

namespace zoo::detail {

struct box {
  double left, top, right, bottom;

  [[nodiscard]] bool overlaps(box const& o) const noexcept {
    return left < o.right && o.left < right && top < o.bottom && o.top < bottom;
  }
  [[nodiscard]] bool inside(box const& o) const noexcept {
    return left >= o.left && right <= o.right && top >= o.top && bottom <= o.bottom;
  }
};

/// A name that wants to stand near (x, y).
struct chart_label {
  double x, y;
  std::string text;
  bool important = false;  ///< may stand farther off, with a line to its point
};

struct placed_label {
  box at;
  std::string text;
  bool far = false;
  double from_x = 0.0, from_y = 0.0;  ///< of the line, where it stands far off
  double to_x = 0.0, to_y = 0.0;
};

/// Places labels in their order, each at the nearest free place round its point, and leaves out those for which there
/// is none, and all but the first of equal ones. No label overlaps another one, or what is taken.
inline std::vector<placed_label> placed(std::vector<chart_label> const& labels, std::vector<box> const& taken,
                                        box const& plot) {
  constexpr double letter = 5.9;  // mean width at 11 px
  constexpr double line = 13.0;
  std::vector<placed_label> out;
  std::set<std::string> written;
  for (chart_label const& l : labels) {
    if (written.count(l.text) != 0) { continue; }
    double const width = letter * static_cast<double>(l.text.size());
    auto const fits = [&](box const& at) {
      return at.inside(plot) &&
             std::none_of(taken.begin(), taken.end(), [&](box const& m) { return at.overlaps(m); }) &&
             std::none_of(out.begin(), out.end(), [&](auto const& other) { return at.overlaps(other.at); });
    };
    bool found = false;
    for (double distance = 8.0; !found && distance <= (l.important ? 130.0 : 14.0); distance += 6.0) {
      for (int step = 0; !found && step < 16; ++step) {
        // To the right first, then alternately up and down from there.
        double const turn = (step % 2 == 0 ? 0.5 : -0.5) * ((step + 1) / 2) * std::numbers::pi / 4.0;
        double const x = l.x + distance * std::cos(turn);
        double const y = l.y - distance * std::sin(turn);
        double const left = x - width * 0.5 * (1.0 - std::cos(turn));
        box const at{left, y - line / 2, left + width, y + line / 2};
        if (!fits(at)) { continue; }
        found = true;
        placed_label p{at, l.text, distance > 16.0, l.x, l.y, 0.0, 0.0};
        p.to_x = std::clamp(l.x, at.left, at.right);
        p.to_y = std::clamp(l.y, at.top + 2, at.bottom - 2);
        out.push_back(std::move(p));
        written.insert(l.text);
      }
    }
  }
  return out;
}

}  // namespace zoo::detail
