#include "support/catch.hpp"
#include "support/plain_algorithms.hpp"

#include "gpu/algorithms.hpp"
#include "gpu/pipelines.hpp"

#include <braid/method/global_magnitude_cuts.hpp>

#include <limits>

using namespace braid_test;

TEMPLATE_TEST_CASE("a tensor that goes to the device and back is the same, and so are its experts", "[algorithms][short][sanitized]", float,
                   braid::bfloat16, braid::float16, braid::float8_e4m3) {
  random_source random(911);
  using element = TestType;
  for (int round = 0; round < 16; ++round) {
    int const experts = random.between(1, 6);
    index_t const channels = random.between(0, 20);
    index_t const cols = round % 2 == 0 ? random.between(0, 60) * 8 : random_cols(random);
    auto const t = random_grouped<element>(random, experts, channels, cols, random.between(1, experts), round % 4 != 3);
    index_t const stride = cols + random.below(3) * 8 + (round % 3 == 0 ? random.below(3) : 0);
    auto const found = copied_to_device(t, stride);
    INFO(channels << " x " << cols << ", " << experts << " experts");
    for (std::size_t e = 0; e < found.rebuilt.size(); ++e) {
      matrix expected(braid::dtype_of<element>, channels, cols, stride);
      std::fill(expected.memory.begin(), expected.memory.end(), std::byte{0x5A});
      t.extract(e, {reinterpret_cast<element*>(expected.memory.data()), channels, cols, stride});
      REQUIRE(found.rebuilt[e] == expected.memory);
    }
    REQUIRE(describe(found.back) == describe(t));
    REQUIRE(describe(found.packed) == describe(t));
    REQUIRE(found.back.stored_bytes() == t.stored_bytes());
  }
}

namespace {

void check_placing(random_source& random, int experts, index_t most, index_t channels, index_t cols) {
  auto const t = random_grouped<float>(random, experts, channels, 1, static_cast<int>(most), false);
  std::vector<float> slots(static_cast<std::size_t>(channels * most * cols));
  for (std::size_t i = 0; i < slots.size(); ++i) { slots[i] = static_cast<float>(i); }
  std::vector<std::uint8_t> label;
  placed_rows expected;
  expected.pool.assign(slots.begin(), slots.begin() + static_cast<std::ptrdiff_t>(channels * cols));
  for (index_t c = 0; c < channels; ++c) {
    for (int e = 0; e < experts; ++e) { label.push_back(static_cast<std::uint8_t>(t.group(static_cast<std::size_t>(e), c))); }
    for (int g = 1; g < t.groups(c); ++g) {
      auto const from = slots.begin() + static_cast<std::ptrdiff_t>((channels + c * (most - 1) + g - 1) * cols);
      expected.pool.insert(expected.pool.end(), from, from + static_cast<std::ptrdiff_t>(cols));
    }
  }
  for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
    for (index_t c = 0; c < channels; ++c) { expected.index.push_back(static_cast<std::uint8_t>(t.group(e, c))); }
  }
  auto const found = placed_on_device(slots, label, experts, channels, cols, most);
  REQUIRE(found.index == expected.index);
  bool const same = found.pool == expected.pool;
  REQUIRE(same);
}

}  // namespace

TEST_CASE("rows that a merge has left apart are moved together", "[algorithms][short][sanitized]") {
  random_source random(912);
  for (int round = 0; round < 20; ++round) {
    int const experts = random.between(1, 9);
    check_placing(random, experts, random.between(1, experts), random.between(1, 300), random.one_of(std::vector<index_t>{1, 3, 4, 64}));
  }
}

TEST_CASE("more rows are moved together than at once", "[algorithms][short]") {
  random_source random(917);
  check_placing(random, 4, 3, 1000, 20000);
}

