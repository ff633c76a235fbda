#include "support/catch.hpp"
#include "support/method_models.hpp"

#include <braid/method/global_magnitude_cuts.hpp>
#include <braid/prune/mask.hpp>

#include <numeric>

using namespace braid_test;

namespace {

using braid::method_style;

/// A consensus as a user would write one for channel merging.
struct own_mean {
  static constexpr std::string_view name = "own_mean";
  float operator()(float const* member, int n) const noexcept {
    float total = 0.0f;
    for (int i = 0; i < n; ++i) { total = total + member[i]; }
    return total / static_cast<float>(n);
  }
};

/// Task arithmetic and TIES in the plainest code, in float32, each step rounded, as docs/methods.md says.
struct plain_delta_merge {
  enum { sum, weighted, plain } join = sum;
  bool normalize = false;
  float lambda = 1.0f;
  std::vector<float> weight;
  std::vector<std::vector<float>> pruned;  // [model][element]

  [[nodiscard]] std::vector<float> operator()(std::vector<float> const& base) const {
    std::vector<float> out;
    for (std::size_t e = 0; e < base.size(); ++e) {
      float vote = 0.0f;
      for (std::size_t i = 0; i < weight.size(); ++i) {
        float const y = weight[i] * pruned[i][e];
        vote = vote + (join == plain ? pruned[i][e] : y);
      }
      float mix = 0.0f;
      float divisor = 0.0f;
      for (std::size_t i = 0; i < weight.size(); ++i) {
        float const y = weight[i] * pruned[i][e];
        float const voter = join == plain ? pruned[i][e] : y;
        bool const agrees = join == sum || (vote >= 0.0f ? voter > 0.0f : voter < 0.0f);
        if (agrees) {
          mix = mix + y;
          divisor = divisor + weight[i];
        }
      }
      if (join == sum ? std::abs(divisor) < 1e-8f : divisor == 0.0f) { divisor = 1.0f; }
      if (normalize) { mix = mix / divisor; }
      if (lambda != 1.0f) { mix = mix * lambda; }
      out.push_back(base[e] + mix);
    }
    return out;
  }
};

std::vector<std::vector<float>> all_deltas(family const& f) {
  auto const base = elements(f.base);
  std::vector<std::vector<float>> d;
  for (auto const& e : f.experts) {
    d.push_back(elements(e.weight));
    for (std::size_t i = 0; i < base.size(); ++i) { d.back()[i] = d.back()[i] - base[i]; }
  }
  return d;
}

/// Positions by rising magnitude, of equal ones the lower first.
std::vector<std::size_t> rising(std::vector<float> const& x) {
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return std::abs(x[a]) < std::abs(x[b]); });
  return order;
}

/// And by falling magnitude.
std::vector<std::size_t> falling(std::vector<float> const& x) {
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return std::abs(x[a]) > std::abs(x[b]); });
  return order;
}

std::vector<float> keep_positions(std::vector<float> const& x, std::vector<std::size_t> const& order, std::size_t first,
                                  std::size_t last) {
  std::vector<float> kept(x.size(), 0.0f);
  for (std::size_t i = first; i < last; ++i) { kept[order[i]] = x[order[i]]; }
  return kept;
}

std::size_t share(double density, std::size_t n) { return static_cast<std::size_t>(density * static_cast<double>(n)); }

/// Density 1 now and then, and densities that fall on a border.
double random_density(random_source& random) {
  double const some[] = {0.0, 0.25, 0.5, 0.75, 1.0};
  return random.chance(0.4) ? random.one_of(some) : random.unit();
}

/// Deltas among which many are equal in magnitude, so that ties decide.
void make_equal(random_source& random, family& f) {
  for (auto& e : f.experts) {
    for (index_t r = 0; r < f.base.rows; ++r) {
      for (index_t c = 0; c < f.base.cols; ++c) {
        f.base.set(r, c, static_cast<float>(random.below(3)));
        e.weight.set(r, c, f.base.at(r, c) + 0.25f * static_cast<float>(random.below(5) - 2));
      }
    }
  }
}

struct delta_case {
  family f;
  braid::tensor_request request;
  plain_delta_merge plain;
  std::vector<double> density;
  std::vector<double> gamma;
};

