#include "support/catch.hpp"
#include "support/models_on_disk.hpp"
#include "support/random_models.hpp"
#include "support/simd_scope.hpp"
#include "support/temp_dir.hpp"
#include "support/threads.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/engine/run.hpp>
#include <braid/io/grouped_checkpoint.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/none.hpp>
#include <braid/residual/any.hpp>
#include <braid/serve/row_linear.hpp>
#include <braid/similarity/cosine.hpp>

#include <cstring>

using namespace braid_test;
using braid::tensor_view;

namespace {

std::vector<float> random_vectors(random_source& random, index_t count, index_t cols) {
  std::vector<float> x(static_cast<std::size_t>(count * cols));
  for (float& v : x) { v = random.chance(0.02) ? -0.0f : static_cast<float>(random.bell()); }
  return x;
}

/// A pool in two pieces, and experts that share some of its rows.
struct random_pool {
  matrix pool;
  index_t first;
  std::vector<std::vector<std::int32_t>> rows;
  std::vector<std::byte> first_bytes;
  std::vector<std::byte> further_bytes;

  random_pool(random_source& random, dtype type, index_t channels, index_t cols, int experts)
      : pool(type, random.between(1, 3) * (channels + 1), cols), first(random.between(0, static_cast<int>(pool.rows))) {
    for (index_t r = 0; r < pool.rows; ++r) {
      for (index_t c = 0; c < cols; ++c) { pool.set(r, c, static_cast<float>(random.chance(0.02) ? 0.0 : random.bell())); }
    }
    for (int e = 0; e < experts; ++e) {
      auto& own = rows.emplace_back();
      index_t const has = random.chance(0.2) ? random.between(0, static_cast<int>(channels)) : channels;
      for (index_t c = 0; c < has; ++c) {
        own.push_back(e > 0 && random.chance(0.5) && static_cast<std::size_t>(c) < rows[0].size()
                          ? rows[0][static_cast<std::size_t>(c)]
                          : random.below(static_cast<int>(pool.rows)));
      }
    }
    auto const all = pool.packed();
    auto const cut = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(first) * pool.row_bytes());
    first_bytes.assign(all.begin(), all.begin() + cut);
    further_bytes.assign(all.begin() + cut, all.end());
  }
  [[nodiscard]] braid::pool_rows source() const { return {pool.type, pool.cols, first_bytes, further_bytes, rows}; }
};

constexpr dtype types[] = {dtype::f32, dtype::bf16, dtype::f16, dtype::f8_e4m3, dtype::f8_e5m2};

using merge = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact,
                                   braid::consensus::mean, braid::residual::any>;

struct widen_natively {
  template <int W>
  BRAID_ALWAYS_INLINE static void run(braid::detail::native_float16 const* from, float* to, index_t count) noexcept {
    for (index_t c = 0; c < count; c += W) {
      typename braid::detail::wide<W>::f32 x;
      braid::detail::lane_codec<braid::detail::native_float16, W>::load(from + c, x);
      braid::detail::lane_codec<float, W>::store(x, to + c);
    }
  }
};

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

TEST_CASE("a product by rows of a pool is the expert's own, in the order of sums", "[serve]") {
  allow_many_threads();
  random_source random(1);
  braid::cpu const be(3);
  for (int round = 0; round < 150; ++round) {
    dtype const type = random.one_of(types);
    index_t const cols = random_cols(random);
    index_t const channels = random.between(0, 40);
    int const experts = random.between(1, 5);
    random_pool const p(random, type, channels, cols, experts);
    braid::row_linear const linear(p.source());
    index_t const batch = random.chance(0.3) ? 1 : random.between(0, 13);
    auto const x = random_vectors(random, batch, cols);
    std::vector<std::size_t> expert;
    index_t most = 0;
    for (index_t b = 0; b < batch; ++b) {
      expert.push_back(static_cast<std::size_t>(random.below(experts)));
      most = std::max(most, linear.channels(expert.back()));
    }
    CAPTURE(round, braid::name_of(type), cols, channels, experts, batch);
    std::vector<float> y(static_cast<std::size_t>(batch * most), 77.0f);
    for (auto const level : all_simd_levels) {
      simd_scope const scope(level);
      std::fill(y.begin(), y.end(), 77.0f);
      linear.apply(be, expert, tensor_view<float const>(x.data(), batch, cols), tensor_view<float>(y.data(), batch, most));
      for (index_t b = 0; b < batch; ++b) {
        auto const& rows = p.rows[expert[static_cast<std::size_t>(b)]];
        for (index_t c = 0; c < most; ++c) {
          bool const own = c < static_cast<index_t>(rows.size());
          float const expected =
              own ? braid::sum_order::sum(cols, [&](index_t k) { return p.pool.at(rows[static_cast<std::size_t>(c)], k) * x[static_cast<std::size_t>(b * cols + k)]; })
                  : 77.0f;
          REQUIRE(same_bits(y[static_cast<std::size_t>(b * most + c)], expected));
        }
      }
    }
  }
}

