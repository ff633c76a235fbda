#include "support/catch.hpp"
#include "support/reference.hpp"
#include "support/simd_scope.hpp"
#include "support/threads.hpp"

#include <braid/backend/cpu.hpp>
#include <braid/prune/magnitude.hpp>

using namespace braid_test;
using braid::magnitude_cut;

namespace {

/// The family as the library's measures see a tensor. Not transposed.
braid::tensor_channels channels_of(family const& f) {
  braid::tensor_channels t;
  t.channels = f.base.rows;
  t.cols = f.base.cols;
  t.out = f.base.type;
  auto const rows = [](matrix const& m) {
    return braid::channel_rows{m.memory.data(), m.type, m.stride * static_cast<index_t>(braid::size_of(m.type))};
  };
  t.base = rows(f.base);
  for (auto const& e : f.experts) { t.experts.push_back(rows(e.weight)); }
  return t;
}

/// The same tensor in memory as [cols, channels]; `memory` owns it.
braid::tensor_channels transposed(family const& f, std::vector<std::vector<std::byte>>& memory) {
  braid::tensor_channels t = channels_of(f);
  t.transposed = f.base.rows;
  auto const turn = [&](matrix const& m) {
    auto& to = memory.emplace_back(m.memory.size());
    for (index_t r = 0; r < m.rows; ++r) {
      for (index_t c = 0; c < m.cols; ++c) { store(m.type, m.at(r, c), to.data(), c * m.rows + r); }
    }
    return braid::channel_rows{to.data(), m.type, 0};
  };
  t.base = turn(f.base);
  for (std::size_t e = 0; e < f.experts.size(); ++e) { t.experts[e] = turn(f.experts[e].weight); }
  return t;
}

std::vector<float> delta_of(family const& f, std::size_t expert) {
  recipe r;
  r.method = pipeline::none_sum;
  return pruned_delta(r, f, expert);
}

/// Whether the cut keeps what a stable sort by falling magnitude puts first.
bool cuts_like_a_sort(magnitude_cut const& cut, std::vector<float> const& values, index_t keep) {
  auto const order = by_magnitude(values);
  bool same = true;
  for (std::size_t i = 0; i < order.size(); ++i) {
    index_t const at = order[i];
    same = same && cut.keeps(values[static_cast<std::size_t>(at)], at) == (static_cast<index_t>(i) < keep);
  }
  return same;
}

std::vector<index_t> telling_counts(random_source& random, index_t n) {
  std::vector<index_t> keep{0, n};
  if (n > 0) {
    keep.push_back(1);
    keep.push_back(n - 1);
    keep.push_back(random.below(static_cast<int>(n)));
    keep.push_back(static_cast<index_t>(0.7 * static_cast<double>(n)));
  }
  return keep;
}

void check_all(family const& f, random_source& random, braid::cpu const& be) {
  braid::ops::magnitude_cuts<braid::cpu> const measure;
  std::vector<std::vector<std::byte>> memory;
  auto const straight = channels_of(f);
  auto const turned = transposed(f, memory);
  for (index_t const keep : telling_counts(random, f.base.rows * f.base.cols)) {
    auto const cuts = measure(be, straight, keep);
    auto const also = measure(be, turned, keep);
    REQUIRE(cuts.size() == f.experts.size());
    for (std::size_t e = 0; e < cuts.size(); ++e) {
      INFO(f.base.rows << " x " << f.base.cols << ", keep " << keep << ", expert " << e);
      auto const delta = delta_of(f, e);
      REQUIRE(cuts_like_a_sort(cuts[e], delta, keep));
      REQUIRE(cuts_like_a_sort(also[e], delta, keep));
    }
  }
}

}  // namespace

TEST_CASE("a cut over a tensor keeps exactly the largest, equal ones by index", "[prune][magnitude]") {
  allow_many_threads();
  braid::cpu const one(1);
  braid::cpu const three(3);
  random_source random(31);
  for (dtype const type : {dtype::f32, dtype::bf16, dtype::f16, dtype::f8_e4m3}) {
    for (int round = 0; round < 5; ++round) {
      // In bfloat16 and float8 most magnitudes are met many times.
      index_t const cols = std::min<index_t>(random_cols(random), 600);
      family const f = random_family(random, type, random.between(1, 40), cols, random.between(1, 3));
      check_all(f, random, round % 2 == 0 ? one : three);
    }
  }
}

TEST_CASE("a cut over a tensor finds the last of equals behind many blocks of rows", "[prune][magnitude]") {
  random_source random(32);
  braid::cpu const be(2);
  family f;
  f.base = matrix(dtype::bf16, 1000, 3);  // four blocks of measuring
  f.experts.push_back({"a", f.base});
  f.experts.push_back({"b", f.base});
  f.experts.push_back({"c", f.base});
  for (index_t r = 0; r < f.base.rows; ++r) {
    for (index_t c = 0; c < f.base.cols; ++c) {
      f.base.set(r, c, 0.0f);
      f.experts[0].weight.set(r, c, random.chance(0.5) ? 1.0f : -1.0f);           // all of one magnitude
      f.experts[1].weight.set(r, c, 0.0f);                                        // all zero
      f.experts[2].weight.set(r, c, static_cast<float>(random.below(3)) - 1.0f);  // two magnitudes
    }
  }
  for (index_t const keep : {1, 2, 3, 767, 768, 769, 1500, 2303, 2304, 2305, 2999}) {
    auto const cuts = braid::ops::magnitude_cuts<braid::cpu>{}(be, channels_of(f), keep);
    for (std::size_t e = 0; e < 3; ++e) {
      INFO("keep " << keep << ", expert " << e);
      CHECK(cuts_like_a_sort(cuts[e], delta_of(f, e), keep));
    }
  }
}