/// A random family with random weights (negative ones and zero sums among them), lambda and normalize.
delta_case random_case(random_source& random, bool ties) {
  delta_case c;
  int const models = random.between(1, 5);
  c.f = method_family(random, random.chance(0.5) ? dtype::f32 : dtype::bf16, models);
  if (random.chance(0.3)) { make_equal(random, c.f); }
  c.request = request_of(c.f, true, dtype::f32);
  c.plain.join = ties ? plain_delta_merge::weighted : plain_delta_merge::sum;
  std::vector<double> weight;
  for (int i = 0; i < models; ++i) {
    weight.push_back(random.chance(0.2) ? -0.5 : random.chance(0.2) ? 0.5 : 2.0 * random.unit() - 0.2);
    c.plain.weight.push_back(static_cast<float>(weight.back()));
    c.density.push_back(random_density(random));
    c.gamma.push_back(random.chance(0.3) ? 0.0 : 0.3 * random.unit());
  }
  c.request.parameters.of_model["weight"] = values(weight);
  c.plain.normalize = random.chance(0.5);
  c.request.parameters.of_tensor["normalize"] = c.plain.normalize ? 1.0 : 0.0;
  if (random.chance(0.5)) {
    double const lambda = 2.0 * random.unit();
    c.request.parameters.of_tensor["lambda"] = lambda;
    c.plain.lambda = static_cast<float>(lambda);
  }
  c.plain.pruned = all_deltas(c.f);
  return c;
}

}  // namespace

TEST_CASE("task arithmetic is the plain sum of weighted deltas, bit for bit", "[method][delta]") {
  random_source random(501);
  auto const m = braid::make_tensor_method<braid::cpu>("task_arithmetic");
  for (int round = 0; round < 60; ++round) {
    auto const c = random_case(random, false);
    INFO(c.f.base.rows << " x " << c.f.base.cols << ", " << c.f.experts.size() << " models");
    REQUIRE(different_bits(merged(*m, c.request), c.plain(elements(c.f.base))) == 0);
  }
}

TEST_CASE("ties trims each tensor to an exact number and elects by weight, bit for bit", "[method][delta]") {
  random_source random(502);
  auto const m = braid::make_tensor_method<braid::cpu>("ties");
  for (int round = 0; round < 60; ++round) {
    auto c = random_case(random, true);
    c.request.parameters.of_model["density"] = values(c.density);
    for (std::size_t i = 0; i < c.density.size(); ++i) {
      auto& d = c.plain.pruned[i];
      std::size_t const least = c.density[i] > 0.0 ? 1 : 0;  // mergekit's style never drops all that a density keeps some of
      d = keep_positions(d, falling(d), 0, std::max(share(c.density[i], d.size()), least));
    }
    INFO(c.f.base.rows << " x " << c.f.base.cols << ", " << c.f.experts.size() << " models");
    REQUIRE(different_bits(merged(*m, c.request), c.plain(elements(c.f.base))) == 0);
  }
}

TEST_CASE("breadcrumbs drop outliers from above and small deltas from below, bit for bit", "[method][delta]") {
  random_source random(503);
  for (bool const ties : {false, true}) {
    auto const m = braid::make_tensor_method<braid::cpu>(ties ? "breadcrumbs_ties" : "breadcrumbs");
    for (int round = 0; round < 40; ++round) {
      auto c = random_case(random, ties);
      c.request.parameters.of_model["density"] = values(c.density);
      c.request.parameters.of_model["gamma"] = values(c.gamma);
      for (std::size_t i = 0; i < c.density.size(); ++i) {
        auto& d = c.plain.pruned[i];
        if (c.density[i] >= 1.0) { continue; }
        std::size_t const kept = share(c.density[i], d.size());
        std::size_t const top = std::min(share(c.gamma[i], d.size()), d.size() - kept);
        d = keep_positions(d, rising(d), d.size() - top - kept, d.size() - top);
      }
      INFO(c.f.base.rows << " x " << c.f.base.cols << ", " << c.f.experts.size() << " models");
      REQUIRE(different_bits(merged(*m, c.request), c.plain(elements(c.f.base))) == 0);
    }
  }
}

TEST_CASE("the same mask gives the same merge, whoever made it", "[method][delta][dare]") {
  random_source random(504);
  using masked = braid::task_arithmetic<braid::cpu, braid::prune::mask>;
  for (int round = 0; round < 30; ++round) {
    auto c = random_case(random, false);
    braid::prune::mask masks;
    std::vector<std::vector<std::uint8_t>> kept(c.f.experts.size());
    for (std::size_t i = 0; i < kept.size(); ++i) {
      for (float& d : c.plain.pruned[i]) {
        kept[i].push_back(random.chance(0.6) ? 1 : 0);
        d = kept[i].back() != 0 ? d : 0.0f;
      }
      masks.set(c.f.tensor, c.f.experts[i].name, kept[i].data());
    }
    REQUIRE(different_bits(merged(masked({.prune = masks}), c.request), c.plain(elements(c.f.base))) == 0);
    // What a mask made of the documented random words keeps, dare keeps.
    double const density = 0.1 + 0.8 * random.unit();
    for (std::size_t i = 0; i < kept.size(); ++i) {
      for (std::size_t e = 0; e < kept[i].size(); ++e) {
        auto const word = braid::philox_element(7, braid::stream_hash(c.f.tensor, c.f.experts[i].name), e);
        kept[i][e] = word < braid::keep_threshold(density) ? 1 : 0;
      }
    }
    auto const dare = braid::make_tensor_method<braid::cpu>("dare_linear", {.seed = 7});
    auto request = c.request;
    request.parameters.of_tensor["rescale"] = random.chance(0.5) ? 1.0 : 0.0;
    auto const from_mask = merged(masked({.prune = masks}), request);
    request.parameters.of_tensor["density"] = density;
    REQUIRE(different_bits(merged(*dare, request), from_mask) == 0);
  }
}

