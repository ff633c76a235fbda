#include "support/catch.hpp"
#include "support/method_models.hpp"

using namespace braid_test;

namespace {

using braid::base_role;
using braid::method_style;

/// Models of one value a row and column.
template <class F>
matrix matrix_of(dtype type, index_t rows, index_t cols, F const& value) {
  matrix m(type, rows, cols);
  for (index_t r = 0; r < rows; ++r) {
    for (index_t c = 0; c < cols; ++c) { m.set(r, c, value(r, c)); }
  }
  return m;
}

/// Calls `f(method, number of models besides the base, whether it takes a base)` for every method in both styles.
template <class F>
void for_each_method(F const& f) {
  for (std::string_view const name : braid::tensor_method_names) {
    for (auto const style : {method_style::mergekit, method_style::paper}) {
      std::optional<braid::trim_scope> scope;
      if (name == "ties") { scope = braid::trim_scope::tensor; }
      auto const m = braid::make_tensor_method<braid::cpu>(name, {.style = style, .seed = 5, .scope = scope});
      INFO(name << (style == method_style::paper ? ", paper" : ""));
      int const most = name == "slerp" ? 1 : m->info().most_models;
      f(*m, std::min(2, most), m->info().base != base_role::member);
    }
  }
}

void set_required(any_method const& m, braid::tensor_request& r) {
  for (auto const& p : m.info().parameters) {
    if (p.name == "weight" || p.name == "t" || p.name == "density") { r.parameters.of_tensor[std::string(p.name)] = 0.5; }
  }
}

}  // namespace

TEST_CASE("zeros of both signs merge to zeros, by every method", "[method][edges]") {
  random_source random(71);
  for_each_method([&](any_method const& m, int models, bool based) {
    for (dtype const type : {dtype::f32, dtype::bf16}) {
      family f;
      auto const zeros = [&] { return matrix_of(type, 3, 40, [&](index_t, index_t) { return random.chance(0.5) ? -0.0f : 0.0f; }); };
      f.base = zeros();
      for (int e = 0; e < models; ++e) { f.experts.push_back({expert_name(e), zeros()}); }
      auto request = request_of(f, based, type);
      set_required(m, request);
      auto const out = merged(m, request);
      CHECK(std::all_of(out.begin(), out.end(), [](float x) { return x == 0.0f; }));
      if (m.info().name == "passthrough") {
        request.parameters = {};
        CHECK(different_bits(merged(m, request), elements(f.experts[0].weight)) == 0);
      }
    }
  });
}

TEST_CASE("deltas of one magnitude everywhere leave no element out of bounds, by any method", "[method][edges]") {
  random_source random(72);
  for_each_method([&](any_method const& m, int models, bool based) {
    for (index_t const rows : {1, 4}) {
      family f;
      f.base = matrix_of(dtype::f32, rows, 60, [](index_t, index_t) { return 1.0f; });
      auto const moved = [&](index_t, index_t) { return random.chance(0.5) ? 1.25f : 0.75f; };
      for (int e = 0; e < models; ++e) { f.experts.push_back({expert_name(e), matrix_of(dtype::f32, rows, 60, moved)}); }
      auto request = request_of(f, based, dtype::f32);
      set_required(m, request);
      auto const out = merged(m, request);
      // An element is kept with probability 0.5 - 0.15 or more, and then divided by that; l1 scales by about 2.
      CHECK(std::all_of(out.begin(), out.end(), [](float x) { return std::abs(x) <= 2.0f * 1.25f / 0.35f; }));
      if (m.info().name == "ties" || m.info().name.starts_with("breadcrumbs")) {
        // Exactly half of each model's deltas survive: the lower index of a trim, the higher of what drops the smallest.
        index_t const kept = rows * 60 / 2;
        index_t const outliers = m.info().name == "ties" ? 0 : static_cast<index_t>(0.01 * static_cast<double>(rows * 60));
        index_t const first = m.info().name == "ties" ? 0 : rows * 60 - outliers - kept;
        int wrong = 0;
        for (index_t i = 0; i < rows * 60; ++i) {
          bool const survives = i >= first && i < first + kept;
          float const a = elements(f.experts[0].weight)[static_cast<std::size_t>(i)];
          float const b = elements(f.experts[1].weight)[static_cast<std::size_t>(i)];
          bool const moves = out[static_cast<std::size_t>(i)] != 1.0f;
          wrong += moves != (survives && (a == b || m.info().name != "breadcrumbs")) ? 1 : 0;
        }
        CHECK(wrong == 0);
      }
    }
  });
}

TEST_CASE("opposite models merge to something finite, or are refused in one line, by every method", "[method][edges]") {
  random_source random(73);
  for_each_method([&](any_method const& m, int models, bool based) {
    for (bool const far : {false, true}) {  // far: opposite about the origin, else about the base
      family f;
      f.base = matrix_of(dtype::f32, 2, 70, [&](index_t, index_t) { return far ? 0.0f : static_cast<float>(random.bell()); });
      matrix const direction = matrix_of(dtype::f32, 2, 70, [&](index_t, index_t) { return static_cast<float>(random.bell()); });
      for (int e = 0; e < models; ++e) {
        float const side = e % 2 == 0 ? 1.0f : -1.0f;
        f.experts.push_back({expert_name(e), matrix_of(dtype::f32, 2, 70, [&](index_t r, index_t c) {
                               return f.base.at(r, c) + side * direction.at(r, c);
                             })});
      }
      auto request = request_of(f, based, dtype::f32);
      set_required(m, request);
      std::vector<float> out;
      try {
        out = merged(m, request);
      } catch (braid::error const& e) {
        CHECK(std::string_view(e.what()).find('\n') == std::string_view::npos);
        CHECK(std::string_view(e.what()).find(f.tensor) != std::string_view::npos);
      }
      CHECK(std::all_of(out.begin(), out.end(), [](float x) { return std::isfinite(x); }));
    }
  });
}
