// The kernels as they are compiled for AVX-512, sixteen floats a vector, on any machine: compilers take such vectors
// apart where the machine has none. direct.cpp does the same for the kernels that hold a row in registers; the other
// files compare the instruction sets that the machine has.

#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/backend/cpu/gram.hpp>

using namespace braid_test;
namespace detail = braid::detail;

namespace {

constexpr int wide = 16;

template <class T>
void check_conversions(random_source& random) {
  dtype const type = braid::dtype_of<T>;
  for (int round = 0; round < 200; ++round) {
    int const count = random.between(0, 100);
    matrix m(type, 1, count);
    for (auto& b : m.memory) { b = static_cast<std::byte>(random.below(256)); }
    std::vector<float> base;
    std::vector<float> merged;
    for (int c = 0; c < count; ++c) {
      base.push_back(static_cast<float>(random.bell() * std::exp2(random.between(-20, 20))));
      merged.push_back(static_cast<float>(random.bell()));
    }
    std::vector<float> out(static_cast<std::size_t>(count));
    auto const same = [&](auto const& expected) {
      for (int c = 0; c < count; ++c) {
        auto const slot = static_cast<std::size_t>(c);
        if (detail::bits_as<std::uint32_t>(out[slot]) != detail::bits_as<std::uint32_t>(expected(c))) { return false; }
      }
      return true;
    };
    auto const* const from = reinterpret_cast<T const*>(m.memory.data());
    detail::widen_body<T>::template run<wide>(from, out.data(), count);
    REQUIRE(same([&](int c) { return m.at(0, c); }));
    detail::delta_body<T>::template run<wide>(from, base.data(), out.data(), count);
    REQUIRE(same([&](int c) { return m.at(0, c) - base[static_cast<std::size_t>(c)]; }));
    matrix rounded(type, 1, count);
    matrix expected(type, 1, count);
    detail::finish_body<T>::template run<wide>(base.data(), merged.data(), 0.3f,
                                               reinterpret_cast<T*>(rounded.memory.data()), count);
    for (int c = 0; c < count; ++c) {
      auto const slot = static_cast<std::size_t>(c);
      expected.set(0, c, base[slot] + merged[slot] * 0.3f);
    }
    REQUIRE(rounded.memory == expected.memory);
  }
}

}  // namespace

TEST_CASE("conversions of sixteen elements at once are those of single ones", "[simd]") {
  random_source random(201);
  check_conversions<float>(random);
  check_conversions<braid::float16>(random);
  check_conversions<braid::bfloat16>(random);
  check_conversions<braid::float8_e4m3>(random);
}

TEST_CASE("dot products of sixteen lanes at once keep the order of sums", "[simd][sum_order]") {
  random_source random(202);
  for (int rows = 1; rows <= 9; ++rows) {
    for (int round = 0; round < 10; ++round) {
      int const count = random.between(1, 512);
      std::vector<float> deltas(static_cast<std::size_t>(rows * 512), 0.0f);
      for (int i = 0; i < rows; ++i) {
        for (int c = 0; c < count; ++c) {
          deltas[static_cast<std::size_t>(i * 512 + c)] = static_cast<float>(random.bell());
        }
      }
      std::vector<float> totals(static_cast<std::size_t>(detail::triangle(rows, 0)), 0.0f);
      detail::gram_body::run<wide>(deltas.data(), rows, detail::padded(count), totals.data());
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j <= i; ++j) {
          float const expected = braid::sum_order::sum(count, [&](index_t c) {
            return deltas[static_cast<std::size_t>(i * 512 + c)] * deltas[static_cast<std::size_t>(j * 512 + c)];
          });
          REQUIRE(totals[static_cast<std::size_t>(detail::triangle(i, j))] == expected);
        }
      }
    }
  }
}