TEST_CASE("the l1 form of rescaling keeps the sum of magnitudes", "[method][delta][dare]") {
  random_source random(505);
  for (char const* const name : {"dare_linear", "della_linear", "ties", "breadcrumbs"}) {
    auto const m = braid::make_tensor_method<braid::cpu>(name, {.seed = 3});
    for (int round = 0; round < 10; ++round) {
      family f = random_family(random, dtype::f32, random.between(2, 30), random.between(20, 600), 1);
      fill_with_any_finite(random, f.base);
      for (index_t r = 0; r < f.base.rows; ++r) {
        for (index_t c = 0; c < f.base.cols; ++c) {
          f.base.set(r, c, 0.0f);
          f.experts[0].weight.set(r, c, static_cast<float>(random.bell()));
        }
      }
      auto request = request_of(f, true, dtype::f32);
      request.parameters.of_tensor = {{"weight", 1.0}, {"rescale", 1.0}, {"density", 0.4}, {"normalize", 0.0}};
      double before = 0.0;
      double after = 0.0;
      for (float const x : elements(f.experts[0].weight)) { before += std::abs(static_cast<double>(x)); }
      auto const result = merged(*m, request);
      for (float const x : result) { after += std::abs(static_cast<double>(x)); }
      CHECK(after == Catch::Approx(before).epsilon(1e-5));
      CHECK(std::count(result.begin(), result.end(), 0.0f) > 0);
    }
  }
}

TEST_CASE("as published, dare and della keep the expected delta", "[method][delta][dare]") {
  random_source random(506);
  family f = random_family(random, dtype::f32, 4, 500, 1);
  auto const d = all_deltas(f)[0];
  for (char const* const name : {"dare_linear", "della_linear"}) {
    constexpr int seeds = 400;
    double mean = 0.0;
    double variance = 0.0;
    for (int s = 0; s < seeds; ++s) {
      auto const m = braid::make_tensor_method<braid::cpu>(
          name, {.style = method_style::paper, .seed = static_cast<std::uint64_t>(s)});
      auto request = request_of(f, true, dtype::f32);
      request.parameters.of_tensor = {{"density", 0.5}, {"rescale", 1.0}};
      auto const result = merged(*m, request);
      auto const base = elements(f.base);
      // Correlation with the whole delta, whose expectation is the delta's squared length.
      double dot = 0.0;
      for (std::size_t i = 0; i < d.size(); ++i) { dot += static_cast<double>(d[i]) * static_cast<double>(result[i] - base[i]); }
      mean += dot / seeds;
    }
    double expected = 0.0;
    for (float const x : d) {
      double const square = static_cast<double>(x) * static_cast<double>(x);
      expected += square;
      variance += square * square * 2.0;  // at most (1 - p) / p with p >= 0.35
    }
    INFO(name << ": " << mean << " for " << expected);
    CHECK(std::abs(mean - expected) <= 5.0 * std::sqrt(variance / seeds));
  }
}

