#include "support/catch.hpp"
#include "support/method_models.hpp"
#include "support/simd_scope.hpp"
#include "support/threads.hpp"

using namespace braid_test;

namespace {

using braid::base_role;
using braid::method_style;

std::unique_ptr<any_method> make(std::string_view name, method_style style = method_style::mergekit) {
  // Trimming over the whole model is tested by itself.
  std::optional<braid::trim_scope> scope;
  if (name == "ties") { scope = braid::trim_scope::tensor; }
  return braid::make_tensor_method<braid::cpu>(name, {.style = style, .seed = 11, .scope = scope});
}

/// Models that a method takes, besides a base.
int models_for(any_method const& m, int wanted) {
  int const most = m.info().name == "slerp" ? 1 : m.info().most_models;
  return std::clamp(wanted, std::max(m.info().least_models, m.info().name == "nuslerp" || m.info().name == "model_stock" ? 2 : 1), most);
}

bool takes_base(any_method const& m) { return m.info().base != base_role::member; }

/// A sum with a merged delta, which is never -0.
std::vector<float> plus_zero(std::vector<float> x) {
  for (float& y : x) { y = y + 0.0f; }
  return x;
}

/// What every parameter may be at once.
void set_all(any_method const& m, braid::tensor_request& request) {
  for (auto const& p : m.info().parameters) {
    double const x = p.name == "density"          ? 0.6
                     : p.name == "lambda"         ? 0.8
                     : p.name == "select_topk"    ? 0.5
                     : p.name == "t"              ? 0.3
                     : p.name == "weight"         ? 0.7
                     : p.name == "max_iter"       ? 4.0
                     : p.name == "nuslerp_flatten" ? 0.0
                     : p.name == "normalize" || p.name == "rescale" || p.name == "filter_wise" ? 1.0
                                                                                                : p.fallback;
    request.parameters.of_tensor[std::string(p.name)] = x;
  }
  // As published, only random pruning has probabilities to rescale by.
  bool const random = m.info().name.substr(0, 4) == "dare" || m.info().name.substr(0, 5) == "della";
  if (!random) { request.parameters.of_tensor.erase("rescale"); }
}

braid::tensor_request request_for(any_method const& m, family const& f, dtype out) {
  auto request = request_of(f, takes_base(m), out);
  set_all(m, request);
  return request;
}

family family_for(random_source& random, any_method const& m, dtype type, index_t rows, index_t cols) {
  return random_family(random, type, rows, cols, models_for(m, 3));
}

/// [cols, rows]: the channels as columns.
matrix transpose(matrix const& m) {
  matrix t(m.type, m.cols, m.rows);
  for (index_t r = 0; r < m.rows; ++r) {
    for (index_t c = 0; c < m.cols; ++c) { t.set(c, r, m.at(r, c)); }
  }
  return t;
}

std::string message_of(any_method const& m, braid::tensor_request const& request) {
  try {
    merged(m, request);
  } catch (braid::error const& e) {
    return e.what();
  }
  return "";
}

bool mentions(std::string const& text, std::initializer_list<std::string_view> words) {
  return std::all_of(words.begin(), words.end(), [&](std::string_view w) { return text.find(w) != std::string::npos; });
}

}  // namespace

TEST_CASE("no method's result depends on threads, blocks, strides, layout or instruction set", "[method][simd]") {
  allow_many_threads();
  random_source random(581);
  for (auto const style : {method_style::mergekit, method_style::paper}) {
    for (std::string_view const name : braid::tensor_method_names) {
      auto const m = make(name, style);
      for (dtype const type : {dtype::bf16, dtype::f32}) {
        family const f = family_for(random, *m, type, 600, 33);  // more rows than a block of a measure has
        auto const request = request_for(*m, f, type);
        auto const expected = merged_bytes(*m, request, 1);
        INFO(name << ", " << (style == method_style::paper ? "paper" : "mergekit"));
        CHECK(merged_bytes(*m, request, 4) == expected);
        for (auto const level : all_simd_levels) {
          simd_scope const scope(level);
          CHECK(merged_bytes(*m, request, 2) == expected);
        }
        // Gaps between rows, and channels that are columns.
        family wide = f;
        family turned = f;
        wide.base = with_gaps(f.base, 3);
        turned.base = transpose(f.base);
        for (std::size_t e = 0; e < f.experts.size(); ++e) {
          wide.experts[e].weight = with_gaps(f.experts[e].weight, 3);
          turned.experts[e].weight = transpose(f.experts[e].weight);
        }
        CHECK(merged_bytes(*m, request_for(*m, wide, type)) == expected);
        auto columns = request_for(*m, turned, type);
        columns.inputs.channels = f.base.rows;
        columns.inputs.cols = f.base.cols;
        columns.inputs.transposed = f.base.rows;
        CHECK(merged_bytes(*m, columns) == expected);
        // Block by block, whatever their sizes.
        braid::cpu const be{2};
        auto const plan = m->prepare(be, request);
        any_method::workspace work;
        std::vector<std::byte> gathered;
        std::vector<std::byte> out(expected.size());
        for (index_t first = 0; first < f.base.rows;) {
          index_t const rows = std::min<index_t>(random.between(1, 90), f.base.rows - first);
          m->apply(*plan, request.inputs.block(first, rows, gathered), out.data() + static_cast<std::size_t>(first) * f.base.row_bytes(),
                   work);
          first += rows;
        }
        CHECK(out == expected);
      }
    }
  }
}

