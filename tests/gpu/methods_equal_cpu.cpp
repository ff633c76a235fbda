#include "support/catch.hpp"

#include "gpu/methods.hpp"

#include <cmath>

using namespace braid_test;

namespace {

constexpr dtype usual_types[] = {dtype::bf16, dtype::f16, dtype::f32};
constexpr dtype all_types[] = {dtype::bf16, dtype::f16, dtype::f32, dtype::f8_e4m3, dtype::f8_e5m2};

struct method_case {
  std::string_view name;
  braid::method_options options;
  braid::tensor_request request;
};

std::string describe(method_case const& c) {
  std::string text = std::string(c.name) + (c.options.style == braid::method_style::paper ? ", paper" : ", mergekit");
  auto const& in = c.request.inputs;
  text += ", " + std::to_string(in.channels) + " x " + std::to_string(in.cols) + " " + std::string(braid::name_of(in.out)) + ", " +
          std::to_string(in.experts.size()) + " models";
  for (auto const& [name, x] : c.request.parameters.of_tensor) { text += ", " + name + " " + std::to_string(x); }
  for (auto const& [name, xs] : c.request.parameters.of_model) {
    text += ", " + name;
    for (auto const& x : xs) { text += " " + std::to_string(*x); }
  }
  return text;
}

double random_parameter(random_source& random, braid::parameter_info const& p, bool pruned_at_random) {
  if (p.name == "density") { return random.chance(0.15) ? (random.chance(0.5) ? 1.0 : 0.0) : 0.3 + 0.5 * random.unit(); }
  if (p.name == "epsilon" && pruned_at_random) { return 0.19 * random.unit(); }
  if (p.name == "epsilon") { return 0.01 * random.unit(); }
  if (p.name == "gamma") { return 0.2 * random.unit(); }
  if (p.name == "weight") { return 0.1 + random.unit(); }
  if (p.name == "select_topk" || p.name == "t") { return random.unit(); }
  if (p.name == "lambda") { return random.chance(0.5) ? 1.0 : 2.0 * random.unit(); }
  if (p.kind == braid::parameter_kind::boolean) { return random.chance(0.5) ? 1.0 : 0.0; }
  return p.fallback;
}

/// A case with random parameters; the family outlives it. `models`: 0 for a random number.
method_case random_case(random_source& random, std::string_view name, family const& f, dtype out) {
  method_case c{name, {}, {}};
  c.options.style = random.chance(0.5) ? braid::method_style::paper : braid::method_style::mergekit;
  c.options.seed = random.bits();
  if (name == "ties") { c.options.scope = random.chance(0.3) ? braid::trim_scope::row : braid::trim_scope::tensor; }
  auto const m = braid::make_tensor_method<braid::cpu>(name, c.options);
  bool const based = m->info().base == braid::base_role::required || (m->info().base == braid::base_role::optional && random.chance(0.5));
  c.request = request_of(f, based, out);
  int most = std::min<int>(m->info().most_models, static_cast<int>(f.experts.size()));
  if (name == "slerp" && based) { most = 1; }
  int least = std::max(m->info().least_models, name == "model_stock" || (name == "nuslerp" && based) || (name == "slerp" && !based) ? 2 : 1);
  int const n = random.between(std::min(least, most), most);
  c.request.models.resize(static_cast<std::size_t>(n));
  c.request.inputs.experts.resize(static_cast<std::size_t>(n));
  bool const pruned_at_random = name.starts_with("dare") || name.starts_with("della");
  for (auto const& p : m->info().parameters) {
    if (p.name == "rescale" && !pruned_at_random && name != "task_arithmetic" && c.options.style == braid::method_style::paper) { continue; }
    if (p.per_model) {
      auto& values = c.request.parameters.of_model[std::string(p.name)];
      for (int i = 0; i < n; ++i) { values.emplace_back(random_parameter(random, p, pruned_at_random)); }
    } else {
      c.request.parameters.of_tensor[std::string(p.name)] = random_parameter(random, p, pruned_at_random);
    }
  }
  return c;
}

std::vector<std::byte> on_cpu(method_case const& c) {
  return merged_bytes(*braid::make_tensor_method<braid::cpu>(c.name, c.options), c.request);
}

std::string message_of(method_case const& c, bool on_device) {
  try {
    if (on_device) {
      (void)method_on_device(c.name, c.options, c.request);
    } else {
      (void)on_cpu(c);
    }
    return "no error";
  } catch (braid::error const& e) {
    return e.what();
  }
}

void check_same(method_case const& c, device_placing const& placing = {}) {
  INFO(describe(c));
  std::string const expected = message_of(c, false);
  if (expected != "no error") {
    REQUIRE(message_of(c, true) == expected);
    return;
  }
  auto const cpu = on_cpu(c);
  auto const device = method_on_device(c.name, c.options, c.request, placing);
  REQUIRE(device.size() == cpu.size());
  std::size_t const element = braid::size_of(c.request.inputs.out);
  std::size_t different = 0;
  std::size_t first = cpu.size();
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    if (device[i] == cpu[i]) { continue; }
    ++different;
    first = std::min(first, i);
  }
  INFO("first different element " << first / element);
  REQUIRE(different == 0);
}

}  // namespace

