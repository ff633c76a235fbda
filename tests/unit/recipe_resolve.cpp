#include "support/golden.hpp"
#include "support/random_models.hpp"
#include "unit/io_support.hpp"

#include <braid/recipe/layer_names.hpp>
#include <braid/recipe/parse.hpp>
#include <braid/recipe/resolve.hpp>

using namespace braid_test;
using namespace braid::recipe;

namespace {

setting gradient(std::vector<std::string> const& values) {
  conditional c;
  c.gradient = true;
  for (auto const& v : values) { c.values.push_back({v}); }
  return {{c}};
}

double number(std::optional<value> const& v) { return std::get<double>(v.value()); }

/// Whether a value is what mergekit resolved.
bool agrees(value const& v, nlohmann::json const& expected) {
  if (bool const* const b = std::get_if<bool>(&v)) { return expected.is_boolean() && *b == expected.get<bool>(); }
  if (auto const* const i = std::get_if<std::int64_t>(&v)) {
    return expected.is_number() && *i == expected.get<std::int64_t>();
  }
  if (double const* const x = std::get_if<double>(&v)) { return expected.is_number() && *x == expected.get<double>(); }
  return expected == std::get<std::string>(v);
}

void check_values(resolved_parameters::values const& found, nlohmann::json const& expected) {
  for (auto const& [name, v] : found) {
    INFO(name << " is to be " << expected.dump());
    REQUIRE(expected.contains(name));
    CHECK(agrees(v, expected.at(name)));
  }
  for (auto const& [name, v] : expected.items()) {
    INFO(name);
    CHECK((v.is_null() || found.count(name) == 1));
  }
}

}  // namespace

TEST_CASE("a gradient is interpolated between its values, evenly spread over the layers", "[recipe][resolve]") {
  random_source random(811);
  for (int trial = 0; trial < 200; ++trial) {
    auto const n = static_cast<std::size_t>(random.between(1, 6));
    std::vector<double> points;
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < n; ++i) {
      points.push_back(static_cast<double>(random.between(-40, 40)) / 8.0);
      texts.push_back(std::to_string(points.back()));
    }
    int const layers = static_cast<int>(random.between(1, 30));
    for (int l = 0; l < layers; ++l) {
      double const t = gradient_position(l, layers);
      double const x = number(evaluate(gradient(texts), "w", t, value_kind::number));
      double const at = t * static_cast<double>(n - 1);
      // The hat functions of the points, added up.
      double expected = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        expected += points[i] * std::max(0.0, 1.0 - std::abs(at - static_cast<double>(i)));
      }
      CHECK(x == Catch::Approx(expected).margin(1e-12));
    }
    CHECK(number(evaluate(gradient(texts), "w", 0.0, value_kind::number)) == points.front());
    CHECK(number(evaluate(gradient(texts), "w", 1.0, value_kind::number)) == points.back());
  }
  CHECK(gradient_position(0, 1) == 1.0);
}

TEST_CASE("values that aren't numbers are chosen along a gradient, not mixed", "[recipe][resolve]") {
  auto const on_off = gradient({"true", "false", "true"});
  CHECK(std::get<bool>(*evaluate(on_off, "w", 0.49, value_kind::boolean)));
  CHECK_FALSE(std::get<bool>(*evaluate(on_off, "w", 0.5, value_kind::boolean)));
  CHECK(std::get<bool>(*evaluate(on_off, "w", 1.0, value_kind::boolean)));
  constexpr auto words = std::to_array<std::string_view>({"cosine", "sign"});
  CHECK(std::get<std::string>(*evaluate(gradient({"sign", "cosine"}), "w", 0.7, value_kind::text, words)) == "sign");
  CHECK(std::get<std::int64_t>(*evaluate(gradient({"1", "3"}), "w", 0.5, value_kind::integer)) == 2);
  CHECK_THROWS_AS(evaluate(gradient({"1", "2"}), "w", 0.5, value_kind::integer), braid::argument_error);
  CHECK_FALSE(evaluate(gradient({}), "w", 0.5, value_kind::number).has_value());
}

