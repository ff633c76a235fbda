// Experts with residuals, rebuilt by the device's code on Thrust's host systems.

#include "support/catch.hpp"
#include "support/coded_tensor.hpp"

#include <braid/backend/cuda/algorithms/place_rows.cuh>
#include <braid/backend/cuda/algorithms/rebuild_rows.cuh>

#include <thrust/execution_policy.h>
#include <thrust/system/tbb/execution_policy.h>

using namespace braid_test;
namespace algorithms = braid::detail;

TEMPLATE_TEST_CASE("experts with residuals are rebuilt as `extract` does", "[thrust]", float, braid::bfloat16, braid::float16, braid::float8_e4m3,
                   braid::float8_e5m2) {
  random_source random(906);
  using element = TestType;
  for (int round = 0; round < 40; ++round) {
    int const experts = random.between(1, 6);
    index_t const channels = random.between(0, 12);
    index_t const cols = round % 2 == 0 ? random.between(0, 30) * 8 : random_cols(random);
    auto const t = random_grouped<element>(random, experts, channels, cols, random.between(1, experts), true);
    std::vector<std::uint8_t> label;
    std::vector<braid::residual_code> code;
    for (index_t c = 0; c < channels; ++c) {
      for (int e = 0; e < experts; ++e) {
        label.push_back(static_cast<std::uint8_t>(t.group(static_cast<std::size_t>(e), c)));
        code.push_back(t.residual(static_cast<std::size_t>(e), c));
      }
    }
    auto const run = [&](auto const& policy) {
      std::vector<std::uint8_t> index(label.size());
      std::vector<std::int32_t> before(static_cast<std::size_t>(channels) + 1);
      algorithms::place_rows(policy, label.data(), channels, experts, index.data(), before.data());
      auto const numbers = algorithms::residual_numbers::of(cols);
      std::vector<index_t> plane(code.size() + 1);
      std::vector<index_t> scale(code.size() + 1);
      algorithms::place_residuals(policy, static_cast<braid::residual_code const*>(code.data()), static_cast<index_t>(code.size()), &numbers,
                                  plane.data(), scale.data());
      index_t planes = 0;
      index_t scales = 0;
      bool placed = true;
      for (std::size_t i = 0; i < code.size(); ++i) {
        placed = placed && plane[i] == planes && scale[i] == scales;
        planes += braid::residual_bytes(code[i], cols);
        scales += braid::residual_scales(code[i]);
      }
      REQUIRE((placed && plane.back() == planes && scale.back() == scales));
      algorithms::residual_index const coded{code.data(),         plane.data(),
                                         scale.data(),        t.planes().data(),
                                         t.scales().data(),   t.column_scales().empty() ? nullptr : t.column_scales().data(),
                                         &numbers};
      for (int e = 0; e < experts; ++e) {
        index_t const stride = cols + random.below(3) * 8 + (round % 3 == 0 ? random.below(3) : 0);
        matrix out(braid::dtype_of<element>, channels, cols, stride);
        matrix expected = out;
        t.extract(static_cast<std::size_t>(e), {reinterpret_cast<element*>(expected.memory.data()), channels, cols, stride});
        algorithms::row_of_channel const row{index.data() + e * channels, before.data(), channels};
        algorithms::rebuild_expert(policy, row, coded, e, experts, t.pool().data_handle(), channels, cols,
                                 reinterpret_cast<element*>(out.memory.data()), stride);
        REQUIRE(out.memory == expected.memory);
      }
    };
    run(thrust::seq);
    run(thrust::tbb::par);
  }
}

TEST_CASE("residuals that lie in slots are moved together", "[thrust]") {
  random_source random(907);
  for (int round = 0; round < 60; ++round) {
    index_t const rows = random.between(0, 200);
    index_t const of_slot = random.between(0, 40);
    std::vector<index_t> begin{0};
    std::vector<std::uint16_t> slots;
    std::vector<std::uint16_t> expected;
    for (index_t r = 0; r < rows; ++r) {
      index_t const used = random.below(static_cast<int>(of_slot) + 1);
      begin.push_back(begin.back() + used);
      for (index_t i = 0; i < of_slot; ++i) {
        slots.push_back(static_cast<std::uint16_t>(random.bits() & 0xFFFFu));
        if (i < used) { expected.push_back(slots.back()); }
      }
    }
    auto const run = [&](auto const& policy) {
      std::vector<std::uint16_t> found(expected.size());
      algorithms::pack_slots(policy, static_cast<std::uint16_t const*>(slots.data()), rows, of_slot, begin.data(), found.data());
      REQUIRE(found == expected);
    };
    run(thrust::seq);
    run(thrust::tbb::par);
  }
}