TEST_CASE("a method's bytes on the device are the CPU's, for every method, style, type and shape", "[short][methods]") {
  random_source random(451);
  for (std::string_view const name : braid::tensor_method_names) {
    for (int round = 0; round < 16; ++round) {
      family const f = method_family(random, random.one_of(usual_types), 4);
      check_same(random_case(random, name, f, f.base.type));
    }
  }
}

TEST_CASE("every kernel of a method once, small enough for compute-sanitizer", "[sanitized][methods]") {
  random_source random(452);
  for (std::string_view const name : braid::tensor_method_names) {
    for (dtype const type : {dtype::bf16, dtype::f32}) {
      family const f = random_family(random, type, 3, random.chance(0.5) ? 128 * random.between(1, 6) : random.between(2, 700), 4);
      check_same(random_case(random, name, f, type));
    }
    family const f = random_family(random, dtype::f16, 3, 77, 6);
    check_same(random_case(random, name, f, dtype::f16), {.offset = 2, .rows_at_once = 2});
  }
}

TEST_CASE("models beyond those that fit registers", "[short][methods]") {
  random_source random(453);
  for (std::string_view const name : braid::tensor_method_names) {
    for (int round = 0; round < 6; ++round) {
      int const n = round == 0 ? 60 : random.between(5, 20);
      family const f = random_family(random, random.one_of(usual_types), random.between(1, 8), random_cols(random), n);
      check_same(random_case(random, name, f, f.base.type));
    }
  }
}

TEST_CASE("types that are mixed, and 8-bit ones", "[short][methods]") {
  random_source random(454);
  for (std::string_view const name : braid::tensor_method_names) {
    for (int round = 0; round < 8; ++round) {
      family f = random_family(random, random.one_of(all_types), random.between(1, 20), std::max<index_t>(1, random_cols(random)), 4);
      for (auto& e : f.experts) {
        if (random.chance(0.4)) { continue; }
        matrix other(random.one_of(all_types), f.base.rows, f.base.cols);
        for (index_t r = 0; r < f.base.rows; ++r) {
          for (index_t c = 0; c < f.base.cols; ++c) { other.set(r, c, e.weight.at(r, c)); }
        }
        e.weight = other;
      }
      check_same(random_case(random, name, f, random.one_of(all_types)));
    }
  }
}

