#include "support/catch.hpp"
#include "support/pipelines.hpp"
#include "support/reference.hpp"
#include "support/simd_scope.hpp"

using namespace braid_test;

namespace {

/// Labels (where clustering is exact) and every stored row, against the naive implementation.
void check_against_reference(recipe const& r, family const& f, merged_family const& m) {
  INFO("columns " << f.base.cols << ", experts " << f.experts.size() << ", groups " << r.groups << ", method "
                  << static_cast<int>(r.method) << ", metric " << static_cast<int>(r.similarity) << ", type "
                  << braid::name_of(f.base.type));
  if (r.cluster == clustering::exact) {
    auto const norms = tensor_norms(f);
    for (index_t c = 0; c < f.base.rows; ++c) {
      INFO("channel " << c);
      REQUIRE(m.label[static_cast<std::size_t>(c)] == best_labels(r, f, c, norms));
    }
  }
  auto const rows = merged_rows(r, f, m.label, f.base.type);
  std::size_t const row_bytes = f.base.row_bytes();
  for (std::size_t e = 0; e < f.experts.size(); ++e) {
    for (std::size_t c = 0; c < rows.size(); ++c) {
      auto const& expected = rows[c][static_cast<std::size_t>(m.label[c][e])];
      INFO("expert " << e << ", channel " << c);
      REQUIRE(std::equal(expected.begin(), expected.end(), m.rebuilt[e].data() + c * row_bytes));
    }
  }
}

}  // namespace

TEST_CASE("a channel merge is what naive code computes, bit for bit", "[channel_merge][reference]") {
  constexpr dtype types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2};
  random_source random(101);
  for (pipeline const method : all_pipelines) {
    for (int round = 0; round < 40; ++round) {
      simd_scope const scope(all_simd_levels[round % 3]);
      dtype const type = method == pipeline::none_mean ? random.one_of(types) : dtype::bf16;
      int const n = random.between(1, round % 8 == 0 ? 8 : 5);
      index_t const cols = random_cols(random);
      family const f = random_family(random, type, random.between(1, cols > 100 ? 5 : 20), cols, n);
      recipe r;
      r.method = method;
      r.density = 0.1 + 0.8 * random.unit();
      r.epsilon = 0.09 * random.unit();
      r.seed = random.bits();
      r.similarity = random.one_of(all_metrics);
      r.cluster = random.chance(0.8) ? clustering::exact : random.one_of(all_clusterings);
      r.groups = random.between(1, n + 1);
      r.lambda = random.chance(0.3) ? 1.0f : static_cast<float>(2.0 * random.unit());
      check_against_reference(r, f, merge(r, f, random.between(1, 2)));
    }
  }
}

TEST_CASE("one group is the plain method of its policies", "[channel_merge][reference]") {
  random_source random(102);
  for (pipeline const method : all_pipelines) {
    for (int round = 0; round < 6; ++round) {
      family const f =
          random_family(random, dtype::bf16, random.between(1, 8), random_cols(random), random.between(2, 12));
      recipe r;
      r.method = method;
      r.density = 0.6;
      r.groups = 1;
      r.seed = random.bits();
      auto const m = merge(r, f);
      check_against_reference(r, f, m);
      CHECK(m.pool_rows == f.base.rows);
    }
  }
}

TEST_CASE("density 0 and 1 are ends like any other", "[channel_merge][reference]") {
  random_source random(103);
  for (pipeline const method : {pipeline::dare_sum, pipeline::magnitude_ties, pipeline::magnitude_rows_ties_sum}) {
    for (double const density : {0.0, 1.0}) {
      family const f = random_family(random, dtype::bf16, 6, 50, 4);
      recipe r;
      r.method = method;
      r.density = density;
      check_against_reference(r, f, merge(r, f));
    }
  }
}
