#include <braid/backend/cuda/candidate_search.cuh>
#include <braid/backend/cuda/column_gram.cuh>
#include <braid/backend/cuda/divergence_kernel.cuh>
#include <braid/backend/cuda/election_kernel.cuh>
#include <braid/backend/cuda/row_cuts.cuh>

#include "support/catch.hpp"
#include "support/method_models.hpp"
#include "support/placed_family.hpp"

#include <braid/method/arcee_fusion.hpp>
#include <braid/prune/magnitude.hpp>

#include <bit>

using namespace braid_test;
namespace detail = braid::detail;
using braid::bfloat16;

namespace {

/// Cuts [cuts, values] by the kernels alone: those that they don't find are left out.
template <int N, int Cuts, class F>
std::vector<std::optional<braid::magnitude_cut>> sampled_cuts(placed_family const& p, F const& values, std::vector<index_t> const& wanted, float share, bool largest) {
  constexpr auto n = static_cast<std::size_t>(F::values(N) * Cuts);
  index_t const cols = p.request.inputs.cols;
  detail::sampled_arguments<F, F::most> a{};
  braid::channel_block block = p.block;
  block.experts.resize(N);
  a.in = detail::inputs_of<F::most>(block, cols, {detail::operand::deltas});
  a.of_row = static_cast<std::uint32_t>(cols / detail::tile_elements);
  a.f = values;
  REQUIRE(a.in.rows == 1);
  a.cuts = Cuts;
  std::copy(wanted.begin(), wanted.end(), a.wanted);
  a.share = share;
  index_t const elements = a.in.cols;
  auto const chunks = static_cast<std::uint32_t>((elements + detail::sampled_chunk - 1) / detail::sampled_chunk);
  a.room = static_cast<unsigned long long>(elements / (8 * a.cuts));
  a.index_bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(elements)));
  a.largest = largest;
  std::vector<detail::sampled_stream> streams(n);
  std::vector<std::uint32_t> equals(chunks * n);
  std::vector<unsigned long long> candidates(a.room * n);
  std::vector<detail::sampled_result> results(n, {detail::sampled_stream::missed, {}});
  a.streams = streams.data();
  a.results = results.data();
  a.equals = equals.data();
  a.candidates = candidates.data();
  constexpr int shared_by = 2;  // threads of the host are few
  emulated::run(static_cast<int>(n) * shared_by, shared_by, detail::sample_threads, 16, sizeof(detail::sample_room),
                [&a] { detail::sample_kernel<shared_by, detail::sample_tiles<F>(Cuts)>(a); });
  bool usual = a.in.base.type == dtype::bf16;
  for (int i = 0; i < N; ++i) { usual = usual && a.in.models[i].type == dtype::bf16; }
  emulated::run(static_cast<int>(chunks), 1, 256, sizeof(detail::chunk_counts<F::values(N), Cuts>), 16, [&a, usual] {
    usual ? detail::count_around_kernel<N, Cuts, true>(a) : detail::count_around_kernel<N, Cuts, false>(a);
  });
  emulated::run(static_cast<int>(n), 1, 1024, 16, sizeof(detail::find_room), [&a, chunks] { detail::find_cut_kernel(a, chunks); });
  for (std::size_t s = 0; s < n; ++s) {
    CHECK(results[s].state == streams[s].state);
    CHECK((results[s].cut.bits == streams[s].cut.bits && results[s].cut.last == streams[s].cut.last));
  }
  constexpr std::uint32_t blocks = 2;
  auto const searches = [](auto const& s) { return s.state == detail::sampled_stream::among_candidates; };
  for (int d = 0; d < detail::candidate_digits && std::any_of(streams.begin(), streams.end(), searches); ++d) {
    auto const counts = std::make_unique<detail::digit_counts>();
    emulated::run(static_cast<int>(n * blocks), 1, detail::search_threads, 16, sizeof(detail::search_room),
                  [&] { detail::search_candidates_kernel(a, counts.get(), blocks); });
  }
  std::vector<std::optional<braid::magnitude_cut>> cuts(n);
  for (std::size_t s = 0; s < n; ++s) {
    CHECK_FALSE(searches(streams[s]));
    if (streams[s].state == detail::sampled_stream::found) { cuts[s] = streams[s].cut; }
  }
  return cuts;
}

