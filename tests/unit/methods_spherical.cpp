#include "support/catch.hpp"
#include "support/method_models.hpp"

using namespace braid_test;

namespace {

using vec = std::vector<double>;

double dot(vec const& a, vec const& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) { sum += a[i] * b[i]; }
  return sum;
}
double length(vec const& a) { return std::sqrt(dot(a, a)); }
vec add(double p, vec const& a, double q, vec const& b) {
  vec c(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) { c[i] = p * a[i] + q * b[i]; }
  return c;
}
vec scaled(double p, vec const& a) { return add(p, a, 0.0, a); }
vec zeros(std::size_t n) { return vec(n, 0.0); }

// Each method on whole vectors in float64, in the form in which it is published.

vec plain_slerp(vec const& a, vec const& b, double t, double threshold) {
  double const cosine = dot(a, b) / (length(a) > 1e-8 ? length(a) : 1.0) / (length(b) > 1e-8 ? length(b) : 1.0);
  if (std::abs(cosine) > threshold) { return add(1.0 - t, a, t, b); }
  double const theta = std::acos(cosine);
  return add(std::sin((1.0 - t) * theta) / std::sin(theta), a, std::sin(t * theta) / std::sin(theta), b);
}

vec plain_multislerp(std::vector<vec> const& x, vec weight) {
  double sum = 0.0;
  for (double const w : weight) { sum += w; }
  vec mean = zeros(x[0].size());
  double norm = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    weight[i] /= sum;
    mean = add(1.0, mean, weight[i] / (length(x[i]) + 1e-8), x[i]);
    norm += weight[i] * length(x[i]);
  }
  mean = scaled(1.0 / length(mean), mean);
  vec tangent = zeros(mean.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    vec const unit = scaled(1.0 / (length(x[i]) + 1e-8), x[i]);
    tangent = add(1.0, tangent, weight[i], add(1.0, unit, -dot(unit, mean), mean));
  }
  double const angle = length(tangent) + 1e-8;
  return scaled(norm, add(std::cos(angle), mean, std::sin(angle) / angle, tangent));
}

vec plain_karcher(std::vector<vec> const& x, int max_iter, double tol) {
  std::vector<vec> unit;
  double norm = 0.0;
  for (vec const& v : x) {
    norm += length(v) / static_cast<double>(x.size());
    if (length(v) > tol) { unit.push_back(scaled(1.0 / length(v), v)); }
  }
  if (unit.empty()) { return zeros(x[0].size()); }
  double const share = 1.0 / static_cast<double>(unit.size());
  vec mean = zeros(x[0].size());
  for (vec const& u : unit) { mean = add(1.0, mean, share, u); }
  mean = length(mean) < tol ? unit[0] : scaled(1.0 / length(mean), mean);
  for (int step = 0; step < max_iter; ++step) {
    vec tangent = zeros(mean.size());
    for (vec const& u : unit) {
      double const cosine = std::clamp(dot(mean, u), -1.0, 1.0);
      double const theta = std::acos(cosine);
      if (theta < tol || std::sin(theta) < 1e-6) { continue; }
      tangent = add(1.0, tangent, share * theta / std::sin(theta), add(1.0, u, -cosine, mean));
    }
    double const angle = length(tangent);
    if (angle < tol) { break; }
    mean = add(std::cos(angle), mean, std::sin(angle) / angle, tangent);
    mean = scaled(1.0 / length(mean), mean);
  }
  return scaled(norm, mean);
}

vec plain_stock(vec const& base, std::vector<vec> const& x, double least) {
  double cosine = 0.0;
  double pairs = 0.0;
  vec mean = zeros(base.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    mean = add(1.0, mean, 1.0 / static_cast<double>(x.size()), x[i]);
    vec const a = add(1.0, x[i], -1.0, base);
    for (std::size_t j = 0; j < i; ++j) {
      vec const b = add(1.0, x[j], -1.0, base);
      double const lengths = std::max(length(a) * length(b), least);
      cosine += lengths > 0.0 ? dot(a, b) / lengths : 0.0;
      pairs += 1.0;
    }
  }
  cosine /= pairs;
  auto const n = static_cast<double>(x.size());
  double const t = n * cosine / (1.0 + (n - 1.0) * cosine);
  return add(t, mean, 1.0 - t, base);
}

