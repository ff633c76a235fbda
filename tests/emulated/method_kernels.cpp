#include <braid/backend/cuda/block_inputs.cuh>
#include <braid/backend/cuda/delta_functions.cuh>
#include <braid/backend/cuda/method_functions.cuh>
#include <braid/backend/cuda/rank_codes.cuh>
#include <braid/backend/cuda/row_ranks.cuh>

#include "support/catch.hpp"
#include "support/method_models.hpp"
#include "emulated/placed_family.hpp"

#include <braid/prune/dare.hpp>
#include <braid/prune/magprune.hpp>

using namespace braid_test;
namespace detail = braid::detail;

namespace {

/// The map kernel's bytes, of N models.
template <int N, class F, int Most>
std::vector<std::byte> mapped(placed_family const& p, F const& f, std::integral_constant<int, Most>, detail::operand what, std::size_t offset,
                              unsigned long long* bad = nullptr) {
  index_t const cols = p.request.inputs.cols;
  auto const bytes = static_cast<std::size_t>(p.block.rows * cols) * braid::size_of(p.block.out);
  std::vector<std::byte> memory(bytes + 32, std::byte{0x5A});
  std::byte* const out = memory.data() + (16 - reinterpret_cast<std::uintptr_t>(memory.data()) % 16) % 16 + offset;
  detail::map_arguments<F, Most> a{detail::inputs_of<Most>(p.block, cols, {what, bad != nullptr, F::by_row, F::layout}, out), 0, 0, p.block.out, out, f};
  a.in.first_bad = bad;
  index_t const of_row = detail::tiles_of<F::layout>(a.in.cols);
  if (a.in.rows > 1) { a.of_row = static_cast<std::uint32_t>(of_row); }
  a.tiles = a.in.rows * of_row;
  constexpr int threads = 64;
  bool usual = F::prunes && a.type == dtype::bf16 && a.in.whole && a.in.grouped;
  for (int i = 0; i < N; ++i) { usual = usual && a.in.models[i].type == dtype::bf16; }
  emulated::run(static_cast<int>((a.tiles + threads - 1) / threads), 1, threads, 16, sizeof(detail::random_rooms), [&a, usual] {
    if constexpr (F::prunes) {
      if (usual) { return detail::map_kernel<N, true, F, Most>(a); }
    }
    detail::map_kernel<N, false, F, Most>(a);
  });
  return {out, out + bytes};
}

constexpr dtype usual_types[] = {dtype::bf16, dtype::f16, dtype::f32};

}  // namespace

TEST_CASE("the kernel of maps gives the CPU's bytes: averages", "[emulated]") {
  random_source random(471);
  for (int round = 0; round < 12; ++round) {
    family const f = random_family(random, random.one_of(usual_types), random.between(1, 6), std::max<index_t>(1, random_cols(random)), 3);
    std::size_t const offset = round % 3 == 2 ? braid::size_of(f.base.type) : 0;
    placed_family const p(f, false, offset);
    detail::combine_function<8, true> average{};
    std::fill_n(average.coefficient, 3, 1.0f);
    average.divisor = 3.0f;
    INFO(f.base.rows << " x " << f.base.cols << ", offset " << offset);
    CHECK(mapped<3>(p, average, std::integral_constant<int, 8>{}, detail::operand::values, offset) == merged_bytes(braid::linear<braid::cpu>{}, p.request));
  }
}

TEST_CASE("the kernel of maps gives the CPU's bytes: random pruning, in whole Philox blocks and without", "[emulated]") {
  random_source random(472);
  using dare_sum = braid::task_arithmetic<braid::cpu, braid::prune::dare, braid::consensus::weighted_sum, braid::rescale::inverse_keep>;
  using plan_type = braid::prune::dare::plan_type;
  using function = detail::join_function<plan_type, braid::consensus::weighted_sum, 4, false>;
  for (index_t const cols : {128, 77, 256, 640}) {
    family const f = random_family(random, random.one_of(usual_types), 4, cols, 2);
    placed_family const p(f, true, 0);
    braid::prune::dare const prune{.density = 0.6, .seed = random.bits()};
    function join{};
    join.pruning.count = 2;
    join.pruning.keys = detail::random_keys(prune.seed);
    join.lambda = 1.0f;
    for (std::size_t i = 0; i < 2; ++i) {
      join.pruning.plans[i] = prune.plan({braid::stream_hash(f.tensor, f.experts[i].name), 4, cols});
      join.pruning.kept[i] = detail::survivors::some;
      join.factor[i] = 1.0f;
      join.weight[i] = 1.0f;
    }
    INFO("4 x " << cols);
    CHECK(mapped<2>(p, join, std::integral_constant<int, 4>{}, detail::operand::deltas, 0) == merged_bytes(dare_sum{{.prune = prune}}, p.request));
  }
}