TEST_CASE("rows with gaps, rows that don't begin on 16 bytes, and blocks of channels", "[short][methods]") {
  random_source random(455);
  for (std::string_view const name : braid::tensor_method_names) {
    for (int round = 0; round < 8; ++round) {
      family f = method_family(random, random.one_of(usual_types), 4);
      if (random.chance(0.5)) {
        f.base = with_gaps(f.base, random.between(0, 9));
        for (auto& e : f.experts) { e.weight = with_gaps(e.weight, random.between(0, 9)); }
      }
      std::size_t const element = braid::size_of(f.base.type);
      check_same(random_case(random, name, f, f.base.type), {.offset = element * static_cast<std::size_t>(random.between(0, 8)), .rows_at_once = random.between(0, 12)});
    }
  }
}

TEST_CASE("channels that are columns are merged as channels", "[short][methods]") {
  random_source random(456);
  for (std::string_view const name : braid::tensor_method_names) {
    family const f = random_family(random, random.one_of(usual_types), 3 * 17, 40, 4);  // as memory: three matrices [17, 40]
    method_case c = random_case(random, name, f, f.base.type);
    c.request.inputs.channels = 3 * 40;
    c.request.inputs.cols = 17;
    c.request.inputs.transposed = 40;
    check_same(c);
  }
}

TEST_CASE("shapes of more rows and longer rows than a kernel takes at once", "[methods]") {
  random_source random(457);
  for (std::string_view const name : braid::tensor_method_names) {
    for (auto const& [rows, cols] : {std::pair<index_t, index_t>{700, 192}, {3, 14336}, {1, 70001}, {2000, 9}}) {
      family const f = random_family(random, random.one_of(usual_types), rows, cols, 4);
      check_same(random_case(random, name, f, f.base.type));
    }
  }
}

TEST_CASE("cuts that one pass finds, and cuts that mislead a sample", "[short][methods]") {
  random_source random(461);
  for (std::string_view const name : {"ties", "breadcrumbs"}) {
    for (int round = 0; round < 8; ++round) {
      // 16-bit deltas share magnitudes, 32-bit ones hardly; large rows behind small ones are no fair sample.
      dtype const type = round % 2 == 0 ? dtype::f32 : random.one_of(usual_types);
      family f = random_family(random, type, 530 + 16 * round, 1024, random.between(1, 4));
      if (round >= 6) {
        for (auto& e : f.experts) {
          for (index_t r = 0; r < f.base.rows; ++r) {
            for (index_t c = 0; round == 6 ? c < 1024 && r < 3 : c < 1024; ++c) { e.weight.set(r, c, f.base.at(r, c) + (round == 6 ? 1.0f : 0.25f)); }
          }
        }
      }
      method_case c = random_case(random, name, f, type);
      c.options.style = braid::method_style::mergekit;
      if (name == "ties") { c.options.scope = braid::trim_scope::tensor; }
      c.request.parameters.of_model["density"].assign(c.request.models.size(), 0.05 + 0.9 * random.unit());
      check_same(c);
    }
  }
}

TEST_CASE("pruning by rank, whatever a row's magnitudes are like", "[short][methods]") {
  random_source random(462);
  enum row_kind { as_tuned, half_still, still, few_values, one_bin, wide_range, fine, subnormal, kinds };
  for (std::string_view const name : {"della", "della_linear"}) {
    for (auto const& [rows, cols] : {std::pair<index_t, index_t>{5, 256}, {9, 128}, {2, 4096}, {2, 5120}, {3, 8320}, {300, 1024},
                                     {1, 14336}, {2, 14464}, {1, 20000}}) {
      for (int kind = 0; kind < kinds; ++kind) {
        dtype const type = kind == fine || kind == subnormal ? dtype::bf16 : kind >= one_bin ? dtype::f32 : random.one_of(usual_types);
        family f = random_family(random, type, rows, cols, random.between(1, 4));
        for (index_t r = 0; r < rows; ++r) {
          for (index_t c = 0; c < cols; ++c) {
            if (kind == fine) { f.base.set(r, c, std::ldexp(f.base.at(r, c), -6)); }
            if (kind == subnormal) { f.base.set(r, c, std::ldexp(static_cast<float>(random.between(-100, 100)), -133)); }
          }
        }
        for (auto& e : f.experts) {
          for (index_t r = 0; r < rows; ++r) {
            for (index_t c = 0; c < cols; ++c) {
              float const base = f.base.at(r, c);
              if (kind == subnormal) { e.weight.set(r, c, std::ldexp(static_cast<float>(random.between(-100, 100)), -133)); }
              if (kind == still || (kind == half_still && random.chance(0.5))) { e.weight.set(r, c, base); }
              if (kind == few_values) { e.weight.set(r, c, base + 0.125f * static_cast<float>(random.between(-2, 2))); }
              if (kind == one_bin) { e.weight.set(r, c, base + 1.0f + std::ldexp(static_cast<float>(random.between(0, 9)), -20)); }
              if (kind == wide_range) { e.weight.set(r, c, base + std::ldexp(e.weight.at(r, c), random.between(-100, 0))); }
            }
          }
        }
        method_case c = random_case(random, name, f, type);
        if (kind == few_values) {
          c.request.parameters.of_model["density"].assign(c.request.models.size(), 0.5);
          c.request.parameters.of_model["epsilon"].assign(c.request.models.size(), 0.4999);
        }
        check_same(c, {.rows_at_once = random.between(0, 2)});
      }
    }
  }
}

