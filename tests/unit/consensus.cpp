#include "support/catch.hpp"
#include "support/reference.hpp"
#include "support/simd_scope.hpp"

#include <braid/consensus/mean.hpp>
#include <braid/consensus/sum.hpp>
#include <braid/consensus/ties.hpp>

using namespace braid_test;
namespace consensus = braid::consensus;

namespace {

template <class Consensus>
struct combine_body {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(Consensus const* policy, float* member, index_t stride, int n, int count,
                                      float* out) noexcept {
    policy->combine(member, stride, n, count, out);
  }
};

std::uint32_t bits_of(float x) { return braid::detail::bits_as<std::uint32_t>(x); }

/// Deltas of which many cancel, vanish or are pruned away.
float random_delta(random_source& random) {
  int const kind = random.below(6);
  return kind == 0   ? 0.0f
         : kind == 1 ? -0.0f
         : kind == 2 ? static_cast<float>(random.below(5) - 2)
         : kind == 3 ? static_cast<float>(random.bell() * 1e-42)
                     : static_cast<float>(random.bell());
}

/// `combine` for runs of columns is `operator()` for each, and both are what `expected` says.
template <class Consensus>
void check_runs(pipeline expected) {
  random_source random(71);
  Consensus const policy{};
  for (auto const level : all_simd_levels) {
    simd_scope const scope(level);
    for (int round = 0; round < 150; ++round) {
      int const n = random.between(1, 9);
      int const count = random.chance(0.5) ? random.between(0, 70) : random.between(0, 512);
      index_t const stride = count + random.below(3);
      std::vector<float> member(static_cast<std::size_t>(n * stride) + 1);
      for (float& x : member) { x = random_delta(random); }
      std::vector<float> single;
      for (int c = 0; c < count; ++c) {
        std::vector<float> column;
        for (int i = 0; i < n; ++i) { column.push_back(member[static_cast<std::size_t>(i * stride + c)]); }
        single.push_back(policy(column.data(), n));
        REQUIRE(bits_of(single.back()) == bits_of(agree(expected, column)));
      }
      std::vector<float> out(static_cast<std::size_t>(count) + 1, 42.0f);
      braid::detail::dispatch<combine_body<Consensus>>(&policy, member.data(), stride, n, count, out.data());
      index_t wrong = 0;
      for (std::size_t c = 0; c < single.size(); ++c) { wrong += bits_of(out[c]) != bits_of(single[c]) ? 1 : 0; }
      INFO(Consensus::name << ", " << n << " members, " << count << " columns");
      REQUIRE(wrong == 0);
      REQUIRE(out.back() == 42.0f);
    }
  }
}

template <class Consensus>
float of(std::initializer_list<float> member) {
  return Consensus{}(member.begin(), static_cast<int>(member.size()));
}

}  // namespace

TEST_CASE("sum, mean and ties merge runs of columns as they merge single ones", "[consensus][simd]") {
  check_runs<consensus::sum>(pipeline::none_sum);
  check_runs<consensus::mean>(pipeline::none_mean);
  check_runs<consensus::ties>(pipeline::magnitude_ties);
  check_runs<consensus::ties_sum>(pipeline::magnitude_rows_ties_sum);
}

TEST_CASE("deltas are added in name order", "[consensus]") {
  CHECK(of<consensus::sum>({0x1p24f, 1.0f, -0x1p24f}) == 0.0f);
  CHECK(of<consensus::sum>({0x1p24f, -0x1p24f, 1.0f}) == 1.0f);
  CHECK(of<consensus::mean>({1.0f, 2.0f, 6.0f}) == 3.0f);
  CHECK(bits_of(of<consensus::sum>({-0.0f, -0.0f})) == bits_of(-0.0f));
}

TEST_CASE("ties elects the sign with the larger mass and averages those who agree", "[consensus][ties]") {
  CHECK(of<consensus::ties>({1.0f, 3.0f, -2.0f}) == 2.0f);
  CHECK(of<consensus::ties_sum>({1.0f, 3.0f, -2.0f}) == 4.0f);
  CHECK(of<consensus::ties>({1.0f, 1.0f, -3.0f}) == -3.0f);
  // Zeros, pruned or not, don't count as voters.
  CHECK(of<consensus::ties>({4.0f, 0.0f, -0.0f, 2.0f}) == 3.0f);
}

TEST_CASE("a zero sum elects plus", "[consensus][ties]") {
  CHECK(of<consensus::ties>({2.0f, -2.0f}) == 2.0f);
  CHECK(of<consensus::ties>({-2.0f, 2.0f}) == 2.0f);
  CHECK(of<consensus::ties_sum>({-1.0f, 3.0f, -2.0f}) == 3.0f);
  CHECK(bits_of(of<consensus::ties>({0.0f, 0.0f})) == 0u);
  CHECK(bits_of(of<consensus::ties>({-0.0f, -0.0f})) == 0u);  // a sum of -0 is no minus either
  CHECK(bits_of(of<consensus::ties_sum>({-0.0f, 0.0f})) == 0u);
}
