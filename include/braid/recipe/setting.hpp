#pragma once

/// Values of parameters as recipes write them: numbers, gradients along the layers, and filters by tensor name.

#include <braid/recipe/name_filter.hpp>
#include <braid/recipe/place.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <span>
#include <system_error>
#include <variant>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// What a parameter's values are.
enum class value_kind : unsigned char {
  number,  // finite
  integer,
  boolean,
  text,           // one of the parameter's choices
  switch_or_text  // boolean, or one of the choices
};

/// A value, after gradients and filters have been resolved.
using value = std::variant<bool, std::int64_t, double, std::string>;

/// A scalar as it stands in the text. What it means depends on the parameter: "1e-1" is a number to `weight`, and YAML
/// takes it for text.
struct scalar {
  std::string text;
  place at{};
};

/// Values for the tensors that a filter matches.
struct conditional {
  name_filter filter{};
  std::vector<scalar> values{};  // one; or, if `gradient`, any number, spread evenly from the first layer to the last
  bool gradient = false;
  place at{};
};

/// What a recipe says about one parameter. The first conditional whose filter matches decides.
struct setting {
  std::vector<conditional> conditions;
};

/// One line of a `parameters` mapping.
struct parameter_setting {
  std::string name;
  setting what;
  place at{};
};
using parameters = std::vector<parameter_setting>;

[[nodiscard]] inline setting const* find(parameters const& p, std::string_view name) noexcept {
  auto const it = std::find_if(p.begin(), p.end(), [&](parameter_setting const& s) { return s.name == name; });
  return it == p.end() ? nullptr : &it->what;
}

namespace detail {

inline std::string lower(std::string_view text) {
  std::string s(text);
  for (char& c : s) { c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
  return s;
}

inline std::optional<bool> read_boolean(std::string_view text) {
  std::string const t = lower(text);
  for (char const* const yes : {"true", "yes", "on", "1", "1.0"}) {
    if (t == yes) { return true; }
  }
  for (char const* const no : {"false", "no", "off", "0", "0.0"}) {
    if (t == no) { return false; }
  }
  return std::nullopt;
}

inline std::optional<double> read_number(std::string_view text) {
  if (std::string const t = lower(text); t == "true" || t == "false") { return t == "true" ? 1.0 : 0.0; }
  if (text.starts_with('+')) { text.remove_prefix(1); }
  double x = 0.0;
  auto const [end, problem] = std::from_chars(text.data(), text.data() + text.size(), x);
  if (problem != std::errc{} || end != text.data() + text.size() || !std::isfinite(x)) { return std::nullopt; }
  return x;
}

}  // namespace detail

/// Reads a scalar.
/// @param choices  what texts may be; not asked where `kind` is number, integer or boolean
/// @return nothing where the text can't be of that kind
[[nodiscard]] inline std::optional<value> read_value(std::string_view text, value_kind kind,
                                                     std::span<std::string_view const> choices = {}) {
  switch (kind) {
    case value_kind::number:
      if (auto const x = detail::read_number(text)) { return value(*x); }
      break;
    case value_kind::integer:
      if (auto const x = detail::read_number(text); x && std::abs(*x) < 9e15 && *x == std::floor(*x)) {
        return value(static_cast<std::int64_t>(*x));
      }
      break;
    case value_kind::switch_or_text:
    case value_kind::boolean:
      if (auto const b = detail::read_boolean(text)) { return value(*b); }
      if (kind == value_kind::boolean) { break; }
      [[fallthrough]];
    case value_kind::text:
      if (std::find(choices.begin(), choices.end(), text) != choices.end()) { return value(std::string(text)); }
      break;
  }
  return std::nullopt;
}

/// Where a layer stands in its slice: 0 the first, 1 the last, and the only one is the last. Tensors outside the layers
/// stand at 0, whichever end of the model they are at: so gradients give embeddings, final norm and head their first
/// value.
[[nodiscard]] constexpr double gradient_position(int layer, int layers) noexcept {
  return layers > 1 ? static_cast<double>(layer) / static_cast<double>(layers - 1) : 1.0;
}

/// The value of a setting for one tensor.
/// @param tensor  its name, which filters see
/// @param t       where it stands among the layers, from 0 to 1: see `gradient_position`
/// @return nothing where no filter matches, or a gradient has no values: the next level of the recipe decides
/// @throws argument_error where a scalar can't be of that kind
///
/// Numbers between the values of a gradient are interpolated in float64, (1 - f) a + f b; booleans and texts are not:
/// value number floor(t (n - 1)) holds.
[[nodiscard]] inline std::optional<value> evaluate(setting const& s, std::string_view tensor, double t, value_kind kind,
                                                   std::span<std::string_view const> choices = {}) {
  auto const read = [&](scalar const& x) {
    auto v = read_value(x.text, kind, choices);
    if (!v) { throw argument_error("the value " + braid::detail::in_quotes(x.text) + " can't be meant here"); }
    return *v;
  };
  for (conditional const& c : s.conditions) {
    if (!c.filter.matches(tensor)) { continue; }
    if (c.values.empty()) { return std::nullopt; }
    if (!c.gradient || c.values.size() == 1) { return read(c.values.front()); }
    double const scaled = t * static_cast<double>(c.values.size() - 1);
    auto const low = static_cast<std::size_t>(scaled);
    if (kind != value_kind::number && kind != value_kind::integer) { return read(c.values[low]); }
    std::size_t const high = std::min(c.values.size() - 1, low + 1);
    auto const number = [&](std::size_t i) {
      auto const x = detail::read_number(c.values[i].text);
      if (!x) { throw argument_error("the value " + braid::detail::in_quotes(c.values[i].text) + " isn't a number"); }
      return *x;
    };
    double const f = scaled - static_cast<double>(low);
    double const x = (1.0 - f) * number(low) + f * number(high);
    if (kind == value_kind::number) { return value(x); }
    if (x != std::floor(x)) {
      throw argument_error("a gradient of a whole number gives " + std::to_string(x) + " for tensor " +
                           braid::detail::in_quotes(tensor) + "; write one number");
    }
    return value(static_cast<std::int64_t>(x));
  }
  return std::nullopt;
}

}  // namespace recipe
BRAID_NAMESPACE_END