/// Whether a cut divides keys as the one does that takes `wanted` of them in order; of zeros it doesn't matter which are taken.
bool divides(braid::magnitude_cut const& cut, std::vector<std::uint32_t> const& keys, index_t wanted, bool largest) {
  index_t taken = 0;
  index_t zeros = 0;
  for (std::size_t k = 0; k < keys.size(); ++k) {
    bool const equal = keys[k] == cut.bits && static_cast<index_t>(k) <= cut.last;
    taken += equal || (largest ? keys[k] > cut.bits : keys[k] < cut.bits) ? 1 : 0;
    zeros += keys[k] == 0 ? 1 : 0;
  }
  return taken == wanted || (cut.bits == 0 && (largest ? taken >= wanted : wanted <= zeros));
}

/// A number with a random mantissa.
float random_float(random_source& random, int least_exponent, int most_exponent) {
  return std::ldexp(1.0f + static_cast<float>(random.bits() & 0x7FFFFFu) * 0x1p-23f, random.between(least_exponent, most_exponent));
}

}  // namespace

TEST_CASE("quotients by known divisors are correctly rounded", "[emulated]") {
  random_source random(481);
  int differ = 0;
  auto const check = [&](float x, float d) { differ += bits_of(detail::divide_by_known(x, d, 1.0f / d)) != bits_of(x / d) ? 1 : 0; };
  for (int round = 0; round < 400000; ++round) {
    bool const far = round % 4 == 0;
    float const d = far ? random_float(random, -20, 22) : random_float(random, -1, 2);
    check(random_float(random, far ? -80 : -3, far ? 87 : 3), d);
    // Numerators whose quotients lie beside the middle of two floats, or beside a float.
    double const q = static_cast<double>(random_float(random, -4, 4));
    for (double const off : {0x1p-24, 0x1p-25, 0.0}) {
      auto const x = static_cast<float>(q * (1.0 + off) * static_cast<double>(d));
      for (float const near : {x, std::nextafter(x, 0.0f), std::nextafter(x, HUGE_VALF)}) { check(near, d); }
    }
  }
  for (int k = 0; k < 1 << 16; ++k) {
    // All ones are the divisors that give most trouble.
    check(random_float(random, -2, 2), std::nextafter(2.0f, 0.0f));
    check(std::nextafter(2.0f, 0.0f), random_float(random, -2, 2));
    check(random_float(random, -2, 2), 3.0f);
  }
  check(0.0f, 3.0f);
  CHECK(differ == 0);
}

