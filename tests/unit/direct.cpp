#include "support/catch.hpp"

#include <braid/backend/cpu/direct.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/consensus/sum.hpp>
#include <braid/core/philox.hpp>

#include <vector>

namespace {

using braid::index_t;
namespace detail = braid::detail;

/// Rows of finite values, base first.
template <class T>
std::vector<std::vector<T>> random_rows(int count, index_t cols, std::uint64_t seed) {
  std::vector<std::vector<T>> rows;
  for (int i = 0; i < count; ++i) {
    auto& row = rows.emplace_back();
    for (index_t c = 0; c < cols; ++c) {
      double const u = braid::philox_unit(seed, static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(c));
      row.push_back(T(static_cast<float>((u - 0.5) * (c % 7 == 0 ? 1e-3 : 1.0))));
    }
  }
  return rows;
}

template <class T>
std::vector<T const*> pointers(std::vector<std::vector<T>> const& rows) {
  std::vector<T const*> p;
  for (auto const& r : rows) { p.push_back(r.data()); }
  return p;
}

constexpr index_t lengths[] = {0, 1, 15, 16, 17, 31, 33, 511, 512, 513, 528, 1024, 1027};

template <class T, int N, int W>
void check_gram(index_t cols) {
  auto const rows = random_rows<T>(N + 1, cols, static_cast<std::uint64_t>(cols) + N);
  auto const p = pointers(rows);
  float totals[static_cast<std::size_t>(N * (N + 1) / 2)];
  detail::direct_gram_body<T, N>::template run<W>(p.data(), cols, totals);
  for (int i = 0; i < N; ++i) {
    for (int j = 0; j <= i; ++j) {
      float const expected = braid::sum_order::sum(cols, [&](index_t c) {
        auto const k = static_cast<std::size_t>(c);
        float const b = static_cast<float>(rows[0][k]);
        return (static_cast<float>(rows[static_cast<std::size_t>(i + 1)][k]) - b) *
               (static_cast<float>(rows[static_cast<std::size_t>(j + 1)][k]) - b);
      });
      CHECK(totals[detail::triangle(i, j)] == expected);
    }
  }
}

template <class T, class Consensus, int N, int W>
void check_merge(index_t cols) {
  auto const rows = random_rows<T>(N + 1, cols, static_cast<std::uint64_t>(cols) * 3 + N);
  auto const p = pointers(rows);
  std::vector<T> out(static_cast<std::size_t>(cols) + 1);
  Consensus const consensus;
  constexpr float lambda = 0.7f;
  detail::direct_merge_body<T, Consensus, N>::template run<W>(&consensus, p.data(), cols, lambda, out.data());
  bool same = true;
  for (std::size_t c = 0; c < static_cast<std::size_t>(cols); ++c) {
    float const b = static_cast<float>(rows[0][c]);
    float delta[static_cast<std::size_t>(N)];
    for (int i = 0; i < N; ++i) { delta[i] = static_cast<float>(rows[static_cast<std::size_t>(i + 1)][c]) - b; }
    float const expected = static_cast<float>(T(b + consensus(static_cast<float const*>(delta), N) * lambda));
    same = same && static_cast<float>(out[c]) == expected;
  }
  CHECK(same);
}

template <class T, int W>
void check_all() {
  for (index_t const cols : lengths) {
    check_gram<T, 2, W>(cols);
    check_gram<T, 3, W>(cols);
    check_gram<T, 4, W>(cols);
    check_merge<T, braid::consensus::mean, 3, W>(cols);
    check_merge<T, braid::consensus::sum, 2, W>(cols);
    check_merge<T, braid::consensus::mean, 4, W>(cols);
  }
}

}  // namespace

// All widths run on every machine: a vector wider than the machine's is only slower. So the code for AVX-512 is
// checked where there is none.
TEMPLATE_TEST_CASE("direct kernels keep the one order of sums and round once, at every vector width", "[direct]",
                   braid::bfloat16, braid::float16, float) {
  check_all<TestType, 4>();
  check_all<TestType, 8>();
  check_all<TestType, 16>();
}