TEST_CASE("scalars mean what the parameter makes of them", "[recipe][resolve]") {
  auto const as_number = [](char const* text) { return read_value(text, value_kind::number); };
  CHECK(number(as_number("1e-1")) == 0.1);
  CHECK(number(as_number("+.5")) == 0.5);
  CHECK(number(as_number("true")) == 1.0);
  for (char const* const bad : {"", "x", "1x", "1 2", "nan", "inf", "1e999", "0x10", "1_000"}) {
    INFO(bad);
    CHECK_FALSE(as_number(bad).has_value());
  }
  for (char const* const yes : {"true", "True", "YES", "on", "1", "1.0"}) {
    CHECK(std::get<bool>(*read_value(yes, value_kind::boolean)));
  }
  for (char const* const no : {"false", "No", "OFF", "0"}) {
    CHECK_FALSE(std::get<bool>(*read_value(no, value_kind::boolean)));
  }
  CHECK_FALSE(read_value("2", value_kind::boolean).has_value());
  CHECK(std::get<std::int64_t>(*read_value("10.0", value_kind::integer)) == 10);
  CHECK_FALSE(read_value("10.5", value_kind::integer).has_value());
}

TEST_CASE("the source comes before the slice, the module and the recipe", "[recipe][resolve]") {
  known_parameter const weight{"weight", value_kind::number, parameter_scope::model};
  known_parameter const lambda{"lambda", value_kind::number, parameter_scope::tensor, "1"};
  auto const one = [](std::string const& text, std::string const& filter = "") {
    conditional c;
    c.filter = name_filter(filter);
    c.values.push_back({text});
    return parameters{{"weight", {{c}}}};
  };
  // All sixteen sets of levels: the first that is there decides.
  std::vector<parameters> const set{one("1"), one("2"), one("3"), one("4")};
  for (unsigned there = 0; there < 16; ++there) {
    auto const level = [&](unsigned i) { return (there >> i & 1u) != 0 ? &set[i] : nullptr; };
    auto const v = resolve_setting({level(0), level(1), level(2), level(3)}, weight, "w", 0.0);
    if (there == 0) {
      CHECK_FALSE(v.has_value());
    } else {
      CHECK(number(v) == 1.0 + std::countr_zero(there));
    }
  }
  // A level whose filter misses is passed over.
  parameters const mlp = one("5", "mlp");
  CHECK(number(resolve_setting({&mlp, &set[1]}, weight, "layers.0.mlp.up", 0.0)) == 5.0);
  CHECK(number(resolve_setting({&mlp, &set[1]}, weight, "layers.0.attn.q", 0.0)) == 2.0);
  CHECK(number(resolve_setting({&mlp}, lambda, "w", 0.0)) == 1.0);
}

TEST_CASE("a required parameter that nobody sets is refused with model and tensor", "[recipe][resolve]") {
  auto const r =
      parse("merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 1}}\n  - {model: org/b}\n", "r.yml");
  auto const slices = slices_of(r, r.modules[0], [](auto const&) { return 2; });
  CHECK(message_of([&] {
          (void)resolve(r, r.modules[0], slices[0], {"w", "v"}, "w", 0.0);
        }) ==
        "r.yml: the method 'linear' needs the parameter 'weight' for org/b, tensor \"v\"; write it under 'parameters', "
        "without a "
        "filter for all tensors");
}

