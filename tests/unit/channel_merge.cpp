#include "support/catch.hpp"
#include "support/pipelines.hpp"
#include "support/reference.hpp"
#include "support/simd_scope.hpp"

#include <set>

using namespace braid_test;

namespace {

constexpr dtype all_types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2};

/// Anything that can be meant, for that many experts.
recipe random_recipe(random_source& random, int experts, bool any_groups = true) {
  recipe r;
  r.method = random.one_of(all_pipelines);
  r.density = 0.2 + 0.7 * random.unit();
  r.epsilon = 0.09 * random.unit();
  r.seed = random.bits();
  r.similarity = random.one_of(all_metrics);
  r.cluster = experts > 10 ? clustering::kmeans : random.one_of(all_clusterings);
  r.groups = any_groups ? random.between(1, experts + 1) : experts;
  r.lambda = random.chance(0.5) ? 1.0f : static_cast<float>(2.0 * random.unit());
  return r;
}

family small_family(random_source& random, dtype type, int experts) {
  index_t const cols = random_cols(random);
  return random_family(random, type, random.between(1, cols > 100 ? 12 : 40), cols, experts);
}

/// The channel's labels, and no more or less rows in the pool than they need.
void check_shape(merged_family const& m, family const& f, int groups) {
  REQUIRE(m.channels == f.base.rows);
  REQUIRE(m.cols == f.base.cols);
  REQUIRE(m.experts.size() == f.experts.size());
  index_t rows = 0;
  for (index_t c = 0; c < m.channels; ++c) {
    auto const& label = m.label[static_cast<std::size_t>(c)];
    auto const number = distinct_numbers(f, c);
    int const used = std::min(groups, count_distinct(number));
    int next = 0;
    std::set<std::pair<int, int>> seen;
    for (std::size_t e = 0; e < label.size(); ++e) {
      REQUIRE(label[e] <= next);  // numbered by first appearance
      next = std::max(next, label[e] + 1);
      seen.emplace(number[e], label[e]);
    }
    REQUIRE(next == used);
    REQUIRE(static_cast<int>(seen.size()) == count_distinct(number));  // equal rows share a group
    rows += used;
  }
  REQUIRE(m.pool_rows == rows);
}

}  // namespace

TEST_CASE("with a group for each expert, every expert is rebuilt bit for bit", "[channel_merge]") {
  random_source random(81);
  for (int round = 0; round < 80; ++round) {
    int const n = random.between(1, 8);
    family f = small_family(random, random.one_of(all_types), n);
    if (random.chance(0.5)) {  // signed zeros, subnormals, numbers whose squares overflow
      for (auto& e : f.experts) {
        if (random.chance(0.7)) { fill_with_any_finite(random, e.weight); }
      }
    }
    recipe r = random_recipe(random, n, false);
    r.groups += random.below(2);
    auto const m = merge(r, f, random.between(1, 3));
    for (std::size_t e = 0; e < f.experts.size(); ++e) {
      INFO("columns " << f.base.cols << ", experts " << n << ", type " << braid::name_of(f.base.type));
      REQUIRE(m.rebuilt[e] == f.experts[e].weight.packed());
    }
    CHECK(m.similarity == 1.0);
  }
}

TEST_CASE("groups are as many as wanted, numbered by first appearance, and equal rows share one", "[channel_merge]") {
  random_source random(82);
  for (int round = 0; round < 80; ++round) {
    int const n = random.between(1, round % 10 == 0 ? 20 : 8);
    family f = small_family(random, random.one_of(all_types), n);
    for (auto& e : f.experts) {  // whole experts that are the same
      if (random.chance(0.2)) { e.weight = f.experts[0].weight; }
    }
    recipe const r = random_recipe(random, n);
    INFO("columns " << f.base.cols << ", experts " << n << ", groups " << r.groups);
    check_shape(merge(r, f), f, r.groups);
  }
}

TEST_CASE("a row that is alone in its group is kept bit for bit", "[channel_merge]") {
  random_source random(83);
  for (int round = 0; round < 60; ++round) {
    int const n = random.between(2, 8);
    family const f = small_family(random, random.one_of(all_types), n);
    auto const m = merge(random_recipe(random, n), f);
    for (index_t c = 0; c < m.channels; ++c) {
      auto const& label = m.label[static_cast<std::size_t>(c)];
      for (std::size_t e = 0; e < label.size(); ++e) {
        matrix const& own = f.experts[e].weight;
        bool alone = true;
        for (std::size_t other = 0; other < label.size(); ++other) {
          alone = alone && (label[other] != label[e] || f.experts[other].weight.same_row(c, own));
        }
        if (!alone) { continue; }
        auto const* const row = m.rebuilt[e].data() + static_cast<std::size_t>(c) * own.row_bytes();
        REQUIRE(std::equal(row, row + own.row_bytes(), own.row(c)));
      }
    }
  }
}

TEST_CASE("the order in which experts are listed changes nothing", "[channel_merge]") {
  random_source random(84);
  for (int round = 0; round < 40; ++round) {
    int const n = random.between(2, 8);
    family f = small_family(random, random.one_of(all_types), n);
    recipe const r = random_recipe(random, n);
    auto const in_order = merge(r, f);
    random.shuffle(f.experts);
    CHECK(merge(r, f) == in_order);
    CHECK(std::is_sorted(in_order.experts.begin(), in_order.experts.end()));
  }
}