TEST_CASE("every element type is merged as its float32 values are, and rounded once", "[method]") {
  random_source random(582);
  for (std::string_view const name : braid::tensor_method_names) {
    auto const m = make(name);
    for (dtype const type : {dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2}) {
      family const f = family_for(random, *m, type, 20, 70);
      family widened = f;
      widened.base = matrix(dtype::f32, 20, 70);
      for (std::size_t e = 0; e < f.experts.size(); ++e) {
        widened.experts[e].weight = matrix(dtype::f32, 20, 70);
        for (index_t r = 0; r < 20; ++r) {
          for (index_t c = 0; c < 70; ++c) {
            widened.base.set(r, c, f.base.at(r, c));
            widened.experts[e].weight.set(r, c, f.experts[e].weight.at(r, c));
          }
        }
      }
      auto request = request_for(*m, f, dtype::f32);
      INFO(name << " of " << braid::name_of(type));
      auto const exact = merged(*m, request_for(*m, widened, dtype::f32));
      CHECK(different_bits(merged(*m, request), exact) == 0);
      request.inputs.out = type;
      request.allow_nonfinite = true;
      auto const rounded = merged_bytes(*m, request);
      std::vector<std::byte> expected(rounded.size());
      for (std::size_t i = 0; i < exact.size(); ++i) { store(type, exact[i], expected.data(), static_cast<index_t>(i)); }
      CHECK(rounded == expected);
    }
  }
}

TEST_CASE("models that are the base give the base", "[method]") {
  random_source random(583);
  for (auto const style : {method_style::mergekit, method_style::paper}) {
    for (std::string_view const name : braid::tensor_method_names) {
      auto const m = make(name, style);
      if (!takes_base(*m)) { continue; }
      family f = family_for(random, *m, dtype::f32, 7, 100);
      for (auto& e : f.experts) { e.weight = f.base; }
      INFO(name);
      auto const got = merged(*m, request_for(*m, f, dtype::f32));
      double const error = relative_error(got, exact_elements(f.base));
      // Only these two join values of the base and the models, with rounding.
      CHECK(error <= (name == "slerp" || name == "model_stock" || name == "nearswap" ? 2e-7 : 0.0));
    }
  }
}

TEST_CASE("models in another order, with their weights, give the same merge up to rounding", "[method]") {
  random_source random(592);
  for (auto const style : {method_style::mergekit, method_style::paper}) {
    for (std::string_view const name : braid::tensor_method_names) {
      auto const m = make(name, style);
      family f = family_for(random, *m, dtype::f32, 12, 90);
      if (f.experts.size() < 2) { continue; }
      auto request = request_for(*m, f, dtype::f32);
      request.parameters.of_tensor.erase("weight");
      bool const weighs = std::any_of(m->info().parameters.begin(), m->info().parameters.end(),
                                      [](braid::parameter_info const& p) { return p.name == "weight"; });
      std::vector<double> weight;
      for (std::size_t i = 0; i < f.experts.size(); ++i) { weight.push_back(0.2 + random.unit()); }
      if (weighs) { request.parameters.of_model["weight"] = values(weight); }
      auto const first = merged(*m, request);
      std::reverse(request.models.begin(), request.models.end());
      std::reverse(request.inputs.experts.begin(), request.inputs.experts.end());
      std::reverse(weight.begin(), weight.end());
      if (weighs) { request.parameters.of_model["weight"] = values(weight); }
      INFO(name);
      CHECK(relative_error(merged(*m, request), std::vector<double>(first.begin(), first.end())) < 1e-5);
    }
  }
}

