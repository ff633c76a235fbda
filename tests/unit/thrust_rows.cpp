// The general algorithms of braid::cuda on Thrust's host systems: the very code that runs on a device.

#include "support/catch.hpp"
#include "support/coded_tensor.hpp"
#include "support/plain_algorithms.hpp"

#include <braid/backend/cuda/algorithms/add_rows.cuh>
#include <braid/backend/cuda/algorithms/find_element.cuh>
#include <braid/backend/cuda/algorithms/gather_rows.cuh>
#include <braid/backend/cuda/algorithms/place_rows.cuh>
#include <braid/backend/cuda/algorithms/rank_rows.cuh>

#include <thrust/execution_policy.h>
#include <thrust/system/tbb/execution_policy.h>

#include <algorithm>
#include <limits>

using namespace braid_test;
namespace algorithms = braid::detail;

namespace {

/// Calls `f` with each of the host's policies.
template <class F>
void with_policies(F const& f) {
  f(thrust::seq);
  f(thrust::tbb::par);
}

struct magnitude_of {
  std::uint32_t const* bits;
  index_t cols;
  std::uint32_t operator()(index_t row, index_t col) const noexcept { return bits[row * cols + col]; }
};

}  // namespace

TEST_CASE("a scan places the rows of channels with any number of groups", "[thrust]") {
  random_source random(901);
  for (int round = 0; round < 60; ++round) {
    int const experts = random.between(1, 12);
    int const most = random.between(1, experts);
    index_t const channels = random.chance(0.1) ? 0 : random.between(1, round % 10 == 0 ? 5000 : 60);
    auto const t = random_grouped<float>(random, experts, channels, 1, most, false);
    std::vector<std::uint8_t> label;
    for (index_t c = 0; c < channels; ++c) {
      for (int e = 0; e < experts; ++e) { label.push_back(static_cast<std::uint8_t>(t.group(static_cast<std::size_t>(e), c))); }
    }
    with_policies([&](auto const& policy) {
      std::vector<std::uint8_t> index(label.size());
      std::vector<std::int32_t> before(static_cast<std::size_t>(channels) + 1, -1);
      algorithms::place_rows(policy, label.data(), channels, experts, index.data(), before.data());
      REQUIRE(before.back() == t.pool_rows() - channels);
      bool right = true;
      for (int e = 0; e < experts; ++e) {
        auto const slot = static_cast<std::size_t>(e);
        auto const rows = t.rows(slot);
        algorithms::row_of_channel const row{index.data() + e * channels, before.data(), channels};
        for (index_t c = 0; c < channels; ++c) {
          right = right && index[static_cast<std::size_t>(e * channels + c)] == t.group(slot, c) && row(c) == rows[static_cast<std::size_t>(c)];
        }
      }
      REQUIRE(right);
      // A merge has left `most - 1` slots a channel.
      std::vector<std::int32_t> expected;
      for (index_t c = 0; c < channels; ++c) {
        for (int g = 1; g < t.groups(c); ++g) { expected.push_back(static_cast<std::int32_t>(c * (most - 1) + g - 1)); }
      }
      std::vector<std::int32_t> slot(expected.size(), -1);
      algorithms::list_rows(policy, before.data(), channels, most - 1, slot.data());
      REQUIRE(slot == expected);
    });
  }
}

