#include "inputs.hpp"

#include "text.hpp"

#include <braid/io/grouped_layout.hpp>

#include <charconv>
#include <filesystem>

namespace program {
namespace {

std::string option_of(braid::action what) {
  return what == braid::action::merge ? "--merge" : what == braid::action::keep ? "--keep" : "--from-base";
}

braid::glob compiled(std::string const& option, std::string const& pattern) {
  try {
    return braid::glob(pattern);
  } catch (braid::argument_error const& e) {
    throw braid::argument_error(option + ": " + e.what());
  }
}

/// Name, empty where none is given, and directory.
std::pair<std::string, std::string> split_expert(std::string const& text) {
  std::size_t const equals = text.find('=');
  std::string const before = text.substr(0, equals);
  // A directory may have '=' in it; a name has no '/'.
  bool const named = equals != std::string::npos && before.find('/') == std::string::npos;
  std::string const dir = named ? text.substr(equals + 1) : text;
  if (dir.empty()) {
    throw braid::argument_error("--expert '" + printable(text) + "' names no directory; write NAME=DIR or DIR");
  }
  if (named && !braid::is_expert_name(before)) {
    throw braid::argument_error("--expert '" + printable(text) + "': a name is of letters, digits, '-' and '_'");
  }
  return {named ? before : std::string(), dir};
}

}  // namespace

braid::selection choose_tensors(merge_arguments const& args) {
  std::vector<braid::rule> rules;
  for (auto const& [what, pattern] : args.patterns) { rules.push_back({compiled(option_of(what), pattern), what}); }
  std::vector<braid::axis_rule> axes;
  for (auto const& text : args.channel_axes) {
    std::size_t const equals = text.rfind('=');
    int axis = 0;
    bool good = equals != std::string::npos && equals > 0;
    if (good) {
      auto const* const end = text.data() + text.size();
      auto const [stop, error] = std::from_chars(text.data() + equals + 1, end, axis);
      good = error == std::errc{} && stop == end;
    }
    if (!good) {
      throw braid::argument_error("--channel-axis '" + printable(text) +
                                  "': write GLOB=AXIS, such as '*.c_attn.weight=1', or -1 for the last dimension");
    }
    axes.push_back({compiled("--channel-axis", text.substr(0, equals)), axis});
  }
  return braid::selection(std::move(rules), std::move(axes));
}

std::vector<std::string> idle_patterns(braid::selection const& tensors, std::vector<std::string_view> const& names) {
  std::vector<std::string> notes;
  auto const check = [&](auto const& rules, auto const& option) {
    std::vector<bool> matches(rules.size());
    std::vector<bool> decides(rules.size());
    for (std::string_view const name : names) {
      bool taken = false;
      for (std::size_t i = 0; i < rules.size(); ++i) {
        if (!rules[i].pattern.matches(name)) { continue; }
        matches[i] = true;
        if (!taken) { decides[i] = true; }
        taken = true;
      }
    }
    for (std::size_t i = 0; i < rules.size(); ++i) {
      if (decides[i]) { continue; }
      notes.push_back(option(rules[i]) + " '" + printable(rules[i].pattern.pattern()) + "' has no effect: " +
                      (matches[i] ? "all that it matches is decided by patterns before it"
                                  : "no tensor's name matches"));
    }
  };
  check(tensors.rules(), [](braid::rule const& r) { return option_of(r.what); });
  check(tensors.axes(), [](braid::axis_rule const&) { return std::string("--channel-axis"); });
  return notes;
}

std::optional<braid::dtype> choose_dtype(merge_arguments const& args) {
  if (!args.dtype) { return std::nullopt; }
  std::string upper = *args.dtype;
  for (char& c : upper) { c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
  braid::dtype type{};
  if (!braid::parse_dtype(upper, type) || !braid::is_computable(type)) {
    throw braid::argument_error("--dtype '" + printable(*args.dtype) +
                                "' is unknown; choose f32, f16, bf16, f8_e4m3 or f8_e5m2");
  }
  return type;
}

merge_arguments split_adapters(merge_arguments args) {
  if (!args.adapters.empty()) { return args; }
  std::vector<std::string> adapters;
  for (std::string& text : args.experts) {
    auto const [name, dir] = split_expert(text);
    std::error_code none;
    std::size_t const plus = std::filesystem::exists(dir, none) ? std::string::npos : dir.find('+');
    if (plus == std::string::npos || plus == 0 || plus + 1 == dir.size()) {
      adapters.emplace_back();
      continue;
    }
    std::string const lora = dir.substr(plus + 1);
    adapters.push_back(lora);
    text = (name.empty() ? (std::filesystem::path(lora) / "").parent_path().filename().string() : name) + "=" + dir.substr(0, plus);
  }
  args.adapters = std::move(adapters);
  return args;
}

std::vector<braid::checkpoint> open_experts(merge_arguments const& args) {
  std::vector<braid::checkpoint> experts;
  for (auto const& text : args.experts) {
    auto const [name, dir] = split_expert(text);
    experts.emplace_back(dir, name);
    std::string const& known_as = experts.back().name();
    if (!braid::is_expert_name(known_as)) {
      throw braid::argument_error("--expert " + printable(dir) + " would be called '" + printable(known_as) +
                                  "', but names are of letters, digits, '-' and '_'; write --expert NAME=" +
                                  printable(dir));
    }
    for (std::size_t i = 0; i + 1 < experts.size(); ++i) {
      if (experts[i].name() == known_as) {
        throw braid::argument_error("--expert " + printable(dir) + ": another expert is called '" + known_as + "' (" +
                                    printable(experts[i].path().string()) + "); write --expert NAME=" + printable(dir) +
                                    " with a name of its own");
      }
    }
  }
  return experts;
}

}  // namespace program
