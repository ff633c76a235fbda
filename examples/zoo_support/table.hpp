#pragma once

/// The results: a table that fits a terminal, printed row by row, and the same as JSON.

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace zoo {

/// What a row of the table says.
struct result {
  std::string method;
  std::vector<double> accuracy;  ///< 0 to 1, in the order of the tasks
  double stored = 0.0;           ///< bytes of all tensors over those of all experts
  double seconds = 0.0;          ///< merging and answering all prompts

  [[nodiscard]] double mean() const {
    return std::accumulate(accuracy.begin(), accuracy.end(), 0.0) / static_cast<double>(accuracy.size());
  }
};

/// Columns: method, the tasks, mean, stored. A row stays within `width` characters: long task names are cut, and where
/// there are too many tasks a row goes on in the next line, below the first task. The method appears before its
/// numbers are known, so that one sees what is running.
class table {
 public:
  /// @param methods all names that will come, for the width of the first column
  table(std::ostream& out, std::vector<std::string> const& methods, std::vector<std::string> const& tasks,
        std::size_t width = 100)
      : out_(out), method_width_(6) {
    for (auto const& m : methods) { method_width_ = std::max(method_width_, m.size()); }
    std::vector<std::string> headings = tasks;
    headings.insert(headings.end(), {"mean", "stored"});
    std::size_t const room = width > method_width_ ? width - method_width_ : 0;
    std::size_t longest = narrowest - gap;
    for (auto const& h : headings) { longest = std::max(longest, h.size()); }
    cell_width_ = std::clamp(room / headings.size(), narrowest, longest + gap);
    cells_per_line_ = std::max<std::size_t>(room / cell_width_, 1);
    begin("method");
    finish(headings);
  }

  table(table const&) = delete;
  table& operator=(table const&) = delete;

  /// Ends a row that was begun and never finished, so that an error message has a line of its own.
  ~table() {
    if (in_row_) { out_ << std::endl; }
  }

  /// Prints the name of a row, and nothing more until `finish`.
  void begin(std::string_view method) {
    in_row_ = true;
    out_ << method << std::string(method_width_ - std::min(method.size(), method_width_), ' ') << std::flush;
  }

  void finish(result const& r) {
    std::vector<std::string> cells;
    for (double const a : r.accuracy) { cells.push_back(number(a)); }
    cells.push_back(number(r.mean()));
    cells.push_back(number(r.stored));
    finish(cells);
  }

 private:
  static constexpr std::size_t gap = 2;
  static constexpr std::size_t narrowest = 8;  // "stored"

  static std::string number(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3f", x);
    return text;
  }

  void finish(std::vector<std::string> const& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (i != 0 && i % cells_per_line_ == 0) { out_ << '\n' << std::string(method_width_, ' '); }
      std::string const cell = cells[i].substr(0, cell_width_ - gap);
      out_ << std::string(cell_width_ - cell.size(), ' ') << cell;
    }
    out_ << '\n' << std::flush;
    in_row_ = false;
  }

  std::ostream& out_;
  std::size_t method_width_;
  std::size_t cell_width_ = 0;
  std::size_t cells_per_line_ = 0;
  bool in_row_ = false;
};

/// {"zoo": path, "rows": [{"method", "accuracy": {task: share}, "mean", "stored", "seconds"}, ...]}
inline nlohmann::ordered_json to_json(std::string const& zoo, std::vector<std::string> const& tasks,
                                      std::vector<result> const& results) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (result const& r : results) {
    nlohmann::ordered_json accuracy = nlohmann::ordered_json::object();
    for (std::size_t i = 0; i < tasks.size(); ++i) { accuracy[tasks[i]] = r.accuracy[i]; }
    rows.push_back({{"method", r.method},
                    {"accuracy", std::move(accuracy)},
                    {"mean", r.mean()},
                    {"stored", r.stored},
                    {"seconds", r.seconds}});
  }
  return {{"zoo", zoo}, {"rows", std::move(rows)}};
}

}  // namespace zoo