TEST_CASE("the kernel of maps notes the first channel with NaN or infinity", "[emulated]") {
  random_source random(473);
  family f = random_family(random, dtype::bf16, 9, 70, 2);
  f.experts[1].weight.set(6, 3, NAN);
  f.base.set(8, 69, INFINITY);
  unsigned long long bad = ~0ull;
  placed_family const p(f, true, 0);
  (void)mapped<2>(p, detail::ram_function<4>{}, std::integral_constant<int, 4>{}, detail::operand::deltas, 0, &bad);
  CHECK(bad <= 6);  // a tile begins there or before
  CHECK(bad >= 5);
}

TEST_CASE("sums over rows are in the one order of sums", "[emulated]") {
  random_source random(474);
  for (index_t const cols : {1, 77, 512, 1300}) {
    family const f = random_family(random, random.one_of(usual_types), 3, cols, 2);
    placed_family const p(f, true, 0);
    auto const segments = static_cast<std::uint32_t>((cols + 511) / 512);
    std::vector<float> partial(3 * segments * 3);
    std::vector<float> rows(9);
    detail::sum_arguments<detail::gram_sum, 4> a{detail::inputs_of<4>(p.block, cols, {detail::operand::deltas, false, true, detail::tile_layout::spread}),
                                                 segments, 3 * static_cast<index_t>(segments), partial.data(), {}};
    constexpr int threads = 32;
    emulated::run(static_cast<int>((a.items * detail::segment_threads + threads - 1) / threads), 1, threads, 16, 16,
                  [&a] { detail::segment_sums_kernel<2, detail::gram_sum, 4>(a); });
    emulated::run(1, 1, threads, 16, 16, [&] { detail::add_segments_kernel(partial.data(), 9, segments, 3, rows.data()); });
    for (index_t r = 0; r < 3; ++r) {
      auto const product = [&](std::size_t x, std::size_t y) {
        return braid::sum_order::sum(cols, [&](index_t c) {
          float const b = f.base.at(r, c);
          return (f.experts[x].weight.at(r, c) - b) * (f.experts[y].weight.at(r, c) - b);
        });
      };
      INFO("row " << r << " of " << cols);
      CHECK(bits_of(rows[static_cast<std::size_t>(3 * r)]) == bits_of(product(0, 0)));
      CHECK(bits_of(rows[static_cast<std::size_t>(3 * r + 1)]) == bits_of(product(1, 0)));
      CHECK(bits_of(rows[static_cast<std::size_t>(3 * r + 2)]) == bits_of(product(1, 1)));
    }
  }
}

TEST_CASE("ranks of a row are the CPU's, equals too", "[emulated]") {
  random_source random(475);
  for (index_t const cols : {1, 40, 700}) {
    family f = random_family(random, dtype::bf16, 1, cols, 1);
    for (index_t c = 0; c < cols; c += 3) { f.experts[0].weight.set(0, c, f.base.at(0, c)); }
    placed_family const p(f, true, 0);
    std::vector<std::uint32_t> ranks(static_cast<std::size_t>(cols));
    emulated::run(1, 1, detail::rank_threads, detail::rank_memory<9>(), 16, [&] {
      detail::rank_row_kernel<9>(detail::device_input(p.block.base), detail::device_input(p.block.experts[0]), cols, detail::rank_writer{ranks.data(), cols, 1});
    });
    std::vector<float> delta;
    for (index_t c = 0; c < cols; ++c) { delta.push_back(f.experts[0].weight.at(0, c) - f.base.at(0, c)); }
    detail::row_workspace work;
    std::vector<std::uint32_t> expected(ranks.size());
    detail::row_ranks(delta.data(), cols, work, expected.data());
    CHECK(ranks == expected);
  }
}