TEST_CASE("the device ranks rows of any length", "[algorithms][short]") {
  random_source random(913);
  for (int round = 0; round < 12; ++round) {
    index_t const rows = random.between(1, 9);
    index_t const cols = round == 0 ? 70001 : random_cols(random);
    int const distinct = random.one_of(std::vector<int>{1, 30, 1 << 30});
    std::vector<std::uint32_t> bits;
    for (index_t i = 0; i < rows * cols; ++i) { bits.push_back(static_cast<std::uint32_t>(random.below(distinct))); }
    auto const expected = plain_ranks(bits, rows, cols);
    bool const same = ranked_on_device(bits, rows, cols) == expected;
    REQUIRE(same);
  }
}

TEST_CASE("the device adds rows in the order of the CPU", "[algorithms][short]") {
  random_source random(914);
  for (index_t const channels : {1, 16, 255, 257, 5000}) {
    index_t const sums = random.between(1, 11);
    std::vector<float> rows;
    for (index_t i = 0; i < channels * sums; ++i) { rows.push_back(static_cast<float>(random.bell() * (random.chance(0.1) ? 1e20 : 1.0))); }
    auto const expected = plain_block_sums(rows, channels, sums);
    REQUIRE(added_on_device(rows, channels, sums) == expected);
  }
}

TEST_CASE("the device finds the first element that isn't finite", "[algorithms][short]") {
  random_source random(915);
  for (int const n : {0, 1, 1000, 100000}) {
    std::vector<float> x(static_cast<std::size_t>(n), 1.0f);
    CHECK(first_nonfinite_on_device(x) == n);
    if (n == 0) { continue; }
    int const first = random.below(n);
    x[static_cast<std::size_t>(first)] = -std::numeric_limits<float>::infinity();
    x[static_cast<std::size_t>(first + random.below(n - first))] = std::numeric_limits<float>::quiet_NaN();
    CHECK(first_nonfinite_on_device(x) == first);
  }
}

TEST_CASE("cuts over a whole model are the CPU's", "[algorithms][short][sanitized]") {
  random_source random(916);
  for (int round = 0; round < 16; ++round) {
    int const models = random.between(1, round % 3 == 0 ? 9 : 4);
    std::vector<family> tensors;
    for (int t = random.between(1, 5); t > 0; --t) {
      auto const type = random.one_of(std::vector<dtype>{dtype::f32, dtype::bf16, dtype::f16});
      tensors.push_back(random_family(random, type, random.between(1, 30), std::max<index_t>(1, random_cols(random)), models));
      if (round % 2 == 0) {  // few magnitudes, so that equals straddle the cuts
        auto& f = tensors.back();
        for (index_t r = 0; r < f.base.rows; ++r) {
          for (index_t c = 0; c < f.base.cols; ++c) {
            f.base.set(r, c, 1.0f);
            for (auto& e : f.experts) { e.weight.set(r, c, 1.0f + 0.125f * static_cast<float>(random.between(-2, 2))); }
          }
        }
      }
    }
    std::vector<double> density;
    for (int i = 0; i < models; ++i) { density.push_back(random.one_of(std::vector<double>{0.0, 1.0, 0.2, 0.5, random.unit(), random.unit()})); }
    braid::cpu const be{2};
    braid::global_magnitude_cuts<braid::cpu> cuts(density);
    std::vector<braid::tensor_channels> inputs;
    for (auto const& f : tensors) {
      inputs.push_back(channels_of(f, dtype::f32, [](matrix const& w) { return w.memory.data(); }));
    }
    while (cuts.next_pass()) {
      for (auto const& t : inputs) { cuts.add(be, t); }
    }
    auto const found = global_cuts_on_device(density, tensors);
    REQUIRE(found.size() == tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      auto const expected = cuts.of_tensor(t);
      for (std::size_t m = 0; m < expected.size(); ++m) {
        INFO("round " << round << ", tensor " << t << ", model " << m << " of " << models << ", density " << density[m]);
        CHECK(found[t][m].bits == expected[m].bits);
        CHECK(found[t][m].last == expected[m].last);
      }
    }
  }
}

TEST_CASE("an algorithm that gets no memory is one clear line", "[algorithms][short]") {
  auto const message = message_without_memory();
  CHECK(message.find("bytes of device memory") != std::string::npos);
  CHECK(message.find('\n') == std::string::npos);
}
