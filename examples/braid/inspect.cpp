#include "arguments.hpp"
#include "command_line.hpp"
#include "overview.hpp"
#include "text.hpp"

#include <iostream>
#include <set>
#include <tuple>

namespace program {
namespace {

constexpr std::size_t line_width = 100;

std::string counted(std::size_t n, std::string const& what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

/// A label and a list, in as many lines as it takes.
void print_list(std::string const& label, std::vector<std::string> const& items) {
  std::string line = "  " + label + std::string(label.size() < 10 ? 10 - label.size() : 1, ' ');
  std::size_t const indent = line.size();
  for (std::size_t i = 0; i < items.size(); ++i) {
    std::string const item = items[i] + (i + 1 < items.size() ? ", " : "");
    if (line.size() > indent && line.size() + item.size() > line_width) {
      line.resize(line.size() - 1);  // the blank
      std::cout << line << '\n';
      line.assign(indent, ' ');
    }
    line += item;
  }
  std::cout << line << '\n';
}

/// "density 0.7" of a number, "balanced" of a policy without any.
std::string value_text(nlohmann::json const& value) {
  if (value.is_string()) { return printable(value.get_ref<std::string const&>()); }
  if (value.is_number_float()) { return shortest(value.get<double>()); }
  return printable(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

/// A recipe is free in form; policies are objects with a name and numbers.
std::vector<std::string> recipe_items(nlohmann::json const& recipe) {
  std::vector<std::string> items;
  if (!recipe.is_object()) { return items; }
  for (auto const& [key, value] : recipe.items()) {
    std::string text = printable(key) + " ";
    if (!value.is_object()) {
      items.push_back(text + value_text(value));
      continue;
    }
    if (auto const name = value.find("name"); name != value.end()) { text += value_text(*name); }
    std::string numbers;
    for (auto const& [what, number] : value.items()) {
      if (what != "name") { numbers += (numbers.empty() ? "" : ", ") + printable(what) + " " + value_text(number); }
    }
    items.push_back(text + (numbers.empty() ? "" : " (" + numbers + ")"));
  }
  return items;
}

void print_layers(std::vector<grouped_share> const& shares) {
  table t({"layer", "tensors", "merged", "groups", "rows/channel", "similarity", "stored", "of experts"});
  auto const row = [&](std::string const& name, grouped_total const& total) {
    t.add({printable(name, 30), std::to_string(total.tensors), std::to_string(total.merged),
           total.merged == 0 ? "-" : std::to_string(total.groups), fixed(total.rows_per_channel(), 2),
           fixed(total.similarity(), 3), size_text(total.stored_bytes), fixed(total.stored_fraction(), 3)});
  };
  grouped_total all;
  for (auto const& s : shares) { all.add(s); }
  for (auto const& [key, total] : totals_by_layer(shares)) { row(key.name(), total); }
  row("all", all);
  t.print(std::cout);
}

void print(braid::grouped_checkpoint const& g) {
  auto const& d = g.description();
  auto const shares = shares_of(g);
  std::size_t merged = 0;
  std::size_t from_base = 0;
  std::uint64_t merged_bytes = 0;
  std::uint64_t residual_bytes = 0;
  std::set<braid::residual_code> codes;
  for (auto const& s : shares) {
    if (s.merged()) {
      ++merged;
      merged_bytes += s.tensor->stored_bytes;
    }
    if (s.tensor->action == "base") { ++from_base; }
    residual_bytes += s.tensor->residual_bytes;
    codes.insert(s.tensor->residuals.begin(), s.tensor->residuals.end());
  }
  std::uint64_t const kept_bytes = g.stored_bytes() - merged_bytes;
  std::cout << printable(g.files().path().string()) << ": grouped checkpoint of "
            << counted(g.experts().size(), "expert") << ", format " << d.at("format").dump() << ", written by braid "
            << value_text(d.at("version")) << '\n';
  print_list("experts", g.experts());
  std::cout << "  base      " << value_text(d.at("base").at("name")) << '\n';
  std::cout << "  method    " << value_text(d.at("method")) << '\n';
  auto const recipe = recipe_items(d.value("recipe", nlohmann::json::object()));
  if (!recipe.empty()) { print_list("recipe", recipe); }
  print_list("tensors",
             {std::to_string(merged) + " merged", std::to_string(shares.size() - merged - from_base) + " kept",
              std::to_string(from_base) + " from the base"});
  for (auto const& [alias, target] : d.value("tied", std::map<std::string, std::string>())) {
    std::cout << "  tied      " << printable(alias) << " to " << printable(target) << '\n';
  }
  std::cout << "  stored    " << size_text(g.stored_bytes()) << " of the experts' " << size_text(g.expert_bytes())
            << " (" << fixed(g.stored_fraction(), 3) << "), in " << counted(weight_files(g.files()).size(), "file")
            << '\n';
  if (g.stored_bytes() != 0) {
    double const share = static_cast<double>(kept_bytes) / static_cast<double>(g.stored_bytes());
    std::cout << "  kept      " << size_text(kept_bytes) << ", " << fixed(100.0 * share, 0) << " % of what is stored\n";
  }
  if (residual_bytes != 0) {
    std::cout << "  residuals " << residual_text({codes.begin(), codes.end()}) << ", " << size_text(residual_bytes)
              << "; without them the directory is no model\n";
  }
  std::cout << '\n';
  print_layers(shares);
}

void print(braid::checkpoint const& c) {
  struct kind {
    std::size_t count = 0;
    std::uint64_t bytes = 0;
  };
  kind all;
  std::map<std::string_view, kind> types;
  std::map<std::tuple<std::string, std::string_view, std::vector<braid::index_t>>, kind> patterns;
  for (auto const& t : c.tensors()) {
    auto const type = braid::name_of(t.type);
    for (kind* const k : {&all, &types[type], &patterns[{pattern_of(t.name), type, t.shape}]}) {
      ++k->count;
      k->bytes += t.bytes;
    }
  }
  std::cout << printable(c.path().string()) << ": checkpoint, " << counted(all.count, "tensor") << ", "
            << size_text(all.bytes) << " in " << counted(weight_files(c).size(), "file") << '\n';
  std::vector<std::string> items;
  for (auto const& [name, k] : types) {
    items.push_back(std::string(name) + " (" + counted(k.count, "tensor") + ", " + size_text(k.bytes) + ")");
  }
  print_list("types", items);
  std::cout << '\n';
  table t({"tensors", "count", "type", "shape", "bytes"});
  for (auto const& [what, k] : patterns) {
    auto const& [name, type, shape] = what;
    t.add({printable(name, 52), std::to_string(k.count), std::string(type), printable(shape_text(shape), 20),
           size_text(k.bytes)});
  }
  t.print(std::cout);
}

void print(nlohmann::ordered_json const& json) {
  // Paths and names of files needn't be UTF-8, JSON is.
  std::cout << json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
}

}  // namespace

int inspect(inspect_arguments const& args) {
  braid::checkpoint const c(args.dir);
  if (braid::grouped_checkpoint::is_grouped(c)) {
    braid::grouped_checkpoint const g(args.dir);
    if (args.json) {
      print(to_json(g));
    } else {
      print(g);
    }
  } else if (args.json) {
    print(to_json(c));
  } else {
    print(c);
  }
  return success;
}

}  // namespace program