std::vector<vec> all_models(family const& f) {
  std::vector<vec> x;
  for (auto const& e : f.experts) { x.push_back(exact_elements(e.weight)); }
  return x;
}

/// Float32 deltas, as the library sees them.
std::vector<vec> all_deltas(family const& f) {
  std::vector<vec> d;
  auto const base = elements(f.base);
  for (auto const& e : f.experts) {
    auto const x = elements(e.weight);
    auto& mine = d.emplace_back();
    for (std::size_t i = 0; i < x.size(); ++i) { mine.push_back(static_cast<double>(x[i] - base[i])); }
  }
  return d;
}

/// Row `r` of a matrix of `cols` columns, or column `c`.
vec row_of(vec const& x, index_t cols, index_t r) { return {x.begin() + r * cols, x.begin() + (r + 1) * cols}; }
vec column_of(vec const& x, index_t cols, index_t c) {
  vec column;
  for (std::size_t i = static_cast<std::size_t>(c); i < x.size(); i += static_cast<std::size_t>(cols)) { column.push_back(x[i]); }
  return column;
}

std::unique_ptr<any_method> named(char const* name) { return braid::make_tensor_method<braid::cpu>(name); }

/// Independent weights, whose directions differ as much as those of unrelated models.
family unrelated(random_source& random, int models, index_t rows, index_t cols) {
  family f = random_family(random, dtype::f32, rows, cols, models);
  for (auto* m : {&f.base}) {
    for (index_t r = 0; r < rows; ++r) {
      for (index_t c = 0; c < cols; ++c) { m->set(r, c, static_cast<float>(random.bell())); }
    }
  }
  for (auto& e : f.experts) {
    double const size = 0.5 + random.unit();
    for (index_t r = 0; r < rows; ++r) {
      for (index_t c = 0; c < cols; ++c) { e.weight.set(r, c, static_cast<float>(size * random.bell())); }
    }
  }
  return f;
}

family random_pair(random_source& random, int models) {
  return random.chance(0.5) ? method_family(random, random.chance(0.5) ? dtype::f32 : dtype::bf16, models)
                            : unrelated(random, models, random.between(1, 12), random.between(2, 600));
}

}  // namespace

TEST_CASE("slerp follows the great circle from the base to the model", "[method][slerp]") {
  random_source random(541);
  auto const m = named("slerp");
  for (int round = 0; round < 60; ++round) {
    family const f = random_pair(random, 1);
    double const t = random.chance(0.2) ? 1.5 : random.unit();
    auto request = request_of(f, true, dtype::f32);
    request.parameters.of_tensor["t"] = t;
    auto const expected = plain_slerp(exact_elements(f.base), all_models(f)[0], t, 0.9995);
    INFO(f.base.rows << " x " << f.base.cols << ", t " << t);
    CHECK(relative_error(merged(*m, request), expected) < 2e-6);
  }
}

TEST_CASE("slerp ends at its ends, of two models without a base too", "[method][slerp]") {
  random_source random(542);
  auto const m = named("slerp");
  for (int round = 0; round < 20; ++round) {
    family const f = random_pair(random, 2);
    auto request = request_of(f, false, dtype::f32);
    for (int end = 0; end < 2; ++end) {
      request.parameters.of_tensor["t"] = end;
      auto const got = merged(*m, request);
      auto const expected = elements(f.experts[static_cast<std::size_t>(end)].weight);
      int different = 0;
      for (std::size_t i = 0; i < got.size(); ++i) { different += got[i] != expected[i] ? 1 : 0; }
      CHECK(different == 0);
    }
  }
}