TEST_CASE("the kernel of elections gives the CPU's bytes", "[emulated]") {
  random_source random(482);
  using braid::consensus::ballot;
  constexpr float cut_at[] = {0.125f, 0.25f, 0.01f};
  constexpr float tiny_at[] = {0.0f, 0x1p-130f, 0x1p-100f};
  for (int round = 0; round < 24; ++round) {
    family f = random_family(random, dtype::bf16, random.between(1, 9), 8 * random.between(1, 40), round % 3 == 0 ? 2 : 4);
    index_t const elements = f.base.rows * f.base.cols;
    for (auto& e : f.experts) {
      for (index_t r = 0; r < f.base.rows; ++r) {
        for (index_t c = 0; c < f.base.cols; ++c) {
          int const kind = random.between(0, 9);
          // Many equal magnitudes; and some that no fast way suits.
          if (kind < 5) { e.weight.set(r, c, f.base.at(r, c) + 0.125f * static_cast<float>(random.between(-2, 2))); }
          if (kind < 6 && round % 8 == 7) { f.base.set(r, c, 0.0f); }
          if (kind == 5 && round % 4 != 0) { e.weight.set(r, c, std::ldexp(1.0f, random.between(-132, 120))); }
        }
      }
    }
    placed_family const p(f, true, 0);
    // A part of the tensor, of one row now and then: cuts count the tensor's elements.
    index_t const first = round % 2 == 0 ? 0 : random.between(0, static_cast<int>(f.base.rows) - 1);
    index_t const rows = round % 6 == 1 ? 1 : f.base.rows - first;
    std::vector<std::byte> scratch;
    braid::channel_block const block = p.request.inputs.block(first, rows, scratch);
    std::size_t const n = f.experts.size();
    std::vector<braid::magnitude_cut> cuts;
    std::vector<float> weight;
    for (std::size_t i = 0; i < n; ++i) {
      bool const tiny = round % 4 >= 2;
      cuts.push_back({bits_of(tiny ? random.one_of(tiny_at) : random.one_of(cut_at)), random.between(-1, static_cast<int>(elements))});
      weight.push_back(round % 2 == 0 ? 1.0f : static_cast<float>(0.1 + random.unit()));
    }
    bool const normalize = round % 3 != 1;
    float const lambda = round % 5 == 0 ? 1.0f : 0.7f;
    auto const check = [&]<int N, ballot Ballot>(std::integral_constant<int, N>, std::integral_constant<ballot, Ballot>) {
      std::vector<bfloat16> out(static_cast<std::size_t>(rows * f.base.cols) + 8);
      auto* const to = reinterpret_cast<std::byte*>(out.data());
      auto a = detail::ordinary_election<4>(block, f.base.cols, to, cuts, weight, lambda, normalize);
      REQUIRE(a.has_value());
      unsigned long long bad = ~0ull;
      a->in.first_bad = &bad;
      emulated::run(static_cast<int>(a->tiles + 63) / 64, 1, 32, 16, sizeof(detail::election_table<N>), [&a] {
        a->tiny ? detail::election_kernel<N, Ballot, true, 2, 4>(*a) : detail::election_kernel<N, Ballot, false, 2, 4>(*a);
      });
      CHECK(bad == ~0ull);
      index_t differ = 0;
      for (index_t k = first * f.base.cols; k < (first + rows) * f.base.cols; ++k) {
        float x[N];
        float const base = f.base.at(k / f.base.cols, k % f.base.cols);
        for (std::size_t i = 0; i < n; ++i) {
          float const delta = f.experts[i].weight.at(k / f.base.cols, k % f.base.cols) - base;
          x[i] = cuts[i].keeps(delta, k) ? delta : 0.0f;
        }
        float const joined = braid::consensus::elected_sum<Ballot>{}(x, weight.data(), N, normalize);
        differ += bfloat16(base + joined * lambda).bits != out[static_cast<std::size_t>(k - first * f.base.cols)].bits ? 1 : 0;
      }
      INFO("round " << round << ", " << f.base.rows << " x " << f.base.cols << ", " << n << " models");
      CHECK(differ == 0);
    };
    auto const check_ballots = [&](auto const models) {
      check(models, std::integral_constant<ballot, ballot::weighted>{});
      check(models, std::integral_constant<ballot, ballot::plain>{});
    };
    if (n == 2) {
      check_ballots(std::integral_constant<int, 2>{});
    } else {
      check_ballots(std::integral_constant<int, 4>{});
    }
  }
}

