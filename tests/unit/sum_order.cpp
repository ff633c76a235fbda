#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/simd_scope.hpp"

#include <braid/backend/cpu/channel_gram.hpp>
#include <braid/backend/cpu/lanes.hpp>

using namespace braid_test;
namespace sum_order = braid::sum_order;

namespace {

std::uint32_t bits_of(float x) { return braid::detail::bits_as<std::uint32_t>(x); }

std::vector<std::vector<float>> random_rows(random_source& random, int rows, index_t cols) {
  std::vector<std::vector<float>> all(static_cast<std::size_t>(rows));
  for (auto& row : all) {
    for (index_t c = 0; c < cols; ++c) {
      row.push_back(random.chance(0.05) ? 0.0f : static_cast<float>(random.bell() * std::exp2(random.between(-12, 4))));
    }
  }
  return all;
}

/// Runs `f(segments of all rows, rows apart, columns)` over zero-filled segments, as the library lays them out.
template <class F>
void over_segments(std::vector<std::vector<float>> const& rows, index_t cols, F const& f) {
  for (index_t first = 0; first < cols; first += sum_order::segment) {
    auto const count = static_cast<int>(std::min<index_t>(sum_order::segment, cols - first));
    std::vector<float> memory(rows.size() * sum_order::segment + 1, -1e30f);
    float* const deltas = memory.data() + 1;  // no alignment is promised
    for (std::size_t i = 0; i < rows.size(); ++i) {
      float* const to = deltas + i * sum_order::segment;
      for (int c = 0; c < count; ++c) { to[c] = rows[i][static_cast<std::size_t>(first + c)]; }
      braid::detail::pad_segment(to, count);
    }
    f(static_cast<float const*>(deltas), braid::detail::padded(count));
  }
}

}  // namespace

TEST_CASE("the order of sums is the documented one", "[sum_order]") {
  // Columns 0 and 8 meet before column 1 joins them: 2^24 and -2^24 cancel, so that the 1 isn't lost.
  std::vector<float> row(16, 0.0f);
  row[0] = 0x1p24f;
  row[8] = -0x1p24f;
  row[1] = 1.0f;
  auto const sum_of = [&row] {
    return sum_order::sum(static_cast<index_t>(row.size()),
                          [&](index_t c) { return row[static_cast<std::size_t>(c)]; });
  };
  CHECK(sum_of() == 1.0f);
  row[8] = 0.0f;
  row[2] = -0x1p24f;  // meets 0 only after 1 has met nothing but zeros: (0 + 2) + (1 + 3)
  CHECK(sum_of() == 1.0f);
  row[1] = 0.0f;
  row[3] = 1.0f;
  row[2] = 0.0f;
  row[5] = -0x1p24f;  // lanes 1, 5 and 3, 7 join: 1 - 2^24 is exact, and so is the rest
  CHECK(sum_of() == 1.0f);

  // A lane runs through its segment first: columns 0 and 16 are neighbours in it, and lose the 1 between them.
  row.assign(33, 0.0f);
  row[0] = 0x1p24f;
  row[16] = 1.0f;
  row[32] = -0x1p24f;
  CHECK(sum_of() == 0.0f);

  // Segments are added last: the 1 of the second one meets the rounded sum of the first.
  row.assign(513, 0.0f);
  row[0] = 0x1p24f;
  row[512] = 1.0f;
  CHECK(sum_of() == 0x1p24f);
  CHECK(sum_order::sum(0, [](index_t) { return 1.0f; }) == 0.0f);
}

TEST_CASE("the order of sums is at least as accurate as a plain loop needs", "[sum_order]") {
  random_source random(1);
  for (int round = 0; round < 100; ++round) {
    index_t const cols = random_cols(random);
    auto const row = random_rows(random, 1, cols)[0];
    double exact = 0.0;
    double magnitude = 0.0;
    for (float const x : row) {
      exact += static_cast<double>(x);
      magnitude += std::abs(static_cast<double>(x));
    }
    float const sum = sum_order::sum(cols, [&](index_t c) { return row[static_cast<std::size_t>(c)]; });
    // A lane adds up to 32 terms, the tree 4 levels, then one addition for each of up to 3 segments.
    CHECK(std::abs(static_cast<double>(sum) - exact) <= (32 + 4 + 3) * 0x1p-24 * magnitude);
  }
}

TEST_CASE("Gram kernels keep the order of sums bit for bit", "[sum_order][simd]") {
  random_source random(2);
  for (auto const level : all_simd_levels) {
    simd_scope const scope(level);
    for (int rows = 1; rows <= 9; ++rows) {
      for (int round = 0; round < 12; ++round) {
        index_t const cols = random_cols(random);
        auto const all = random_rows(random, rows, cols);
        std::vector<float> dots(static_cast<std::size_t>(rows * (rows + 1) / 2), 0.0f);
        std::vector<float> lengths(static_cast<std::size_t>(rows), 0.0f);
        over_segments(all, cols, [&](float const* deltas, int count) {
          braid::detail::dispatch<braid::detail::gram_body>(deltas, rows, count, dots.data());
          for (int i = 0; i < rows; ++i) {
            braid::detail::dispatch<braid::detail::squared_length_body>(deltas + i * sum_order::segment, count,
                                                                        &lengths[static_cast<std::size_t>(i)]);
          }
        });
        for (int i = 0; i < rows; ++i) {
          auto const& x = all[static_cast<std::size_t>(i)];
          for (int j = 0; j <= i; ++j) {
            auto const& y = all[static_cast<std::size_t>(j)];
            float const expected = sum_order::sum(
                cols, [&](index_t c) { return x[static_cast<std::size_t>(c)] * y[static_cast<std::size_t>(c)]; });
            INFO("rows " << rows << ", columns " << cols << ", entry " << i << ", " << j);
            REQUIRE(bits_of(dots[static_cast<std::size_t>(i * (i + 1) / 2 + j)]) == bits_of(expected));
            if (i == j) { REQUIRE(bits_of(lengths[static_cast<std::size_t>(i)]) == bits_of(expected)); }
          }
        }
      }
    }
  }
}