TEST_CASE("ties as published elects without weights and trims over the whole model", "[method][delta]") {
  random_source random(507);
  auto const m = braid::make_tensor_method<braid::cpu>("ties", {.style = method_style::paper});
  CHECK(m->info().needs_cuts);
  for (int round = 0; round < 20; ++round) {
    int const models = random.between(1, 4);
    std::vector<family> tensors;
    std::vector<braid::tensor_request> requests;
    for (int t = 0; t < random.between(1, 5); ++t) {
      tensors.push_back(method_family(random, random.chance(0.5) ? dtype::f32 : dtype::bf16, models));
      if (round % 2 == 0) { make_equal(random, tensors.back()); }
    }
    std::vector<double> density;
    for (int i = 0; i < models; ++i) { density.push_back(random_density(random)); }
    braid::cpu const be{2};
    braid::global_magnitude_cuts<braid::cpu> cuts(density);
    for (auto const& f : tensors) { requests.push_back(request_of(f, true, dtype::f32)); }
    while (cuts.next_pass()) {
      for (auto const& r : requests) { cuts.add(be, r.inputs); }
    }
    // All tensors as one vector, trimmed in the plainest way.
    std::vector<std::vector<float>> pruned(static_cast<std::size_t>(models));
    for (auto const& f : tensors) {
      auto const d = all_deltas(f);
      for (std::size_t i = 0; i < pruned.size(); ++i) { pruned[i].insert(pruned[i].end(), d[i].begin(), d[i].end()); }
    }
    for (std::size_t i = 0; i < pruned.size(); ++i) {
      pruned[i] = keep_positions(pruned[i], falling(pruned[i]), 0, share(density[i], pruned[i].size()));
    }
    std::size_t first = 0;
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      auto const base = elements(tensors[t].base);
      plain_delta_merge plain{plain_delta_merge::plain, true, 1.0f, {}, {}};
      for (auto const& p : pruned) {
        plain.weight.push_back(1.0f);
        plain.pruned.emplace_back(p.begin() + static_cast<std::ptrdiff_t>(first),
                                  p.begin() + static_cast<std::ptrdiff_t>(first + base.size()));
      }
      first += base.size();
      requests[t].cuts = cuts.of_tensor(t);
      REQUIRE(different_bits(merged(*m, requests[t]), plain(base)) == 0);
    }
    requests[0].cuts.clear();
    CHECK_THROWS_AS(merged(*m, requests[0]), braid::argument_error);
  }
}

TEST_CASE("ties of deltas that agree, all kept, is their mean", "[method][delta]") {
  random_source random(508);
  family f = random_family(random, dtype::f32, 7, 600, 3);
  for (index_t r = 0; r < 7; ++r) {
    for (index_t c = 0; c < 600; ++c) {
      double const sign = random.chance(0.5) ? 1.0 : -1.0;
      for (auto& e : f.experts) {
        e.weight.set(r, c, static_cast<float>(static_cast<double>(f.base.at(r, c)) + sign * (0.01 + random.unit())));
      }
    }
  }
  auto expected = exact_elements(f.base);
  auto const d = all_deltas(f);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    expected[i] += (static_cast<double>(d[0][i]) + static_cast<double>(d[1][i]) + static_cast<double>(d[2][i])) / 3.0;
  }
  for (auto const style : {method_style::mergekit, method_style::paper}) {
    auto const m = braid::make_tensor_method<braid::cpu>("ties", {.style = style, .scope = braid::trim_scope::row});
    auto request = request_of(f, true, dtype::f32);
    request.parameters.of_tensor = {{"weight", 1.0}, {"density", 1.0}};
    CHECK(relative_error(merged(*m, request), expected) < 1e-6);
  }
}

TEST_CASE("a consensus of channel merging serves task arithmetic too", "[method][delta]") {
  random_source random(509);
  using method = braid::task_arithmetic<braid::cpu, braid::prune::none, own_mean>;
  auto c = random_case(random, false);
  c.request.parameters.of_tensor.erase("normalize");
  auto expected = elements(c.f.base);
  for (std::size_t e = 0; e < expected.size(); ++e) {
    float total = 0.0f;
    for (std::size_t i = 0; i < c.plain.weight.size(); ++i) { total = total + c.plain.pruned[i][e] * c.plain.weight[i]; }
    expected[e] = expected[e] + (total / static_cast<float>(c.plain.weight.size())) * c.plain.lambda;
  }
  CHECK(different_bits(merged(method{}, c.request), expected) == 0);
  CHECK_THROWS_AS(method({.normalize = true}), braid::argument_error);
}

TEST_CASE("the cuts of task arithmetic are those of channel merging", "[method][delta]") {
  random_source random(510);
  braid::cpu const be{2};
  for (int round = 0; round < 30; ++round) {
    family f = method_family(random, dtype::f32, random.between(1, 4));
    if (round % 2 == 0) { make_equal(random, f); }
    auto const request = request_of(f, true, dtype::f32);
    auto const keep = static_cast<index_t>(random_density(random) * static_cast<double>(f.base.rows * f.base.cols));
    auto const theirs = braid::ops::magnitude_cuts<braid::cpu>{}(be, request.inputs, keep);
    auto const ours = braid::detail::select_deltas(be, request.inputs, std::vector<index_t>(f.experts.size(), keep),
                                                   braid::detail::radix_select::order::largest);
    auto const d = all_deltas(f);
    int different = 0;
    for (std::size_t i = 0; i < d.size(); ++i) {
      for (std::size_t e = 0; e < d[i].size(); ++e) {
        auto const index = static_cast<index_t>(e);
        different += ours[i].keeps(d[i][e], index) != theirs[i].keeps(d[i][e], index) ? 1 : 0;
      }
    }
    CHECK(different == 0);
  }
}