TEST_CASE("the kernel of elections notes NaN and infinity", "[emulated]") {
  random_source random(483);
  for (float const bad_value : {NAN, INFINITY, -INFINITY}) {
    family f = random_family(random, dtype::bf16, 7, 64, 2);
    int const which = random.between(-1, 1);
    (which < 0 ? f.base : f.experts[static_cast<std::size_t>(which)].weight).set(4, random.between(0, 63), bad_value);
    placed_family const p(f, true, 0);
    std::vector<bfloat16> out(7 * 64);
    auto a = detail::ordinary_election<4>(p.block, 64, reinterpret_cast<std::byte*>(out.data()), {{bits_of(0.01f), -1}, {bits_of(0.02f), -1}}, {1.0f, 2.0f}, 1.0f, true);
    REQUIRE(a.has_value());
    unsigned long long bad = ~0ull;
    a->in.first_bad = &bad;
    emulated::run(1, 1, 32, 16, sizeof(detail::election_table<2>), [&a] { detail::election_kernel<2, braid::consensus::ballot::weighted, false, 2, 4>(*a); });
    CHECK(bad == 4);
  }
}

TEST_CASE("elections with cuts and weights that are out of the ordinary are left to others", "[emulated]") {
  random_source random(484);
  family const f = random_family(random, dtype::bf16, 2, 64, 2);
  placed_family const p(f, true, 0);
  std::vector<bfloat16> out(2 * 64);
  auto const takes = [&](float cut, float weight) {
    return detail::ordinary_election<4>(p.block, 64, reinterpret_cast<std::byte*>(out.data()), {{bits_of(0.5f), -1}, {bits_of(cut), -1}}, {1.0f, weight}, 1.0f, true).has_value();
  };
  CHECK(takes(0.5f, 1.0f));
  CHECK_FALSE(takes(INFINITY, 1.0f));
  CHECK_FALSE(takes(0.5f, -1.0f));
  CHECK_FALSE(takes(0.5f, 0.0f));
  CHECK_FALSE(takes(0.5f, NAN));
  CHECK_FALSE(takes(0.5f, 0x1p21f));
}

TEST_CASE("cuts that a sample and one pass find take as many as they should", "[emulated]") {
  random_source random(485);
  enum kind_type { as_tuned, half_still, few_values, kinds };
  constexpr index_t cols = 1024;
  int found = 0;
  for (int kind = as_tuned; kind < kinds; ++kind) {
    family f = random_family(random, kind == half_still ? dtype::f32 : dtype::bf16, 514 + 2 * kind, cols, 2);
    for (auto& e : f.experts) {
      for (index_t k = 0; kind != as_tuned && k < f.base.rows * cols; ++k) {
        float const b = f.base.at(k / cols, k % cols);
        if (kind == few_values) { e.weight.set(k / cols, k % cols, b + 0.5f * static_cast<float>(random.between(-3, 3))); }
        if (kind == half_still && random.chance(0.5)) { e.weight.set(k / cols, k % cols, b); }
      }
    }
    placed_family const p(f, true, 0);
    index_t const elements = f.base.rows * cols;
    auto const check = [&]<int N, int Cuts, class F>(std::integral_constant<int, N>, std::integral_constant<int, Cuts>, F const& values, bool largest) {
      std::vector<index_t> wanted;
      for (int s = 0; s < F::values(N) * Cuts; ++s) {
        wanted.push_back(static_cast<index_t>((s == 0 ? 0.02 + 0.5 * random.unit() : 0.99) * static_cast<double>(elements)));
      }
      float const share = 0.3f;
      auto const ours = sampled_cuts<N, Cuts>(p, values, wanted, share, largest);
      for (int v = 0; v < F::values(N); ++v) {
        std::vector<std::uint32_t> keys;
        index_t nonzero = 0;
        for (index_t k = 0; k < elements; ++k) {
          float x[N];
          for (std::size_t i = 0; i < N; ++i) { x[i] = f.experts[i].weight.at(k / cols, k % cols) - f.base.at(k / cols, k % cols); }
          keys.push_back(bits_of(values.value(v, x, N, k / cols, k % cols)) & 0x7FFFFFFFu);
          nonzero += keys.back() != 0 ? 1 : 0;
        }
        for (int c = 0; c < Cuts; ++c) {
          auto const s = static_cast<std::size_t>(c * F::values(N) + v);
          INFO("kind " << kind << ", " << N << " models, value " << v << ", cut " << c << " of " << Cuts << ", largest " << largest);
          if (!ours[s]) { continue; }
          ++found;
          CHECK(divides(*ours[s], keys, F::shares ? static_cast<index_t>(static_cast<float>(nonzero) * share) : wanted[s], largest));
        }
      }
    };
    using one = std::integral_constant<int, 1>;
    using two = std::integral_constant<int, 2>;
    using three = std::integral_constant<int, 3>;
    std::vector<float> divergence(static_cast<std::size_t>(f.base.rows));
    for (float& d : divergence) { d = static_cast<float>(random.unit()); }
    if (kind == as_tuned) { check(one{}, three{}, detail::importance_values{{}, divergence.data()}, false); }
    if (kind == half_still) { check(one{}, two{}, detail::delta_values{}, false); }
    if (kind == few_values) { check(two{}, one{}, detail::delta_values{}, true); }
    if (kind == few_values) { check(two{}, one{}, detail::variance_values{}, true); }
  }
  CHECK(found >= 5);
}