TEST_CASE("codes of a row are what the ranks and random numbers of the CPU decide", "[emulated]") {
  random_source random(476);
  using plan_type = braid::prune::magprune::plan_type;
  enum row_kind { as_tuned, half_zero, all_zero, few_values, wide_range, one_bin, not_finite, kinds };
  for (int kind = 0; kind < kinds; ++kind) {
    for (index_t const cols : {128, 384, 2944}) {
      dtype const type = kind == wide_range || kind == one_bin || random.between(0, 1) == 0 ? dtype::f32 : dtype::bf16;
      family f = random_family(random, type, 1, cols, 1);
      auto& weight = f.experts[0].weight;
      for (index_t c = 0; c < cols; ++c) {
        float const base = f.base.at(0, c);
        if (kind == all_zero || (kind == half_zero && random.between(0, 1) == 0)) { weight.set(0, c, base); }
        if (kind == few_values) { weight.set(0, c, base + 0.125f * static_cast<float>(random.between(-2, 2))); }
        if (kind == wide_range || kind == one_bin) { f.base.set(0, c, 0.0f); }
        if (kind == wide_range) { weight.set(0, c, std::ldexp(weight.at(0, c), random.between(-120, 0))); }
        if (kind == one_bin) { weight.set(0, c, 1.0f + std::ldexp(static_cast<float>(random.between(0, 9)), -20)); }
        if (kind == not_finite && c % 7 == 0) { weight.set(0, c, c % 2 == 0 ? INFINITY : NAN); }
      }
      placed_family const p(f, true, 0);
      std::vector<float> delta;
      for (index_t c = 0; c < cols; ++c) { delta.push_back(f.experts[0].weight.at(0, c) - f.base.at(0, c)); }
      detail::row_workspace work;
      std::vector<std::uint32_t> ranks(static_cast<std::size_t>(cols));
      detail::row_ranks(delta.data(), cols, work, ranks.data());
      braid::prune::magprune const prune{.density = 0.5, .epsilon = 0.4, .seed = random.bits()};
      plan_type const plan = prune.plan({random.bits(), 1, cols}, {ranks.data(), cols});

      std::vector<std::uint16_t> codes(ranks.size(), 0xCDCD);
      std::uint32_t left[2] = {0, 7};
      auto const offset = detail::code_offset(plan, cols);
      REQUIRE(offset.has_value());
      detail::code_arguments<plan_type> a{};
      a.base = detail::device_input(p.block.base);
      a.models[0] = detail::device_input(p.block.experts[0]);
      a.plans[0] = plan;
      a.count = 1;
      a.keys = detail::random_keys(prune.seed);
      a.rows = 1;
      a.cols = cols;
      a.codes[0] = codes.data();
      a.offset[0] = *offset;
      a.left = left;
      emulated::run(1, 1, 256, detail::code_memory(8), 16, [&a, type] {
        type == dtype::bf16 ? detail::code_kernel<8, 16, true>(a) : detail::code_kernel<8, 16, false>(a);
      });
      INFO("kind " << kind << ", 1 x " << cols);
      if (kind <= few_values) { CHECK(left[0] == 0); }
      if (cols == 2944 && (kind == wide_range || kind == one_bin)) { CHECK(left[0] == 1); }
      if (left[0] != 0) {
        detail::code_writer<plan_type> const write{plan, *offset, codes.data(), cols, 0, left, 1, 0};
        emulated::run(1, 1, detail::rank_threads, detail::rank_memory<9>(), 16, [&] {
          detail::rank_row_kernel<9>(detail::device_input(p.block.base), detail::device_input(p.block.experts[0]), cols, write);
        });
      }
      detail::coded_plan<plan_type> const coded{codes.data(), 0, cols, *offset, true};
      index_t differ = 0;
      for (index_t c = 0; c < cols; ++c) {
        float const x = delta[static_cast<std::size_t>(c)];
        if (x != 0.0f && bits_of(coded(x, 0, c)) != bits_of(plan(x, 0, c))) { ++differ; }
      }
      CHECK(differ == 0);
      for (index_t c = 0; c < cols; c += detail::tile_elements) {
        std::uint32_t pairs[detail::tile_elements / 2];
        float x[detail::tile_elements];
        detail::load_codes<detail::tile_layout::together>(codes.data() + c, pairs);
        std::copy_n(delta.data() + c, detail::tile_elements, x);
        if (!coded.decode(pairs, x)) { continue; }
        for (index_t j = 0; j < detail::tile_elements; ++j) {
          float const d = delta[static_cast<std::size_t>(c + j)];
          if (d != 0.0f && bits_of(x[j]) != bits_of(plan(d, 0, c + j))) { ++differ; }
        }
      }
      CHECK(differ == 0);
    }
  }
}