TEST_CASE("a gather copies rows of any length and alignment, and nothing beside them", "[thrust]") {
  random_source random(902);
  for (int round = 0; round < 120; ++round) {
    index_t const grain = random.one_of(std::vector<index_t>{1, 2, 4, 16});
    index_t const bytes = random.between(0, 40) * grain;
    index_t const from_stride = bytes + random.below(3) * grain;
    index_t const to_stride = bytes + random.below(3) * grain;
    index_t const from_rows = random.between(1, 50);
    index_t const rows = random.between(0, 70);
    auto const from_offset = static_cast<std::size_t>(random.below(3) * grain);
    auto const to_offset = static_cast<std::size_t>(random.below(3) * grain);
    std::vector<std::byte> from(static_cast<std::size_t>(from_rows * from_stride) + from_offset);
    for (auto& b : from) { b = static_cast<std::byte>(random.bits() & 255u); }
    std::vector<std::int32_t> list;
    for (index_t r = 0; r < rows; ++r) { list.push_back(random.below(static_cast<int>(from_rows))); }
    std::vector<std::byte> const untouched(static_cast<std::size_t>(rows * to_stride) + to_offset, std::byte{0x5A});
    std::vector<std::byte> expected = untouched;
    for (std::size_t r = 0; r < list.size(); ++r) {
      for (index_t b = 0; b < bytes; ++b) {
        expected[to_offset + r * static_cast<std::size_t>(to_stride) + static_cast<std::size_t>(b)] =
            from[from_offset + static_cast<std::size_t>(list[r] * from_stride + b)];
      }
    }
    with_policies([&](auto const& policy) {
      auto found = untouched;
      algorithms::gather_rows(policy, algorithms::listed_row{list.data()}, from.data() + from_offset, from_stride, rows, bytes,
                              found.data() + to_offset, to_stride);
      REQUIRE(found == expected);
    });
  }
}

TEST_CASE("rows are added in blocks of 256, from the first to the last", "[thrust]") {
  random_source random(903);
  for (int round = 0; round < 40; ++round) {
    index_t const channels = random.one_of(std::vector<index_t>{0, 1, 15, 16, 17, 255, 256, 257, 1000});
    index_t const sums = random.between(0, 11);
    std::vector<float> rows;
    for (index_t i = 0; i < channels * sums; ++i) { rows.push_back(static_cast<float>(random.bell() * (random.chance(0.1) ? 1e20 : 1.0))); }
    auto const expected = plain_block_sums(rows, channels, sums);
    with_policies([&](auto const& policy) {
      std::vector<double> found(expected.size(), -1.0);
      algorithms::add_rows(policy, rows.data(), channels, sums, found.data());
      REQUIRE(found == expected);
    });
  }
}

TEST_CASE("ranks rise with the magnitude; equal ones share the mean of theirs", "[thrust]") {
  random_source random(904);
  for (int round = 0; round < 60; ++round) {
    index_t const rows = random.between(0, 12);
    index_t const cols = random_cols(random);
    int const distinct = random.one_of(std::vector<int>{1, 2, 30, 1 << 30});
    std::vector<std::uint32_t> bits;
    for (index_t i = 0; i < rows * cols; ++i) {
      bits.push_back(random.chance(0.01) ? 0x7FFFFFFFu : static_cast<std::uint32_t>(random.below(distinct)) * (distinct > 30 ? 1u : 0x02000003u));
    }
    auto const expected = plain_ranks(bits, rows, cols);
    with_policies([&](auto const& policy) {
      std::vector<std::uint64_t> key(bits.size());
      std::vector<std::uint32_t> column(bits.size());
      std::vector<std::uint32_t> found(bits.size());
      algorithms::rank_rows(policy, magnitude_of{bits.data(), cols}, rows, cols, key.data(), column.data(), found.data());
      REQUIRE(found == expected);
    });
  }
}

TEST_CASE("the first element that isn't finite is found, of every type", "[thrust]") {
  random_source random(905);
  auto const check = [&]<class T>(T) {
    for (int round = 0; round < 30; ++round) {
      std::vector<T> x(static_cast<std::size_t>(random.below(3000)));
      for (auto& v : x) { v = T(static_cast<float>(random.bell())); }
      auto expected = static_cast<index_t>(x.size());
      for (int bad = random.below(4); bad > 0 && !x.empty(); --bad) {
        auto const at = random.below(static_cast<int>(x.size()));
        x[static_cast<std::size_t>(at)] = T(std::numeric_limits<float>::quiet_NaN());
        expected = std::min(expected, static_cast<index_t>(at));
      }
      with_policies([&](auto const& policy) {
        REQUIRE(algorithms::first_nonfinite(policy, static_cast<T const*>(x.data()), static_cast<index_t>(x.size())) == expected);
      });
    }
  };
  check(0.0f);
  check(braid::bfloat16{});
  check(braid::float8_e4m3{});
}