TEST_CASE("cuts of rows keep what the CPU's keep", "[emulated]") {
  random_source random(486);
  for (int round = 0; round < 8; ++round) {
    index_t const cols = round % 2 == 0 ? 8 * random.between(1, 200) : random.between(2, 1300);
    family f = random_family(random, round % 3 == 0 ? dtype::f32 : dtype::bf16, 2, cols, 2);
    for (auto& e : f.experts) {
      for (index_t k = 0; round % 4 < 3 && k < 2 * cols; ++k) {
        if (random.chance(0.6)) { e.weight.set(k / cols, k % cols, f.base.at(k / cols, k % cols) + 0.5f * static_cast<float>(random.between(-1, 1))); }
      }
    }
    placed_family const p(f, true, 0);
    using plan_type = braid::prune::magnitude_rows::plan_type;
    detail::row_cut_arguments<plan_type, 4> a{};
    a.in = detail::inputs_of<4>(p.block, cols, {detail::operand::deltas, false, true});
    a.keep[0] = random.between(0, static_cast<int>(cols));
    a.keep[1] = random.between(1, static_cast<int>(cols) - 1);
    std::vector<plan_type> plans(4);
    a.plans = plans.data();
    constexpr unsigned threads[] = {detail::short_row_cut_threads, detail::row_cut_threads};
    emulated::run(4, 1, static_cast<int>(threads[round % 2]), detail::row_cut_memory(cols), sizeof(detail::row_cut_room), [&a, round] {
      round % 2 == 0 ? detail::row_cuts_kernel<detail::short_row_cut_threads>(a) : detail::row_cuts_kernel<detail::row_cut_threads>(a);
    });
    for (std::size_t k = 0; k < 4; ++k) {
      auto const row = static_cast<index_t>(k / 2);
      std::vector<float> delta;
      for (index_t c = 0; c < cols; ++c) { delta.push_back(f.experts[k % 2].weight.at(row, c) - f.base.at(row, c)); }
      detail::row_workspace work;
      braid::magnitude_cut const expected = detail::row_cut(delta.data(), cols, a.keep[k % 2], work);
      index_t differ = 0;
      for (index_t c = 0; c < cols; ++c) { differ += plans[k].cut.keeps(delta[static_cast<std::size_t>(c)], c) != expected.keeps(delta[static_cast<std::size_t>(c)], c) ? 1 : 0; }
      INFO("round " << round << ", row " << row << " of " << cols << ", keeps " << a.keep[k % 2]);
      CHECK(differ == 0);
    }
  }
}