TEST_CASE("without models, methods that need a base give it bit for bit", "[method]") {
  random_source random(584);
  for (std::string_view const name : braid::tensor_method_names) {
    auto const m = make(name);
    if (m->info().base != base_role::required) { continue; }
    family f = random_family(random, dtype::bf16, 9, 50, 1);
    f.experts.clear();
    auto request = request_of(f, true, dtype::bf16);
    INFO(name);
    for (index_t r = 0; r < f.base.rows; ++r) {
      for (index_t c = 0; c < f.base.cols; ++c) {
        if (f.base.at(r, c) == 0.0f) { f.base.set(r, c, 0.0f); }  // -0 + 0 is 0
      }
    }
    CHECK(merged_bytes(*m, request) == f.base.packed());
  }
}

TEST_CASE("tensors of one element and of none are merged too", "[method]") {
  random_source random(585);
  for (auto const style : {method_style::mergekit, method_style::paper}) {
    for (std::string_view const name : braid::tensor_method_names) {
      auto const m = make(name, style);
      INFO(name);
      for (auto const& [rows, cols] : {std::pair<index_t, index_t>{1, 1}, {0, 5}, {5, 0}, {0, 0}}) {
        family const f = family_for(random, *m, dtype::f32, rows, cols);
        auto const got = merged(*m, request_for(*m, f, dtype::f32));
        CHECK(static_cast<index_t>(got.size()) == rows * cols);
        for (float const x : got) { CHECK(std::isfinite(x)); }
      }
    }
  }
}

TEST_CASE("density 0 leaves the base, density 1 every delta, unscaled", "[method][delta]") {
  random_source random(586);
  family const f = random_family(random, dtype::f32, 9, 300, 3);
  for (auto const style : {method_style::mergekit, method_style::paper}) {
    for (std::string_view const name : {"ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear"}) {
      auto const m = make(name, style);
      bool const elects = mentions(std::string(name), {"ties"}) || name == "della";
      auto const unpruned = make(elects ? "ties" : "task_arithmetic", style);
      for (double const rescale : {0.0, 1.0}) {
        if (rescale != 0.0 && style == method_style::paper && name != "dare_linear" && name != "dare_ties" && name != "della" &&
            name != "della_linear") {
          continue;
        }
        auto request = request_of(f, true, dtype::f32);
        request.parameters.of_tensor = {{"weight", 0.9}, {"density", 1.0}, {"rescale", rescale}, {"normalize", 1.0}};
        auto whole = request;
        whole.parameters.of_tensor["rescale"] = 0.0;
        INFO(name);
        CHECK(different_bits(merged(*m, request), merged(*unpruned, whole)) == 0);
        request.parameters.of_tensor["density"] = 0.0;
        CHECK(different_bits(merged(*m, request), plus_zero(elements(f.base))) == 0);
      }
    }
  }
}

TEST_CASE("NaN and infinity are refused with their place, or merged on request", "[method]") {
  random_source random(587);
  for (std::string_view const name : braid::tensor_method_names) {
    auto const m = make(name);
    for (int where = takes_base(*m) ? -1 : 0; where < models_for(*m, 3); ++where) {
      family f = family_for(random, *m, dtype::f32, 5, 60);
      float const bad = random.chance(0.5) ? std::nanf("") : HUGE_VALF;
      (where < 0 ? f.base : f.experts[static_cast<std::size_t>(where)].weight).set(3, 41, bad);
      auto request = request_for(*m, f, dtype::f32);
      INFO(name << ", model " << where);
      auto const message = message_of(*m, request);
      CHECK(mentions(message, {f.tensor, where < 0 ? "the base" : expert_name(where), "channel 3", "column 41"}));
      request.allow_nonfinite = true;
      CHECK_NOTHROW(merged(*m, request));
    }
  }
}

TEST_CASE("a result that doesn't fit into its type is refused", "[method]") {
  random_source random(588);
  family f = random_family(random, dtype::f16, 4, 40, 3);
  for (auto& e : f.experts) { e.weight.set(2, 7, 60000.0f); }
  f.base.set(2, 7, 1.0f);
  auto const m = make("task_arithmetic");
  auto request = request_of(f, true, dtype::f16);
  request.parameters.of_tensor["weight"] = 1.0;
  CHECK(mentions(message_of(*m, request), {"channel 2", "column 7", "F16"}));
  request.inputs.out = dtype::f32;
  CHECK(merged(*m, request)[2 * 40 + 7] > 179000.0f);  // sums are float32, so nothing overflows on the way
}