TEST_CASE("opposite and zero tensors have a slerp", "[method][slerp][nuslerp]") {
  random_source random(543);
  family f = unrelated(random, 2, 5, 40);
  auto request = request_of(f, false, dtype::f32);
  for (char const* const name : {"slerp", "nuslerp"}) {
    auto const m = named(name);
    request.parameters = {};
    if (m->info().name == "slerp") {
      request.parameters.of_tensor["t"] = 0.25;
    } else {
      request.parameters.of_model["weight"] = values({3.0, 1.0});
    }
    for (index_t r = 0; r < 5; ++r) {
      for (index_t c = 0; c < 40; ++c) { f.experts[1].weight.set(r, c, -f.experts[0].weight.at(r, c)); }
    }
    // Opposite: interpolated along the line, which has length 1/2 here.
    CHECK(relative_error(merged(*m, request), scaled(0.5, all_models(f)[0])) < 1e-6);
    for (index_t r = 0; r < 5; ++r) {
      for (index_t c = 0; c < 40; ++c) { f.experts[1].weight.set(r, c, 0.0f); }
    }
    // Zero: at a right angle.
    CHECK(relative_error(merged(*m, request), scaled(std::sin(0.75 * std::acos(0.0)), all_models(f)[0])) < 1e-6);
  }
}

TEST_CASE("nuslerp interpolates tensors, rows or columns, of weights or of deltas", "[method][nuslerp]") {
  random_source random(544);
  auto const m = named("nuslerp");
  for (int round = 0; round < 60; ++round) {
    family const f = unrelated(random, 2, random.chance(0.2) ? 1 : random.between(2, 9), random.between(2, 700));
    bool const based = random.chance(0.5);
    bool const flatten = random.chance(0.3);
    bool const column = random.chance(0.5);
    auto request = request_of(f, based, dtype::f32);
    double const w0 = random.unit();
    double const w1 = random.unit();
    request.parameters.of_model["weight"] = values({w0, w1});
    request.parameters.of_tensor["nuslerp_flatten"] = flatten ? 1.0 : 0.0;
    request.parameters.of_tensor["nuslerp_row_wise"] = column ? 1.0 : 0.0;
    double const t = w1 / (w0 + w1);
    auto const x = based ? all_deltas(f) : all_models(f);
    index_t const cols = f.base.cols;
    vec expected = based ? exact_elements(f.base) : zeros(x[0].size());
    auto const place = [&](vec const& v, index_t first, index_t stride) {
      for (std::size_t i = 0; i < v.size(); ++i) { expected[static_cast<std::size_t>(first + static_cast<index_t>(i) * stride)] += v[i]; }
    };
    constexpr double line = 1.0 - 1e-7;
    if (flatten || f.base.rows == 1) {
      place(plain_slerp(x[0], x[1], t, line), 0, 1);
    } else if (column) {
      for (index_t c = 0; c < cols; ++c) { place(plain_slerp(column_of(x[0], cols, c), column_of(x[1], cols, c), t, line), c, cols); }
    } else {
      for (index_t r = 0; r < f.base.rows; ++r) {
        place(plain_slerp(row_of(x[0], cols, r), row_of(x[1], cols, r), t, line), r * cols, 1);
      }
    }
    INFO(f.base.rows << " x " << cols << ", base " << based << ", flatten " << flatten << ", column " << column);
    // Two long columns that are nearly opposite make a small sine, which the sums' rounding meets.
    CHECK(relative_error(merged(*m, request), expected) < (f.base.rows < 4 ? 2e-3 : 2e-5));
  }
}