TEST_CASE("whole models become one slice with the base as its last source", "[recipe][resolve]") {
  auto const r = parse(
      "merge_method: ties\nbase_model: c\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: "
      "{weight: 1}}]\n");
  auto const slices = slices_of(r, r.modules[0], [](auto const&) { return 3; });
  REQUIRE(slices.size() == 1);
  REQUIRE(slices[0].sources.size() == 3);
  CHECK(slices[0].sources[2].model == model_reference{{"c"}});
  auto const layers = output_layers(slices);
  REQUIRE(layers.size() == 3);
  CHECK(layers[1].t == 0.5);
  CHECK(layers[2].from == std::vector<int>{2, 2, 2});
  CHECK_THROWS_AS(slices_of(r, r.modules[0], [](auto const& m) { return m.model.path == "b" ? 2 : 3; }),
                  braid::argument_error);
}

TEST_CASE("a slice that goes beyond a model's layers is refused", "[recipe][resolve]") {
  auto const r = parse("merge_method: passthrough\nslices:\n  - sources: [{model: a, layer_range: [1, 4]}]\n", "r.yml");
  CHECK(slices_of(r, r.modules[0], [](auto const&) { return 4; }).size() == 1);
  CHECK(message_of([&] { (void)slices_of(r, r.modules[0], [](auto const&) { return 3; }); }) ==
        "r.yml:3:15: layer_range [1, 4] goes beyond the 3 layers of a");
}

TEST_CASE("every parameter of every tensor is what mergekit resolves", "[recipe][resolve][golden]") {
  int tensors = 0;
  for (auto const& e : golden_entries()) {
    if (!e.contains("plan")) { continue; }
    std::string const name = e.at("name");
    INFO(name);
    auto const r = parse_file(golden_dir() / e.at("recipe").get<std::string>());
    auto const& module = r.modules.at(0);
    auto const slices = slices_of(r, module, [](model_reference const& m) {
      return layer_count(golden_json(std::filesystem::path(m.model.path) / "config.json")).value();
    });
    auto const layers = output_layers(slices);
    CHECK(static_cast<int>(layers.size()) == e.at("config").at("num_hidden_layers").get<int>());
    for (auto const& tensor : golden_json(e.at("plan").get<std::string>())) {
      std::string const output = tensor.at("name");
      INFO(output);
      auto const place = layer_of(output);
      output_layer const* const layer = place ? &layers.at(static_cast<std::size_t>(place->layer)) : nullptr;
      std::size_t const s = layer != nullptr ? layer->slice : stands_before_layers(output) ? 0 : slices.size() - 1;
      output_slice const& slice = slices.at(s);
      std::vector<std::string> inputs;
      std::vector<std::string> models;
      for (std::size_t i = 0; i < slice.sources.size(); ++i) {
        inputs.push_back(layer != nullptr ? with_layer(output, layer->from[i]) : output);
        models.push_back(to_text(slice.sources[i].model));
      }
      CHECK(models == tensor.at("models").get<std::vector<std::string>>());
      CHECK(inputs == tensor.at("inputs").get<std::vector<std::string>>());
      auto const found = resolve(r, module, slice, inputs, output, layer != nullptr ? layer->t : 0.0);
      check_values(found.of_tensor, tensor.at("shared"));
      for (std::size_t i = 0; i < models.size(); ++i) { check_values(found.of_model[i], tensor.at("per_input").at(i)); }
      ++tensors;
    }
  }
  CHECK(tensors > 150);
}

TEST_CASE("in the papers' style parameters have the papers' defaults", "[recipe][resolve]") {
  std::string const text = "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n";
  for (bool const paper : {false, true}) {
    merge_recipe const r = parse(text + (paper ? "style: paper\n" : "parameters: {weight: 1}\n"), "r.yml");
    auto const slices = slices_of(r, r.modules[0], [](model_reference const&) { return 1; });
    std::vector<std::string> const names(slices[0].sources.size(), "w");
    auto const found = resolve(r, r.modules[0], slices[0], names, "w", 0.0);
    CHECK(std::get<bool>(found.of_tensor.at("normalize")) == paper);
    CHECK(number(found.of_model[0].at("weight")) == 1.0);
  }
}