TEST_CASE("threads and instruction sets change nothing", "[channel_merge][simd]") {
  random_source random(85);
  for (int round = 0; round < 30; ++round) {
    int const n = random.between(2, 8);
    // Enough rows for several blocks.
    bool const many = round % 3 == 0;
    family const f =
        many ? random_family(random, dtype::bf16, 600, 150, n) : small_family(random, random.one_of(all_types), n);
    recipe const r = random_recipe(random, n);
    auto const once = merge(r, f, 1);
    CHECK(merge(r, f, 2) == once);
    CHECK(merge(r, f, 4) == once);
    if (many) { continue; }
    for (auto const level : all_simd_levels) {
      simd_scope const scope(level);
      CHECK(merge(r, f, 1) == once);
    }
  }
}

TEST_CASE("gaps between rows change nothing and are never read", "[channel_merge]") {
  random_source random(86);
  for (int round = 0; round < 40; ++round) {
    int const n = random.between(1, 6);
    family f = small_family(random, random.one_of(all_types), n);
    recipe const r = random_recipe(random, n);
    auto const packed = merge(r, f);
    f.base = with_gaps(f.base, random.between(0, 33));
    for (auto& e : f.experts) { e.weight = with_gaps(e.weight, random.between(0, 33)); }
    CHECK(merge(r, f) == packed);
  }
}

TEST_CASE("a single expert, no rows and no columns are merged too", "[channel_merge]") {
  random_source random(87);
  for (pipeline const p : all_pipelines) {
    for (auto const& [rows, cols] : {std::pair<index_t, index_t>{0, 0}, {0, 5}, {5, 0}, {1, 1}}) {
      for (int const n : {1, 3}) {
        family const f = random_family(random, dtype::bf16, rows, cols, n);
        recipe r;
        r.method = p;
        r.similarity = metric::balanced;
        auto const m = merge(r, f);
        check_shape(m, f, 2);
      }
    }
  }
}

TEST_CASE("255 experts are merged into any number of groups", "[channel_merge]") {
  random_source random(88);
  family const f = random_family(random, dtype::bf16, 3, 20, 255);
  recipe r;
  r.cluster = clustering::kmeans;
  for (int const groups : {1, 2, 100, 255}) {
    r.groups = groups;
    auto const m = merge(r, f);
    check_shape(m, f, groups);
    if (groups == 255) {
      for (std::size_t e = 0; e < 255; ++e) { CHECK(m.rebuilt[e] == f.experts[e].weight.packed()); }
    }
  }
}

TEST_CASE("the same seed gives the same bits, another seed others", "[channel_merge]") {
  random_source random(89);
  family f = random_family(random, dtype::bf16, 10, 300, 4);
  recipe r;
  r.method = pipeline::dare_sum;
  r.groups = 1;
  r.seed = 7;
  auto const once = merge(r, f);
  CHECK(merge(r, f) == once);
  r.seed = 8;
  CHECK_FALSE(merge(r, f).pool == once.pool);
  // The tensor's name is part of the choice as well.
  r.seed = 7;
  f.tensor += "x";
  CHECK_FALSE(merge(r, f).pool == once.pool);
}

TEST_CASE("lambda scales the merged delta", "[channel_merge]") {
  random_source random(90);
  family const f = random_family(random, dtype::f32, 6, 100, 3);
  recipe r;
  r.groups = 1;
  r.lambda = 0.0f;
  auto const at_rest = merge(r, f);
  for (index_t row = 0; row < 6; ++row) {
    auto const number = distinct_numbers(f, row);
    if (count_distinct(number) == 1) { continue; }
    for (index_t c = 0; c < 100; ++c) {
      CHECK(load(dtype::f32, at_rest.pool.data(), row * 100 + c) == f.base.at(row, c));
    }
  }
}

TEST_CASE("the reported similarity is the mean cosine of deltas with their group's sum", "[channel_merge]") {
  random_source random(91);
  for (int round = 0; round < 20; ++round) {
    int const n = random.between(3, 6);
    family const f = random_family(random, dtype::f32, 20, random.between(2, 100), n);
    recipe r;
    r.groups = 2;
    r.similarity = random.chance(0.5) ? metric::cosine : metric::euclidean;
    auto const m = merge(r, f);
    double sum = 0.0;
    double compared = 0.0;
    for (index_t c = 0; c < m.channels; ++c) {
      if (count_distinct(distinct_numbers(f, c)) <= 2) { continue; }  // nothing to choose
      auto const gram = channel_gram(r.similarity, channel_deltas(f, c), {});
      auto const& label = m.label[static_cast<std::size_t>(c)];
      for (std::size_t i = 0; i < gram.size(); ++i) {
        double cross = 0.0;
        double total = 0.0;
        for (std::size_t j = 0; j < gram.size(); ++j) {
          if (label[j] != label[i]) { continue; }
          cross += gram[i][j];
          for (std::size_t k = 0; k < gram.size(); ++k) { total += label[k] == label[i] ? gram[j][k] : 0.0; }
        }
        double const lengths = std::sqrt(gram[i][i] * total);
        sum += lengths > 0.0 ? cross / lengths : 1.0;
        compared += 1.0;
      }
    }
    CHECK(m.similarity == Catch::Approx(compared > 0.0 ? sum / compared : 1.0).epsilon(1e-4));
  }
}