TEST_CASE("cuts of models that mostly stayed as they were", "[short][methods]") {
  random_source random(463);
  for (std::string_view const name : {"ties", "breadcrumbs"}) {
    for (double const stays : {0.1, 0.5, 0.95, 1.0}) {
      family f = random_family(random, random.one_of(usual_types), 560, 1024, random.between(1, 4));
      for (auto& e : f.experts) {
        for (index_t r = 0; r < f.base.rows; ++r) {
          for (index_t c = 0; c < f.base.cols; ++c) {
            if (random.chance(stays)) { e.weight.set(r, c, f.base.at(r, c)); }
          }
        }
      }
      method_case c = random_case(random, name, f, f.base.type);
      if (name == "ties") { c.options.scope = braid::trim_scope::tensor; }
      c.request.parameters.of_model["density"].assign(c.request.models.size(), 0.05 + 0.9 * random.unit());
      check_same(c);
    }
  }
}

TEST_CASE("NaN and infinity in a method's inputs are refused in the CPU's words", "[short][methods]") {
  random_source random(458);
  constexpr float bad[] = {NAN, INFINITY, -INFINITY};
  for (std::string_view const name : braid::tensor_method_names) {
    for (int round = 0; round < 6; ++round) {
      family f = method_family(random, random.one_of(usual_types), 3);
      int const model = random.between(-1, 2);
      matrix& m = model < 0 ? f.base : f.experts[static_cast<std::size_t>(model)].weight;
      m.set(random.between(0, static_cast<int>(m.rows) - 1), random.between(0, static_cast<int>(m.cols) - 1), random.one_of(bad));
      check_same(random_case(random, name, f, f.base.type));
    }
  }
}

TEST_CASE("results that don't fit are refused, and NaN is merged where that is allowed", "[short][methods]") {
  random_source random(459);
  for (std::string_view const name : braid::tensor_method_names) {
    family f = random_family(random, dtype::f32, 4, 37, 2);
    for (auto& e : f.experts) { e.weight.set(2, 5, 60000.0f); }
    f.base.set(2, 5, 30000.0f);
    method_case c = random_case(random, name, f, dtype::f16);
    check_same(c);
    c.request.allow_nonfinite = true;
    check_same(c);
  }
}

TEST_CASE("methods by class take device views and give device memory", "[short][methods]") {
  random_source random(460);
  for (int which = 0; which < typed_methods; ++which) {
    for (dtype const type : usual_types) {
      family const f = random_family(random, type, random.between(1, 30), std::max<index_t>(1, random_cols(random)), 3);
      INFO("method " << which << ", " << braid::name_of(type) << ", " << f.base.rows << " x " << f.base.cols);
      REQUIRE(typed_on_device(which, f) == typed_on_cpu(which, f));
    }
  }
}