TEST_CASE("Gram matrices of columns are added from the first row to the last", "[emulated]") {
  random_source random(487);
  for (int round = 0; round < 5; ++round) {
    index_t const rows = random.one_of(std::vector<index_t>{1, 3, 255, 256, 600});
    index_t const cols = 8 * random.between(1, 9);
    family const f = random_family(random, dtype::bf16, rows, cols, 2);
    placed_family const p(f, false, 0);
    std::vector<double> gram(static_cast<std::size_t>(4 * cols));
    detail::column_gram const g{{}, {detail::device_input(p.block.experts[0]), detail::device_input(p.block.experts[1])}, false, false, rows, gram.data()};
    REQUIRE(detail::has_usual_columns(g, cols));
    emulated::run(static_cast<int>((cols + 31) / 32), 1, detail::gram_threads, sizeof(detail::column_gram_room), 16, [&] { detail::column_gram_kernel(g, cols); });
    int differ = 0;
    for (index_t c = 0; c < cols; ++c) {
      double sum[3] = {0.0, 0.0, 0.0};
      for (index_t r = 0; r < rows; ++r) {
        auto const x = static_cast<double>(f.experts[0].weight.at(r, c));
        auto const y = static_cast<double>(f.experts[1].weight.at(r, c));
        sum[0] = sum[0] + x * x;
        sum[1] = sum[1] + x * y;
        sum[2] = sum[2] + y * y;
      }
      double const* const at = gram.data() + 4 * c;
      differ += at[0] != sum[0] || at[1] != sum[1] || at[2] != sum[1] || at[3] != sum[2] ? 1 : 0;
    }
    INFO(rows << " x " << cols);
    CHECK(differ == 0);
  }
}

TEST_CASE("divergences of rows are the CPU's", "[emulated]") {
  random_source random(488);
  for (index_t const cols : {1, 63, 64, 200}) {
    index_t const rows = cols == 200 ? 34 : random.between(1, 5);
    family f = random_family(random, random.one_of(std::vector<dtype>{dtype::bf16, dtype::f32}), rows, cols, 1);
    // Exponentials of all sizes, down to those that are zero.
    for (index_t k = 0; cols > 1 && k < rows * cols; k += 3) { f.experts[0].weight.set(k / cols, k % cols, -10.0f * static_cast<float>(random.between(0, 90))); }
    placed_family const p(f, true, 0);
    std::vector<float> divergence(static_cast<std::size_t>(rows));
    emulated::run(static_cast<int>((rows + detail::divergence_rows - 1) / detail::divergence_rows), 1, detail::divergence_threads, sizeof(detail::divergence_room), 16, [&] {
      detail::divergence_kernel(detail::device_input(p.block.experts[0]), detail::device_input(p.block.base), rows, cols, divergence.data());
    });
    int differ = 0;
    for (index_t r = 0; r < rows; ++r) {
      std::vector<float> x[2];
      for (index_t c = 0; c < cols; ++c) {
        x[0].push_back(f.experts[0].weight.at(r, c));
        x[1].push_back(f.base.at(r, c));
      }
      std::vector<double> e[2];
      double sum[2] = {0.0, 0.0};
      for (int m = 0; m < 2; ++m) {
        float const largest = *std::max_element(x[m].begin(), x[m].end());
        for (float const v : x[m]) {
          e[m].push_back(detail::exp_negative(static_cast<double>(v) - static_cast<double>(largest)));
          sum[m] = sum[m] + e[m].back();
        }
      }
      double total = 0.0;
      for (std::size_t c = 0; c < e[0].size(); ++c) {
        double const a = e[0][c] / sum[0] + 1e-8;
        double const b = e[1][c] / sum[1] + 1e-8;
        total = total + a * detail::log_positive(a / b);
      }
      differ += bits_of(divergence[static_cast<std::size_t>(r)]) != bits_of(total > 0.0 ? static_cast<float>(total) : 0.0f) ? 1 : 0;
    }
    INFO(rows << " x " << cols);
    CHECK(differ == 0);
  }
}