TEST_CASE("kernels of products give the same bits at every width, and in pieces", "[serve]") {
  random_source random(7);
  auto const check = [&]<class T, int R, int B>(T*, std::integral_constant<int, R>, std::integral_constant<int, B>) {
    constexpr auto outputs = static_cast<std::size_t>(R * B);
    for (index_t const cols : {0, 1, 15, 16, 511, 512, 513, 1024, 1500}) {
      matrix w(braid::dtype_of<T>, R, cols);
      fill_with_any_finite(random, w);
      for (index_t r = 0; r < R; ++r) {
        for (index_t c = 0; c < cols; ++c) {
          if (!(std::abs(w.at(r, c)) < 1e15f)) { w.set(r, c, static_cast<float>(random.bell())); }
        }
      }
      auto const x = random_vectors(random, B, cols);
      T const* rows[static_cast<std::size_t>(R)];
      float const* inputs[static_cast<std::size_t>(B)];
      for (index_t r = 0; r < R; ++r) { rows[r] = reinterpret_cast<T const*>(w.row(r)); }
      for (index_t b = 0; b < B; ++b) { inputs[b] = x.data() + b * cols; }
      using body = braid::detail::row_products_body<T, R, B>;
      float narrow[outputs]{}, middle[outputs]{}, wide[outputs]{};
      body::template run<4>(rows, rows, inputs, 0, cols, cols, narrow, B);
      for (index_t first = 0; first < cols; first += 512) {
        body::template run<8>(rows, rows, inputs, first, std::min<index_t>(first + 512, cols), cols, middle, B);
      }
      body::template run<16>(rows, rows, inputs, 0, cols, cols, wide, B);
      for (index_t r = 0; r < R; ++r) {
        for (index_t b = 0; b < B; ++b) {
          float const expected = braid::sum_order::sum(cols, [&](index_t c) { return w.at(r, c) * inputs[b][c]; });
          REQUIRE(same_bits(narrow[r * B + b], expected));
          REQUIRE(same_bits(middle[r * B + b], expected));
          REQUIRE(same_bits(wide[r * B + b], expected));
        }
      }
    }
  };
  using one = std::integral_constant<int, 1>;
  using two = std::integral_constant<int, 2>;
  using four = std::integral_constant<int, 4>;
  check(static_cast<braid::bfloat16*>(nullptr), four{}, four{});
  check(static_cast<braid::bfloat16*>(nullptr), std::integral_constant<int, 8>{}, one{});
  check(static_cast<braid::float16*>(nullptr), four{}, two{});
  check(static_cast<float*>(nullptr), one{}, four{});
}

