#include <braid/backend/cuda/block_inputs.cuh>
#include <braid/backend/cuda/delta_functions.cuh>
#include <braid/backend/cuda/ranked_kernel.cuh>

#include "support/catch.hpp"
#include "support/method_models.hpp"
#include "support/placed_family.hpp"

#include <braid/prune/magprune.hpp>

using namespace braid_test;
namespace detail = braid::detail;

namespace {

using plan_type = braid::prune::magprune::plan_type;

struct ranked_result {
  std::vector<std::byte> bytes;
  std::uint32_t left;
  unsigned long long bad;
};

/// What the kernels make of a family, `blocks` blocks of threads.
template <int N, class Consensus>
ranked_result ranked(placed_family const& p, std::vector<braid::prune::magprune> const& prune, std::vector<float> const& weight,
                     std::vector<float> const& factor, bool normalize, int blocks, int threads) {
  using function = detail::join_function<plan_type, Consensus, 4, false>;
  index_t const cols = p.request.inputs.cols;
  std::vector<std::byte> memory(static_cast<std::size_t>(p.block.rows * cols) * 2 + 16, std::byte{0x5A});
  std::byte* const out = memory.data() + (16 - reinterpret_cast<std::uintptr_t>(memory.data()) % 16) % 16;
  std::vector<std::uint32_t> left(static_cast<std::size_t>(p.block.rows) + 1, 0);
  ranked_result r{{}, 0, ~0ull};
  detail::ranked_arguments<N, plan_type, detail::ranked_join<function>> a{};
  a.base = detail::device_input(p.block.base);
  for (int m = 0; m < N; ++m) {
    auto const i = static_cast<std::size_t>(m);
    a.models[m] = detail::device_input(p.block.experts[i]);
    a.plans[m] = prune[i].plan({braid::stream_hash(p.request.tensor, p.request.models[i]), p.block.rows, cols}, {nullptr, cols});
    a.out.f.weight[m] = weight[i];
    a.out.f.factor[m] = factor[i];
    a.out.f.scales = a.out.f.scales || factor[i] != 1.0f;
  }
  a.out.f.lambda = 1.0f;
  a.out.f.normalize = normalize;
  a.keys = detail::random_keys(prune[0].seed);
  a.rows = p.block.rows;
  a.cols = cols;
  a.out.to = out;
  a.first_bad = &r.bad;
  a.left = left.data();
  emulated::run(blocks, 1, threads, detail::ranked_room<N>::bytes(cols, static_cast<unsigned>(threads)), 16,
                [&a] { detail::ranked_kernel<N, plan_type, detail::ranked_join<function>>(a); });
  r.left = left[0];
  if (left[0] != 0) {
    std::vector<std::uint32_t> ranks(static_cast<std::size_t>(2 * N * cols));
    emulated::run(2, 1, detail::rank_threads, detail::rank_memory<9>(), 16,
                  [&] { detail::left_rows_kernel<N, 9, plan_type, function>(a, ranks.data()); });
  }
  r.bytes.assign(out, out + p.block.rows * cols * 2);
  return r;
}

enum row_kind { as_tuned, half_still, still, few_values, wide_range, subnormal, fine, kinds };

family family_of(random_source& random, row_kind kind, index_t rows, index_t cols, int models) {
  family f = random_family(random, dtype::bf16, rows, cols, models);
  for (index_t r = 0; r < rows; ++r) {
    for (index_t c = 0; c < cols; ++c) {
      if (kind == subnormal) { f.base.set(r, c, std::ldexp(static_cast<float>(random.between(-100, 100)), -133)); }
      if (kind == fine) { f.base.set(r, c, std::ldexp(f.base.at(r, c), -6)); }
      float const base = f.base.at(r, c);
      for (auto& e : f.experts) {
        if (kind == still || (kind == half_still && random.chance(0.5))) { e.weight.set(r, c, base); }
        if (kind == few_values) { e.weight.set(r, c, base + 0.125f * static_cast<float>(random.between(-2, 2))); }
        if (kind == wide_range) { e.weight.set(r, c, base + std::ldexp(e.weight.at(r, c), random.chance(0.9) ? 0 : random.between(-100, 0))); }
        if (kind == subnormal) { e.weight.set(r, c, std::ldexp(static_cast<float>(random.between(-100, 100)), -133)); }
      }
    }
  }
  return f;
}

}  // namespace

TEST_CASE("pruning by rank and merging in one pass gives the CPU's bytes, whatever a row's magnitudes are like", "[emulated]") {
  random_source random(481);
  using ties = braid::task_arithmetic<braid::cpu, braid::prune::magprune, braid::consensus::plain_ties, braid::rescale::inverse_keep>;
  for (int kind = 0; kind < kinds; ++kind) {
    for (index_t const cols : {128, 384, 2944}) {
      family const f = family_of(random, static_cast<row_kind>(kind), 3, cols, 2);
      placed_family const p(f, true, 0);
      braid::prune::magprune const prune{.density = 0.5, .epsilon = kind == few_values ? 0.4999 : 0.3, .seed = random.bits()};
      auto const found = ranked<2, braid::consensus::plain_ties>(p, {prune, prune}, {0.5f, 0.25f}, {1.0f, 1.0f}, true, 2, 128);
      INFO("kind " << kind << ", 3 x " << cols << ", left " << found.left);
      CHECK(found.bytes == merged_bytes(ties{{.prune = prune, .weight = {0.5, 0.25}, .normalize = true}}, p.request));
      if (kind <= still || kind == subnormal) { CHECK(found.left == 0); }
      if (kind == fine && cols == 2944) { CHECK(found.left > 0); }
      CHECK(found.bad == ~0ull);
    }
  }
}