TEST_CASE("a channel's Gram matrix has the documented sums, whatever the storage types", "[sum_order][simd]") {
  constexpr dtype types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2};
  random_source random(3);
  braid::detail::channel_workspace work;
  for (auto const level : all_simd_levels) {
    simd_scope const scope(level);
    for (int round = 0; round < 150; ++round) {
      index_t const cols = random_cols(random);
      int const experts = random.between(1, 8);
      bool const mixed = random.chance(0.2);
      dtype const type = random.one_of(types);
      family f = random_family(random, type, 1, cols, experts);
      braid::channel_block block;
      block.rows = 1;
      block.base = {f.base.memory.data(), type, 0};
      for (auto& e : f.experts) {
        if (mixed && random.chance(0.5)) {
          dtype const other = random.one_of(types);
          matrix converted(other, 1, cols);
          for (index_t c = 0; c < cols; ++c) { converted.set(0, c, e.weight.at(0, c)); }
          e.weight = converted;
        }
        block.experts.push_back({e.weight.memory.data(), e.weight.type, 0});
      }
      braid::detail::distinct_rows distinct;
      braid::detail::find_distinct(block, 0, cols, work, distinct);
      for (bool const signs : {false, true}) {
        braid::tensor_context context;
        context.cols = cols;
        braid::detail::channel_gram(context, block, 0, distinct, signs, work);
        for (int i = 0; i < distinct.count; ++i) {
          for (int j = 0; j < distinct.count; ++j) {
            auto const delta = [&](int k, index_t c) {
              auto const e = static_cast<std::size_t>(distinct.first[static_cast<std::size_t>(k)]);
              float const d = f.experts[e].weight.at(0, c) - f.base.at(0, c);
              return !signs ? d : d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : 0.0f;
            };
            float const expected = sum_order::sum(cols, [&](index_t c) { return delta(i, c) * delta(j, c); });
            INFO("experts " << experts << ", columns " << cols << ", type " << braid::name_of(type) << ", signs "
                            << signs);
            REQUIRE(work.gram[static_cast<std::size_t>(i * distinct.count + j)] == static_cast<double>(expected));
          }
        }
      }
    }
  }
}

namespace {

/// Three sums of two rows, one pass.
struct three_sums {
  template <int W>
  static void run(float const* x, float const* y, float const* weight, index_t cols, float* out) {
    using f32 = braid::detail::wide<W>::f32;
    float const* const rows[] = {x, y};
    braid::detail::sum_columns<W, 3>(rows, weight, cols, [](f32 const* v, f32* term) {
      term[0] = v[0];
      term[1] = v[0] * v[1];
      term[2] = v[1] - v[0];
    }, out);
  }
};

}  // namespace

TEST_CASE("several sums in one pass, weighted or not, keep the order of sums at every width", "[simd][sum_order]") {
  random_source random(9);
  for (int round = 0; round < 200; ++round) {
    index_t const cols = random_cols(random);
    auto const rows = random_rows(random, 3, cols);
    bool const weighted = random.chance(0.5);
    auto const& x = rows[0];
    auto const& y = rows[1];
    auto const& h = rows[2];
    auto const expected = [&](auto const& term) {
      return sum_order::sum(cols, [&](index_t c) {
        auto const i = static_cast<std::size_t>(c);
        return weighted ? h[i] * term(i) : term(i);
      });
    };
    float const first = expected([&](std::size_t i) { return x[i]; });
    float const second = expected([&](std::size_t i) { return x[i] * y[i]; });
    float const third = expected([&](std::size_t i) { return y[i] - x[i]; });
    auto const check = [&](float const* out) {
      INFO(cols << " columns");
      REQUIRE(bits_of(out[0]) == bits_of(first));
      REQUIRE(bits_of(out[1]) == bits_of(second));
      REQUIRE(bits_of(out[2]) == bits_of(third));
    };
    float out[3];
    three_sums::run<4>(x.data(), y.data(), weighted ? h.data() : nullptr, cols, out);
    check(out);
    three_sums::run<8>(x.data(), y.data(), weighted ? h.data() : nullptr, cols, out);
    check(out);
    three_sums::run<16>(x.data(), y.data(), weighted ? h.data() : nullptr, cols, out);
    check(out);
    for (auto const level : all_simd_levels) {
      simd_scope const scope(level);
      braid::detail::dispatch<three_sums>(x.data(), y.data(), weighted ? h.data() : static_cast<float const*>(nullptr), cols, static_cast<float*>(out));
      check(out);
    }
  }
}