TEST_CASE("nuslerp with weights that cancel goes half way", "[method][nuslerp]") {
  random_source random(545);
  family const f = unrelated(random, 2, 4, 50);
  auto request = request_of(f, false, dtype::f32);
  request.parameters.of_model["weight"] = values({0.5, -0.5});
  auto const x = all_models(f);
  CHECK(relative_error(merged(*named("nuslerp"), request), plain_slerp(x[0], x[1], 0.5, 1.0)) < 1e-6);
}

TEST_CASE("multislerp is the published form, tangent step included", "[method][multislerp]") {
  random_source random(546);
  auto const m = named("multislerp");
  for (int round = 0; round < 40; ++round) {
    int const models = random.between(2, 6);
    family const f = unrelated(random, models, random.between(1, 8), random.between(30, 600));
    bool const based = random.chance(0.5);
    auto request = request_of(f, based, dtype::f32);
    vec weight;
    for (int i = 0; i < models; ++i) { weight.push_back(0.1 + random.unit()); }
    request.parameters.of_model["weight"] = values(weight);
    vec expected = plain_multislerp(based ? all_deltas(f) : all_models(f), weight);
    if (based) { expected = add(1.0, expected, 1.0, exact_elements(f.base)); }
    CHECK(relative_error(merged(*m, request), expected) < 3e-6);
  }
}

TEST_CASE("multislerp of directions that cancel is refused, of two averaged", "[method][multislerp]") {
  family f;
  f.base = matrix(dtype::f32, 1, 2);
  float const at[3][2] = {{1.0f, 0.0f}, {-1.0f, 0.0f}, {0.0f, 0.0f}};
  for (int i = 0; i < 3; ++i) {
    f.experts.push_back({expert_name(i), matrix(dtype::f32, 1, 2)});
    for (index_t c = 0; c < 2; ++c) { f.experts.back().weight.set(0, c, at[i][c]); }
  }
  auto const m = named("multislerp");
  auto request = request_of(f, false, dtype::f32);
  request.parameters.of_tensor["weight"] = 1.0;
  CHECK_THROWS_AS(merged(*m, request), braid::value_error);
  f.experts.pop_back();
  request = request_of(f, false, dtype::f32);
  request.parameters.of_tensor["weight"] = 1.0;
  CHECK(merged(*m, request) == std::vector<float>{0.0f, 0.0f});
}

TEST_CASE("the Karcher mean, found in the span of the models, is that found among all vectors", "[method][karcher]") {
  random_source random(547);
  auto const m = named("karcher");
  for (int round = 0; round < 40; ++round) {
    int const models = random.between(2, 6);
    family f = random.chance(0.6) ? unrelated(random, models, random.between(1, 8), random.between(30, 600)) : random_pair(random, models);
    if (random.chance(0.2)) {
      for (index_t r = 0; r < f.base.rows; ++r) {
        for (index_t c = 0; c < f.base.cols; ++c) { f.experts[0].weight.set(r, c, 0.0f); }
      }
    }
    auto request = request_of(f, false, dtype::f32);
    request.parameters.of_tensor["max_iter"] = random.between(0, 12);
    auto const expected = plain_karcher(all_models(f), static_cast<int>(request.parameters.of_tensor["max_iter"]), 1e-5);
    INFO(models << " models of " << f.base.rows << " x " << f.base.cols);
    CHECK(relative_error(merged(*m, request), expected) < 2e-5);
  }
}

TEST_CASE("the Karcher mean of two equally long models is half way along their slerp", "[method][karcher]") {
  random_source random(548);
  for (int round = 0; round < 10; ++round) {
    family f = unrelated(random, 2, 6, random.between(30, 600));
    double const ratio = length(all_models(f)[0]) / length(all_models(f)[1]);
    for (index_t r = 0; r < f.base.rows; ++r) {
      for (index_t c = 0; c < f.base.cols; ++c) {
        f.experts[1].weight.set(r, c, static_cast<float>(ratio * static_cast<double>(f.experts[1].weight.at(r, c))));
      }
    }
    auto request = request_of(f, false, dtype::f32);
    auto const karcher = merged(*named("karcher"), request);
    request.parameters.of_tensor["t"] = 0.5;
    auto const slerp = merged(*named("slerp"), request);
    CHECK(relative_error(karcher, vec(slerp.begin(), slerp.end())) < 1e-5);
  }
}