TEST_CASE("factors are applied behind pruning, without division where nothing is rescaled", "[emulated]") {
  random_source random(482);
  family const f = family_of(random, as_tuned, 2, 256, 3);
  placed_family const p(f, true, 0);
  braid::prune::magprune const prune{.density = 0.6, .epsilon = 0.2, .seed = 5, .rescale = false};
  std::vector<float> const factor = {1.25f, 1.0f, 1.75f};
  auto const found = ranked<3, braid::consensus::weighted_sum>(p, {prune, prune, prune}, {1.0f, 0.5f, 0.3f}, factor, false, 1, 64);
  index_t wrong = 0;
  for (index_t r = 0; r < 2; ++r) {
    std::vector<float> sum(256, 0.0f);
    for (std::size_t m = 0; m < 3; ++m) {
      std::vector<float> delta;
      for (index_t c = 0; c < 256; ++c) { delta.push_back(f.experts[m].weight.at(r, c) - f.base.at(r, c)); }
      std::vector<std::uint32_t> twice(delta.size());
      detail::row_workspace work;
      detail::row_ranks(delta.data(), 256, work, twice.data());
      auto const plan = prune.plan({braid::stream_hash(p.request.tensor, p.request.models[m]), 2, 256}, {twice.data(), 256});
      float const weight = m == 0 ? 1.0f : m == 1 ? 0.5f : 0.3f;
      for (std::size_t c = 0; c < 256; ++c) { sum[c] = sum[c] + plan(delta[c], r, static_cast<index_t>(c)) * factor[m] * weight; }
    }
    for (index_t c = 0; c < 256; ++c) {
      braid::bfloat16 const expected(f.base.at(r, c) + sum[static_cast<std::size_t>(c)]);
      wrong += std::memcmp(&expected, found.bytes.data() + (r * 256 + c) * 2, 2) != 0 ? 1 : 0;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("what is decided of elements is what the CPU's ranks and random numbers decide", "[emulated]") {
  random_source random(484);
  for (index_t const cols : {128, 640}) {
    family const f = family_of(random, cols == 128 ? half_still : as_tuned, 2, cols, 2);
    placed_family const p(f, true, 0);
    braid::prune::magprune const prune{.density = 0.5, .epsilon = 0.4, .seed = random.bits()};
    std::vector<std::uint16_t> codes(static_cast<std::size_t>(2 * 2 * cols) + 8);
    std::uint16_t* const to = codes.data() + (16 - reinterpret_cast<std::uintptr_t>(codes.data()) % 16) % 16 / 2;
    std::uint32_t left[5] = {};
    detail::ranked_arguments<2, plan_type, detail::ranked_codes<2>> a{};
    a.base = detail::device_input(p.block.base);
    for (int m = 0; m < 2; ++m) {
      a.models[m] = detail::device_input(p.block.experts[static_cast<std::size_t>(m)]);
      a.plans[m] = prune.plan({random.bits(), 2, cols}, {nullptr, cols});
      a.out.to[m] = to + m * 2 * cols;
      a.out.offset[m] = detail::code_offset(a.plans[m], cols).value();
    }
    a.keys = detail::random_keys(prune.seed);
    a.rows = 2;
    a.cols = cols;
    a.left = left;
    emulated::run(1, 1, 64, detail::ranked_room<2>::bytes(cols, 64), 16,
                  [&a] { detail::ranked_kernel<2, plan_type, detail::ranked_codes<2>>(a); });
    CHECK(left[0] == 0);
    index_t differ = 0;
    for (int m = 0; m < 2; ++m) {
      detail::coded_plan<plan_type> const coded{a.out.to[m], 0, cols, a.out.offset[m], true};
      for (index_t r = 0; r < 2; ++r) {
        std::vector<float> delta;
        for (index_t c = 0; c < cols; ++c) { delta.push_back(f.experts[static_cast<std::size_t>(m)].weight.at(r, c) - f.base.at(r, c)); }
        std::vector<std::uint32_t> twice(delta.size());
        detail::row_workspace work;
        detail::row_ranks(delta.data(), cols, work, twice.data());
        plan_type plan = a.plans[m];
        plan.ranks.twice = twice.data();
        for (index_t c = 0; c < cols; ++c) {
          float const x = delta[static_cast<std::size_t>(c)];
          differ += x != 0.0f && bits_of(coded(x, r, c)) != bits_of(plan(x, r, c)) ? 1 : 0;
        }
      }
    }
    CHECK(differ == 0);
  }
}

TEST_CASE("rows with NaN or infinity are noted, and left", "[emulated]") {
  random_source random(483);
  family f = family_of(random, as_tuned, 4, 128, 2);
  f.experts[1].weight.set(2, 77, NAN);
  f.base.set(3, 5, INFINITY);
  placed_family const p(f, true, 0);
  braid::prune::magprune const prune{.density = 0.5, .epsilon = 0.1, .seed = 1};
  auto const found = ranked<2, braid::consensus::weighted_sum>(p, {prune, prune}, {1.0f, 1.0f}, {1.0f, 1.0f}, false, 2, 32);
  CHECK(found.bad == 2);
  CHECK(found.left == 2);
}