TEST_CASE("the machine's conversion of f16 gives the bits of the portable one, but for signalling NaN", "[serve]") {
  for (auto const level : all_simd_levels) {
    simd_scope const scope(level);
    if (!braid::detail::has_native_f16()) { continue; }
    std::vector<braid::float16> from;
    for (std::uint32_t b = 0; b < 0x10000u; ++b) { from.push_back(braid::float16::from_bits(static_cast<std::uint16_t>(b))); }
    std::vector<float> to(from.size());
    braid::detail::dispatch<widen_natively>(reinterpret_cast<braid::detail::native_float16 const*>(from.data()), to.data(),
                                            static_cast<index_t>(from.size()));
    int wrong = 0;
    for (std::size_t i = 0; i < from.size(); ++i) {
      bool const signalling = (from[i].bits & 0x7C00u) == 0x7C00u && (from[i].bits & 0x3FFu) != 0 && (from[i].bits & 0x200u) == 0;
      auto const expected = braid::detail::bits_as<std::uint32_t>(static_cast<float>(from[i]));
      auto const got = braid::detail::bits_as<std::uint32_t>(to[i]);
      wrong += got == expected || (signalling && got == (expected | 0x400000u)) ? 0 : 1;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("long batches have the bits of their vectors one by one", "[serve]") {
  random_source random(2);
  allow_many_threads();
  for (auto const& [channels, cols, batch] : {std::array<int, 3>{130, 1100, 64}, {70, 2050, 33}, {9, 5000, 17}}) {
    random_pool const p(random, dtype::bf16, channels, cols, 4);
    braid::row_linear const linear(p.source());
    auto const x = random_vectors(random, batch, cols);
    std::vector<std::size_t> expert;
    for (int b = 0; b < batch; ++b) { expert.push_back(static_cast<std::size_t>(random.below(4))); }
    std::vector<float> together(static_cast<std::size_t>(batch * channels));
    std::vector<float> again(together.size());
    linear.apply(braid::cpu(1), expert, tensor_view<float const>(x.data(), batch, cols), tensor_view<float>(together.data(), batch, channels));
    linear.apply(braid::cpu(4), expert, tensor_view<float const>(x.data(), batch, cols), tensor_view<float>(again.data(), batch, channels));
    CHECK(together == again);
    for (int b = 0; b < batch; ++b) {
      std::size_t const e = expert[static_cast<std::size_t>(b)];
      std::vector<float> alone(static_cast<std::size_t>(linear.channels(e)));
      linear.apply(braid::cpu(2), e, std::span(x).subspan(static_cast<std::size_t>(b * cols), static_cast<std::size_t>(cols)), alone);
      for (std::size_t c = 0; c < alone.size(); ++c) { REQUIRE(same_bits(alone[c], together[static_cast<std::size_t>(b * channels) + c])); }
    }
  }
}

TEST_CASE("residuals are decoded to the rows that extract gives", "[serve]") {
  random_source random(3);
  allow_many_threads();
  braid::cpu const be(2);
  for (auto const code : {braid::residual::any(braid::residual::sign_bits<1>{}), braid::residual::any(braid::residual::sign_bits<3>{}),
                          braid::residual::any(braid::residual::ternary{}), braid::residual::any(braid::residual::trellis<2>{})}) {
    for (index_t const cols : {1, 33, 700}) {
      auto const f = random_family(random, dtype::bf16, 37, cols, 4);
      std::vector<braid::expert_view<braid::bfloat16>> views;
      for (auto const& e : f.experts) {
        views.push_back({e.name, {reinterpret_cast<braid::bfloat16 const*>(e.weight.row(0)), 37, cols}});
      }
      merge const m{{.residual = code, .groups = 2}};
      auto const merged = m(be, "w", {reinterpret_cast<braid::bfloat16 const*>(f.base.row(0)), 37, cols}, views);
      braid::row_linear const linear{braid::grouped_rows(merged)};
      std::vector<std::size_t> const expert{3, 0, 1, 2, 3, 3, 1};
      auto const x = random_vectors(random, 7, cols);
      std::vector<float> y(7 * 37);
      linear.apply(be, expert, tensor_view<float const>(x.data(), 7, cols), tensor_view<float>(y.data(), 7, 37));
      for (std::size_t b = 0; b < 7; ++b) {
        std::vector<braid::bfloat16> rebuilt(static_cast<std::size_t>(37 * cols));
        merged.extract(expert[b], {rebuilt.data(), 37, cols});
        for (index_t c = 0; c < 37; ++c) {
          float const expected = braid::sum_order::sum(cols, [&](index_t k) {
            return static_cast<float>(rebuilt[static_cast<std::size_t>(c * cols + k)]) * x[b * static_cast<std::size_t>(cols) + static_cast<std::size_t>(k)];
          });
          REQUIRE(same_bits(y[b * 37 + static_cast<std::size_t>(c)], expected));
        }
      }
    }
  }
}

TEST_CASE("products from a checkpoint are those of the experts that it gives back", "[serve]") {
  random_source random(6);
  allow_many_threads();
  braid::cpu const be(2);
  std::vector<braid::residual::any> const codes{braid::residual::none{}, braid::residual::sign_bits<2>{}, braid::residual::ternary{}};
  for (int round = 0; round < 6; ++round) {
    temp_dir const dir;
    auto const family = random_disk_family(random, random.between(2, 4), {dtype::bf16, dtype::f32, dtype::f16});
    family.write(dir.path());
    std::vector<braid::checkpoint> experts;
    for (auto const& n : family.names) { experts.emplace_back(dir.path() / n, n); }
    auto code = codes[static_cast<std::size_t>(round) % codes.size()];
    code.rank_one = round >= 3;
    braid::run(merge{{.residual = code, .groups = random.between(1, 2)}}, braid::checkpoint(dir.path() / "base"), experts, dir.path() / "out");
    std::vector<std::pair<std::string, braid::pool_rows>> sources;
    std::vector<std::vector<std::vector<std::byte>>> rebuilt;
    {
      braid::grouped_checkpoint const g(dir.path() / "out");
      for (auto const& t : g.tensors()) {
        if (t.shape.size() < 2) { continue; }
        sources.emplace_back(t.name, braid::pool_rows(g, t.name));
        auto& own = rebuilt.emplace_back();
        for (std::size_t e = 0; e < experts.size(); ++e) {
          own.emplace_back(static_cast<std::size_t>(t.channels * t.row_elements) * braid::size_of(t.type));
          g.read(t.name, e, own.back());
        }
      }
      CHECK_THROWS_AS(braid::pool_rows(g, "no.such.tensor"), braid::argument_error);
    }
    REQUIRE(sources.size() == 5);
    for (std::size_t i = 0; i < sources.size(); ++i) {  // the checkpoint is closed, its mapping isn't
      braid::row_linear const linear(sources[i].second);
      index_t const cols = linear.cols();
      index_t const channels = linear.channels(0);
      auto const batch = static_cast<index_t>(experts.size()) + 2;
      auto const x = random_vectors(random, batch, cols);
      std::vector<std::size_t> expert;
      for (index_t b = 0; b < batch; ++b) { expert.push_back(static_cast<std::size_t>(b) % experts.size()); }
      std::vector<float> y(static_cast<std::size_t>(batch * channels));
      linear.apply(be, expert, tensor_view<float const>(x.data(), batch, cols), tensor_view<float>(y.data(), batch, channels));
      CAPTURE(round, sources[i].first);
      for (index_t b = 0; b < batch; ++b) {
        auto const& w = rebuilt[i][expert[static_cast<std::size_t>(b)]];
        for (index_t c = 0; c < channels; ++c) {
          float const expected = braid::sum_order::sum(cols, [&](index_t k) {
            return load(sources[i].second.type(), w.data(), c * cols + k) * x[static_cast<std::size_t>(b * cols + k)];
          });
          REQUIRE(same_bits(y[static_cast<std::size_t>(b * channels + c)], expected));
        }
      }
    }
  }
}

TEST_CASE("more experts in a batch than a mask has bits", "[serve]") {
  random_source random(4);
  random_pool const p(random, dtype::f32, 20, 40, 150);
  braid::row_linear const linear(p.source());
  braid::cpu const be(1);
  std::vector<std::size_t> expert;
  index_t most = 0;
  for (std::size_t e = 0; e < 150; ++e) {
    expert.push_back(149 - e);
    most = std::max(most, linear.channels(e));
  }
  auto const x = random_vectors(random, 150, 40);
  std::vector<float> y(150 * static_cast<std::size_t>(most));
  linear.apply(be, expert, tensor_view<float const>(x.data(), 150, 40), tensor_view<float>(y.data(), 150, most));
  for (std::size_t b = 0; b < 150; ++b) {
    std::vector<float> alone(static_cast<std::size_t>(linear.channels(expert[b])));
    linear.apply(be, expert[b], std::span(x).subspan(b * 40, 40), alone);
    for (std::size_t c = 0; c < alone.size(); ++c) { REQUIRE(same_bits(alone[c], y[b * static_cast<std::size_t>(most) + c])); }
  }
}

TEST_CASE("products of other shapes, experts or rows are refused", "[serve]") {
  random_source random(5);
  random_pool p(random, dtype::bf16, 10, 30, 2);
  p.rows[0].assign(10, 0);
  p.rows[1].assign(10, 1);
  braid::row_linear const linear(p.source());
  braid::cpu const be(1);
  std::vector<float> x(60), y(40);
  auto const call = [&](std::vector<std::size_t> const& e, index_t rows, index_t cols, index_t out_rows, index_t out) {
    linear.apply(be, e, tensor_view<float const>(x.data(), rows, cols), tensor_view<float>(y.data(), out_rows, out));
  };
  CHECK_NOTHROW(call({0, 1}, 2, 30, 2, 10));
  CHECK_NOTHROW(call({}, 0, 30, 0, 0));
  CHECK_THROWS_AS(call({0, 2}, 2, 30, 2, 10), braid::argument_error);
  CHECK_THROWS_AS(call({0}, 2, 30, 2, 10), braid::shape_error);
  CHECK_THROWS_AS(call({0, 1}, 2, 29, 2, 10), braid::shape_error);
  CHECK_THROWS_AS(call({0, 1}, 2, 30, 1, 10), braid::shape_error);
  CHECK_THROWS_AS(call({0, 1}, 2, 30, 2, 11), braid::shape_error);
  CHECK_THROWS_AS(linear.channels(2), braid::argument_error);
  p.rows[1][3] = static_cast<std::int32_t>(p.pool.rows);
  CHECK_THROWS_AS(p.source(), braid::argument_error);
  p.rows[1][3] = -1;
  CHECK_THROWS_AS(p.source(), braid::argument_error);
  std::vector<std::byte> const odd(61);
  CHECK_THROWS_AS(braid::pool_rows(dtype::bf16, 30, odd, {}, {}), braid::shape_error);
  CHECK_THROWS_AS(braid::pool_rows(dtype::i32, 15, odd, {}, {}), braid::argument_error);
}