TEST_CASE("models that are all equal give that model, whatever the sphere", "[method][karcher][multislerp][model_stock]") {
  random_source random(549);
  for (int round = 0; round < 10; ++round) {
    family f = unrelated(random, 4, 5, random.between(2, 600));
    for (auto& e : f.experts) { e.weight = f.experts[0].weight; }
    auto const expected = all_models(f)[0];
    for (char const* const name : {"karcher", "multislerp", "model_stock", "linear"}) {
      auto const m = named(name);
      auto request = request_of(f, m->info().name == "model_stock", dtype::f32);
      for (auto const& p : m->info().parameters) {
        if (p.required) { request.parameters.of_tensor[std::string(p.name)] = 0.7; }
      }
      INFO(name);
      CHECK(relative_error(merged(*m, request), expected) < 1e-6);
    }
  }
}

TEST_CASE("model stock goes from the base as far as the deltas agree, per tensor or per row", "[method][model_stock]") {
  random_source random(550);
  for (auto const style : {braid::method_style::mergekit, braid::method_style::paper}) {
    double const least = style == braid::method_style::mergekit ? 1e-6 : 0.0;
    auto const m = braid::make_tensor_method<braid::cpu>("model_stock", {.style = style});
    for (int round = 0; round < 30; ++round) {
      family f = method_family(random, random.chance(0.5) ? dtype::f32 : dtype::bf16, random.between(2, 5));
      for (index_t r = 0; r < f.base.rows; ++r) {  // a common direction, so that t is far from its pole
        for (index_t c = 0; c < f.base.cols; ++c) {
          double const common = random.bell();
          for (auto& e : f.experts) {
            e.weight.set(r, c, static_cast<float>(static_cast<double>(f.base.at(r, c)) + 0.05 * (common + random.bell())));
          }
        }
      }
      bool const rows = random.chance(0.5);
      auto request = request_of(f, true, dtype::f32);
      request.parameters.of_tensor["filter_wise"] = rows ? 1.0 : 0.0;
      auto const base = exact_elements(f.base);
      auto const x = all_models(f);
      index_t const cols = f.base.cols;
      vec expected;
      for (index_t r = 0; r < (rows ? f.base.rows : 1); ++r) {
        std::vector<vec> part;
        for (vec const& v : x) { part.push_back(rows ? row_of(v, cols, r) : v); }
        vec const here = plain_stock(rows ? row_of(base, cols, r) : base, part, least);
        expected.insert(expected.end(), here.begin(), here.end());
      }
      INFO(f.base.rows << " x " << cols << ", rows " << rows);
      CHECK(relative_error(merged(*m, request), expected) < (rows && cols < 8 ? 1e-2 : 1e-4));
    }
  }
}

TEST_CASE("model stock of deltas that oppose each other is the base", "[method][model_stock]") {
  random_source random(551);
  family f = unrelated(random, 2, 4, 64);
  for (index_t r = 0; r < 4; ++r) {
    for (index_t c = 0; c < 64; ++c) {
      float const d = static_cast<float>(random.below(9) - 4) * 0.125f;
      f.base.set(r, c, static_cast<float>(random.below(9)) * 0.25f);
      f.experts[0].weight.set(r, c, f.base.at(r, c) + d);
      f.experts[1].weight.set(r, c, f.base.at(r, c) - d);
    }
  }
  for (double const rows : {0.0, 1.0}) {
    auto request = request_of(f, true, dtype::f32);
    request.parameters.of_tensor["filter_wise"] = rows;
    CHECK(merged(*named("model_stock"), request) == elements(f.base));
  }
}