TEST_CASE("unknown, missing and impossible parameters are named with model and tensor", "[method]") {
  random_source random(589);
  for (std::string_view const name : braid::tensor_method_names) {
    auto const m = make(name);
    family const f = family_for(random, *m, dtype::f32, 3, 20);
    auto request = request_for(*m, f, dtype::f32);
    request.parameters.of_tensor["no_such"] = 1.0;
    INFO(name);
    CHECK(mentions(message_of(*m, request), {"no_such", f.tensor, name}));
    for (auto const& p : m->info().parameters) {
      auto broken = request_for(*m, f, dtype::f32);
      if (p.required) {
        broken.parameters.of_tensor.erase(std::string(p.name));
        CHECK(mentions(message_of(*m, broken), {p.name, f.tensor, name, "missing"}));
      }
      if (p.per_model && p.has_effect) {
        broken = request_for(*m, f, dtype::f32);
        auto& each = broken.parameters.of_model[std::string(p.name)];
        each.assign(f.experts.size(), std::nullopt);
        each.back() = std::nan("");
        CHECK(mentions(message_of(*m, broken), {p.name, f.tensor, name, f.experts.back().name}));
        each.push_back(1.0);
        CHECK(mentions(message_of(*m, broken), {p.name, f.tensor, name}));
      } else if (!p.per_model) {
        broken = request_for(*m, f, dtype::f32);
        broken.parameters.of_model[std::string(p.name)] = values(std::vector<double>(f.experts.size(), 1.0));
        CHECK(mentions(message_of(*m, broken), {p.name, f.tensor, name}));
      }
    }
  }
}

TEST_CASE("a missing weight of one model is missing for that model", "[method]") {
  random_source random(590);
  family const f = random_family(random, dtype::f32, 3, 20, 3);
  auto const m = make("ties");
  auto request = request_of(f, true, dtype::f32);
  request.parameters.of_model["weight"] = {0.5, std::nullopt, 0.5};
  CHECK(mentions(message_of(*m, request), {"'weight'", f.experts[1].name, f.tensor, "missing"}));
  request.parameters.of_tensor["weight"] = 0.25;
  auto explicitly = request_of(f, true, dtype::f32);
  explicitly.parameters.of_model["weight"] = values({0.5, 0.25, 0.5});
  CHECK(different_bits(merged(*m, request), merged(*m, explicitly)) == 0);
}

TEST_CASE("integers are never averaged, and models and base have to be there", "[method]") {
  random_source random(591);
  for (std::string_view const name : braid::tensor_method_names) {
    auto const m = make(name);
    family const f = family_for(random, *m, dtype::f32, 3, 20);
    INFO(name);
    auto request = request_for(*m, f, dtype::f32);
    request.inputs.experts.back().type = dtype::i64;
    CHECK(mentions(message_of(*m, request), {"I64", f.experts.back().name, f.tensor}));
    request = request_for(*m, f, dtype::f32);
    if (m->info().base == base_role::required) {
      request.inputs.base = {};
      CHECK(mentions(message_of(*m, request), {"base", f.tensor, name}));
    } else if (m->info().base == base_role::member) {
      request.inputs.base = rows_of(f.base);
      CHECK(mentions(message_of(*m, request), {"base", f.tensor, name}));
    }
    request = request_for(*m, f, dtype::f32);
    request.inputs.experts.assign(300, request.inputs.experts[0]);
    request.models.assign(300, "again");
    request.parameters.of_model.clear();
    CHECK(mentions(message_of(*m, request), {"300", f.tensor, name}));
    request.models.pop_back();
    CHECK_THROWS_AS(merged(*m, request), braid::argument_error);
  }
  CHECK_THROWS_AS(braid::make_tensor_method<braid::cpu>("ties_merging"), braid::argument_error);
  CHECK_THROWS_AS(braid::make_tensor_method<braid::cpu>("slerp", {.scope = braid::trim_scope::row}), braid::argument_error);
  CHECK_THROWS_AS(braid::make_tensor_method<braid::cpu>("dare_ties", {.scope = braid::trim_scope::model}), braid::argument_error);
}

TEST_CASE("every name knows its parameters", "[method]") {
  for (std::string_view const name : braid::tensor_method_names) {
    CHECK(make(name)->info().name == name);
    CHECK(make(name, method_style::paper)->info().name == name);
  }
  auto const required = [](std::string_view name) {
    std::string list;
    auto const m = make(name);
    for (auto const& p : m->info().parameters) { list += p.required ? std::string(p.name) + " " : ""; }
    return list;
  };
  CHECK(required("ties") == "weight ");
  CHECK(required("slerp") == "t ");
  CHECK(required("nearswap") == "t ");
  CHECK(required("sce").empty());
}
