#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/simd_scope.hpp"

#include <braid/prune/dare.hpp>
#include <braid/prune/none.hpp>

using namespace braid_test;
using braid::prune::dare;

namespace {

/// `apply` as kernels call it: compiled for an instruction set.
template <class Plan>
struct apply_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(Plan plan, float* x, int count, index_t row, index_t col) noexcept {
    plan.apply(x, count, row, col);
  }
};

template <class Plan>
void apply(Plan const& plan, float* x, index_t count, index_t row, index_t col) {
  braid::detail::dispatch<apply_body<Plan>>(plan, x, static_cast<int>(count), row, col);
}

std::uint32_t bits_of(float x) { return braid::detail::bits_as<std::uint32_t>(x); }

std::vector<float> random_values(random_source& random, index_t count) {
  std::vector<float> v;
  for (index_t i = 0; i < count; ++i) {
    v.push_back(random.chance(0.1) ? (random.chance(0.5) ? -0.0f : 0.0f) : static_cast<float>(random.bell()));
  }
  return v;
}

}  // namespace

TEST_CASE("dare keeps the wanted fraction and rescales what it keeps", "[prune][dare]") {
  random_source random(21);
  for (int round = 0; round < 60; ++round) {
    double const density = random.unit();
    index_t const rows = random.between(1, 40);
    index_t const cols = random.between(1, 1500);
    auto const plan = dare{density, random.bits()}.plan({random.bits(), rows, cols});
    double const kept_really = std::max(1.0, std::round(density * 65536.0)) / 65536.0;
    auto const scale = static_cast<float>(1.0 / kept_really);
    index_t kept = 0;
    bool exact = true;
    for (index_t r = 0; r < rows; ++r) {
      for (index_t c = 0; c < cols; ++c) {
        float const x = static_cast<float>(random.unit()) + 0.5f;
        float const y = plan(x, r, c);
        exact = exact && (y == x * scale || bits_of(y) == 0u);
        kept += y != 0.0f ? 1 : 0;
      }
    }
    CHECK(exact);
    auto const n = static_cast<double>(rows * cols);
    double const sigma = std::sqrt(n * density * (1.0 - density));
    INFO("density " << density << ", " << rows << " x " << cols);
    CHECK(std::abs(static_cast<double>(kept) - n * density) <= 5.0 * sigma + 1.0);
  }
}

TEST_CASE("dare decides by the documented random bits of each element", "[prune][dare]") {
  random_source random(22);
  for (int round = 0; round < 200; ++round) {
    dare const policy{random.unit(), random.bits()};
    std::uint64_t const stream = random.bits();
    index_t const cols = random.between(1, 1500);
    index_t const row = random.chance(0.5) ? random.below(40) : (index_t{1} << 33) + random.below(1000);
    index_t const col = random.below(static_cast<int>(cols));
    auto const number = braid::philox_element(policy.seed, stream, static_cast<std::uint64_t>(row * cols + col));
    bool const keeps = static_cast<double>(number) < std::max(1.0, std::round(policy.density * 65536.0));
    CHECK((policy.plan({stream, row + 1, cols})(1.0f, row, col) != 0.0f) == keeps);
  }
}

TEST_CASE("dare prunes runs of columns as it prunes single ones, wherever they begin", "[prune][dare][simd]") {
  random_source random(23);
  for (auto const level : all_simd_levels) {
    simd_scope const scope(level);
    for (int round = 0; round < 400; ++round) {
      index_t const cols = random.between(1, 1500);
      index_t const col = random.below(static_cast<int>(cols));
      index_t const count = random.chance(0.3) ? cols - col : random.below(static_cast<int>(cols - col) + 1);
      index_t const row = random.chance(0.8) ? random.below(40) : (index_t{1} << 40) / cols;
      double const densities[] = {0.0, 1e-9, 0.3, 0.7, 1.0 - 1e-9, 1.0, random.unit()};
      auto const plan = dare{random.one_of(densities), random.bits()}.plan({random.bits(), row + 1, cols});
      auto const values = random_values(random, count);
      auto pruned = values;
      pruned.push_back(42.0f);
      // In tiles, whose borders must not show.
      for (index_t done = 0; done < count;) {
        index_t const tile = random.chance(0.5) ? count - done : 1 + random.below(static_cast<int>(count - done));
        apply(plan, pruned.data() + done, tile, row, col + done);
        done += tile;
      }
      index_t wrong = 0;
      for (index_t i = 0; i < count; ++i) {
        auto const slot = static_cast<std::size_t>(i);
        if (bits_of(pruned[slot]) != bits_of(plan(values[slot], row, col + i))) { ++wrong; }
      }
      INFO("columns " << cols << ", from " << col << ", count " << count << ", row " << row);
      REQUIRE(wrong == 0);
      REQUIRE(pruned.back() == 42.0f);
    }
  }
}

TEST_CASE("dare keeps everything at density 1 and nothing at density 0", "[prune][dare]") {
  random_source random(24);
  auto const all = dare{1.0, 5}.plan({7, 40, 1500});
  auto const none = dare{0.0, 5}.plan({7, 40, 1500});
  for (int i = 0; i < 2000; ++i) {
    auto const x = static_cast<float>(random.bell());
    index_t const row = random.below(40);
    index_t const col = random.below(1500);
    CHECK(bits_of(all(x, row, col)) == bits_of(x));
    CHECK(bits_of(none(x, row, col)) == 0u);
  }
}

TEST_CASE("dare's masks of different seeds and experts are independent", "[prune][dare]") {
  random_source random(25);
  constexpr int n = 40000;
  double const density = 0.7;
  std::uint64_t const seed = random.bits();
  std::uint64_t const stream = random.bits();
  auto const a = dare{density, seed}.plan({stream, 1, n});
  auto const again = dare{density, seed}.plan({stream, 1, n});
  auto const other_stream = dare{density, seed}.plan({stream + 1, 1, n});
  auto const other_seed = dare{density, seed + 1}.plan({stream, 1, n});
  for (auto const& b : {other_stream, other_seed}) {
    int both = 0;
    for (int c = 0; c < n; ++c) {
      CHECK_FALSE(a(1.0f, 0, c) != again(1.0f, 0, c));
      both += a(1.0f, 0, c) != 0.0f && b(1.0f, 0, c) != 0.0f ? 1 : 0;
    }
    double const p = density * density;
    CHECK(std::abs(both - n * p) <= 5.0 * std::sqrt(n * p * (1.0 - p)));
  }
}

TEST_CASE("a density that is no fraction is refused", "[prune][dare]") {
  for (double const density : {-0.1, 1.1, 70.0, std::nan(""), -HUGE_VAL}) {
    CHECK_THROWS_AS(dare{density}.validate(), braid::argument_error);
  }
  for (double const density : {0.0, 0.7, 1.0}) { CHECK_NOTHROW(dare{density}.validate()); }
  try {
    dare{1.5}.validate();
  } catch (braid::argument_error const& e) {
    std::string const message = e.what();
    CHECK(message.find("prune::dare") != std::string::npos);
    CHECK(message.find("1.5") != std::string::npos);
  }
}

TEST_CASE("pruning nothing keeps every bit", "[prune]") {
  random_source random(26);
  auto const plan = braid::prune::none{}.plan({1, 2, 3});
  for (int i = 0; i < 1000; ++i) {
    auto const x = braid::detail::bits_as<float>(static_cast<std::uint32_t>(random.bits() >> 33));
    CHECK(bits_of(plan(x, 1, 2)) == bits_of(x));
  }
}