TEST_CASE("cuts of tensors without elements and with one are defined", "[prune][magnitude]") {
  random_source random(33);
  braid::cpu const be(1);
  check_all(random_family(random, dtype::f32, 1, 1, 2), random, be);
  check_all(random_family(random, dtype::f32, 3, 0, 2), random, be);
  check_all(random_family(random, dtype::bf16, 0, 5, 1), random, be);
}

TEST_CASE("a cut inside a row keeps exactly the largest, equal ones by column", "[prune][magnitude]") {
  random_source random(34);
  braid::detail::row_workspace work;
  for (int round = 0; round < 150; ++round) {
    index_t const cols = random_cols(random);
    int const kind = random.below(4);
    std::vector<float> row;
    for (index_t c = 0; c < cols; ++c) {
      row.push_back(kind == 0   ? static_cast<float>(random.bell())
                    : kind == 1 ? static_cast<float>(random.below(3) - 1)
                    : kind == 2 ? (random.chance(0.5) ? 2.0f : -2.0f)
                                : 0.0f);
    }
    for (index_t const keep : telling_counts(random, cols)) {
      INFO("columns " << cols << ", kind " << kind << ", keep " << keep);
      REQUIRE(cuts_like_a_sort(braid::detail::row_cut(row.data(), cols, keep, work), row, keep));
    }
  }
}

TEST_CASE("magnitude keeps values as they are and counts by its density", "[prune][magnitude]") {
  braid::prune::magnitude const tensor{.density = 0.7};
  braid::prune::magnitude_rows const rows{.density = 0.25};
  CHECK(tensor.keep_count(10) == 7);
  CHECK(tensor.keep_count(11) == 7);
  CHECK(tensor.keep_count(0) == 0);
  CHECK(braid::prune::magnitude{.density = 1.0}.keep_count(12345) == 12345);
  CHECK(braid::prune::magnitude{.density = 0.0}.keep_count(12345) == 0);
  CHECK(rows.keep_count(7) == 1);

  // The cut's index counts elements of the tensor, or columns of a row.
  magnitude_cut const cut{braid::detail::bits_as<std::uint32_t>(1.0f), 2 * 10 + 3};
  auto const over_tensor = tensor.plan({0, 5, 10}, cut);
  CHECK(over_tensor(-1.0f, 2, 3) == -1.0f);
  CHECK(over_tensor(-1.0f, 2, 4) == 0.0f);
  CHECK(over_tensor(1.5f, 4, 9) == 1.5f);
  CHECK(over_tensor(0.5f, 0, 0) == 0.0f);
  auto const in_row = rows.plan({0, 5, 10}, {cut.bits, 3});
  CHECK(in_row(1.0f, 4, 3) == 1.0f);
  CHECK(in_row(1.0f, 0, 4) == 0.0f);

  CHECK_THROWS_AS(braid::prune::magnitude{.density = 1.01}.validate(), braid::argument_error);
  CHECK_THROWS_AS(braid::prune::magnitude_rows{.density = -1.0}.validate(), braid::argument_error);
}

TEST_CASE("lengths of deltas over a tensor don't depend on threads, and are right", "[measures][simd]") {
  allow_many_threads();
  random_source random(35);
  for (int round = 0; round < 12; ++round) {
    index_t const rows = random.chance(0.3) ? random.between(257, 600) : random.between(0, 40);
    index_t const cols = rows > 40 ? random.between(1, 40) : random_cols(random);
    family const f = random_family(random, dtype::bf16, rows, cols, random.between(1, 5));
    std::vector<std::vector<std::byte>> memory;
    auto const source = channels_of(f);
    auto const norms = braid::ops::delta_norms<braid::cpu>{}(braid::cpu(1), source);
    CHECK(braid::ops::delta_norms<braid::cpu>{}(braid::cpu(3), source) == norms);
    if (rows > 0) { CHECK(braid::ops::delta_norms<braid::cpu>{}(braid::cpu(2), transposed(f, memory)) == norms); }
    for (auto const level : all_simd_levels) {
      simd_scope const scope(level);
      CHECK(braid::ops::delta_norms<braid::cpu>{}(braid::cpu(1), source) == norms);
    }
    auto const expected = tensor_norms(f);
    for (std::size_t e = 0; e < norms.size(); ++e) { CHECK(norms[e] == Catch::Approx(expected[e]).epsilon(1e-6)); }
  }
}
