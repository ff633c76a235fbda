#include <braid/backend/cuda/ring_kernel.cuh>

#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/consensus/ties.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/dare.hpp>
#include <braid/prune/magnitude.hpp>
#include <braid/prune/none.hpp>

using namespace braid_test;
namespace detail = braid::detail;

namespace {

constexpr std::size_t h100_block = 232448;
constexpr std::size_t h100_processor = 233472;

/// A matrix that begins `offset` bytes behind a multiple of 16.
struct placed_matrix {
  std::vector<std::byte> memory;
  std::byte* data = nullptr;
  index_t stride = 0;

  placed_matrix(placed_matrix&&) = default;
  placed_matrix(matrix const& m, std::size_t offset) : memory(m.memory.size() + 32), stride(m.stride * static_cast<index_t>(braid::size_of(m.type))) {
    data = memory.data() + (16 - reinterpret_cast<std::uintptr_t>(memory.data()) % 16) % 16 + offset;
    std::copy(m.memory.begin(), m.memory.end(), data);
  }
};

struct fused_case {
  int groups = 2;
  int cluster = 0;  // 0: as planned
  std::size_t offset = 0;
  bool allow_nonfinite = false;
  int ring_slots = 0;  // channels stream through a ring of as many; 0: a cluster of blocks for each channel
  int blocks = 1;      // that share them
  index_t first = 0;   // the device gets the channels from this one on
};

/// Compares the emulated kernel with the CPU backend.
template <class T, int Most, class Prune, class Consensus>
void check_kernel(family const& f, Prune const& prune, Consensus const& consensus, braid::similarity::any const& similarity, fused_case const& c) {
  auto const n = static_cast<int>(f.experts.size());
  INFO(f.base.rows << " x " << f.base.cols << ", " << n << " experts, " << c.groups << " groups, " << similarity.name << ", cluster " << c.cluster
                   << ", offset " << c.offset);
  using method = braid::channel_merge<braid::cpu, Prune, braid::similarity::any, braid::cluster::exact, Consensus>;
  typename method::options options;
  options.prune = prune;
  options.consensus = consensus;
  options.similarity = similarity;
  options.groups = c.groups;
  options.lambda = 0.7f;
  method const m(options);
  auto const view = [](matrix const& w) {
    return braid::tensor_view<T const>(reinterpret_cast<T const*>(w.memory.data()), w.rows, w.cols, w.stride);
  };
  std::vector<braid::expert_view<T>> views;
  std::vector<std::string> names;
  std::vector<placed_matrix> memory;
  memory.emplace_back(f.base, c.offset);
  for (auto const& e : f.experts) {
    views.push_back({e.name, view(e.weight)});
    names.push_back(e.name);
    memory.emplace_back(e.weight, c.offset);
  }
  auto const cpu = m(braid::cpu(1), f.tensor, view(f.base), views);

  braid::tensor_channels source;
  source.channels = f.base.rows;
  source.cols = f.base.cols;
  source.out = f.base.type;
  source.base = {memory[0].data, f.base.type, memory[0].stride};
  for (std::size_t e = 1; e < memory.size(); ++e) { source.experts.push_back({memory[e].data, f.base.type, memory[e].stride}); }
  auto const context = m.prepare(braid::cpu(1), f.tensor, names, source);

  detail::tile_plan plan = detail::plan_tile(source.cols, n, sizeof(T), h100_block, h100_processor);
  if (c.cluster != 0) {
    // Less room for a block makes the plan take that many.
    for (std::size_t room = h100_block; plan.cluster != c.cluster && room > 4096; room -= 512) {
      plan = detail::plan_tile(source.cols, n, sizeof(T), room, 2 * room, c.cluster);
    }
    REQUIRE(plan.cluster == c.cluster);
  }
  auto const rows = static_cast<std::size_t>(source.channels - c.first);
  std::size_t const row_bytes = static_cast<std::size_t>(source.cols) * sizeof(T);
  auto const most_extra = static_cast<std::size_t>(std::min(c.groups, n) - 1);
  placed_matrix pool(matrix(f.base.type, static_cast<index_t>(rows * (1 + most_extra)), source.cols), c.offset);
  std::vector<std::uint8_t> label(rows * names.size());
  detail::merge_totals totals;

  using plan_type = decltype(detail::plan_ahead(prune, context, 0));
  detail::fused_arguments<plan_type, Consensus> a{};
  a.plan = plan;
  a.channels = source.channels - c.first;
  a.first = c.first;
  a.cols = source.cols;
  a.experts = n;
  a.groups = c.groups;
  a.lambda = options.lambda;
  a.clusters = c.groups > 1 && c.groups < n;
  a.whole_copies = row_bytes % 16 == 0 && c.offset == 0;
  a.similarity = *detail::similarity_on_device(similarity);
  a.terms.signs = a.similarity.of_signs();
  a.consensus = consensus;
  a.models[0] = {source.base.row(c.first), source.base.stride};
  for (int e = 0; e < n; ++e) {
    auto const slot = static_cast<std::size_t>(e);
    a.models[e + 1] = {source.experts[slot].row(c.first), source.experts[slot].stride};
    a.plans[e] = detail::plan_ahead(prune, context, e);
    a.norms[e] = context.norms.empty() ? 0.0 : context.norms[slot];
  }
  if constexpr (detail::plan_from_words<plan_type>) {
    a.keys = detail::philox_keys(a.plans[0].seed);
    a.same_keys = true;
  }
  int ring_slots = c.ring_slots;
  if constexpr (detail::plan_of_threshold<plan_type>) {
    a.random = detail::random_merge(a.plans, n, source.channels, source.cols);
    if (!a.random.usable) { ring_slots = 0; }
  }
  a.out = {pool.data, pool.data + rows * row_bytes, static_cast<index_t>(most_extra), label.data(), &totals};
  if (ring_slots == 0) {
    emulated::run(static_cast<int>(rows) * plan.cluster, plan.cluster, plan.threads, plan.shared_bytes, sizeof(detail::tile_state),
                  [&a] { detail::fused_merge_kernel<T, Most, plan_type, Consensus>(a); });
  } else if constexpr (Most == detail::most_warp_experts) {
    REQUIRE(a.clusters);
    REQUIRE(a.whole_copies);
    std::size_t const slot = static_cast<std::size_t>(n + 1) * 2 * 512 * sizeof(T) + 16 * sizeof(T) + static_cast<std::size_t>(n * (n + 1)) * 4;
    a.ring = detail::plan_ring(source.cols, n, sizeof(T), static_cast<std::size_t>(c.ring_slots) * slot + 100, !detail::plan_keeps_all<plan_type>, {2, 1, 2});
    REQUIRE(a.ring.slots > 0);
    REQUIRE(a.ring.slots <= c.ring_slots);
    for (int again = 0; again < 2; ++again) {  // the second time with the counters that the first has left
      auto const before = totals;
      emulated::run(c.blocks, 1, a.ring.warps.threads(), a.ring.shared_bytes, sizeof(detail::ring_state),
                    [&a] { detail::ring_merge_kernel<T, plan_type, Consensus>(a); });
      if (again == 1) {
        CHECK(totals.similarity == 2 * before.similarity);
        totals = before;
      }
    }
  }

  CHECK(totals.first_bad == ~0ull);
  index_t extra = cpu.channels();
  for (index_t r = 0; r < c.first; ++r) {
    int used = 0;
    for (std::size_t e = 0; e < names.size(); ++e) { used = std::max(used, static_cast<int>(cpu.group(e, r))); }
    extra += used;
  }
  for (std::size_t r = 0; r < rows; ++r) {
    index_t const channel = c.first + static_cast<index_t>(r);
    INFO("channel " << channel);
    int used = 0;
    for (std::size_t e = 0; e < names.size(); ++e) {
      int const g = label[r * names.size() + e];
      REQUIRE(g == cpu.group(e, channel));
      used = std::max(used, g);
    }
    REQUIRE(std::memcmp(pool.data + r * row_bytes, cpu.pool().row(channel), row_bytes) == 0);
    for (std::size_t g = 0; g < static_cast<std::size_t>(used); ++g) {
      REQUIRE(std::memcmp(pool.data + (rows + r * most_extra + g) * row_bytes, cpu.pool().row(extra++), row_bytes) == 0);
    }
  }
  double const similarity_of_all = totals.compared == 0 ? 1.0
                                                        : static_cast<double>(static_cast<std::int64_t>(totals.similarity)) /
                                                              braid::merged_block::similarity_unit / static_cast<double>(totals.compared);
  if (c.first == 0) { CHECK(similarity_of_all == cpu.similarity()); }
}

constexpr dtype three_types[] = {dtype::bf16, dtype::f16, dtype::f32};

template <int Most, class Prune, class Consensus>
void check_kernel(dtype type, family const& f, Prune const& prune, Consensus const& consensus, braid::similarity::any const& similarity, fused_case const& c) {
  if (type == dtype::f32) {
    check_kernel<float, Most>(f, prune, consensus, similarity, c);
  } else if (type == dtype::f16) {
    check_kernel<braid::float16, Most>(f, prune, consensus, similarity, c);
  } else {
    check_kernel<braid::bfloat16, Most>(f, prune, consensus, similarity, c);
  }
}

braid::similarity::any random_similarity(random_source& random) {
  switch (random.below(4)) {
    case 0: return braid::similarity::euclidean{};
    case 1: return braid::similarity::balanced{};
    case 2: return braid::similarity::sign{};
    default: return braid::similarity::cosine{};
  }
}

/// Some rows equal to those of the expert before.
void share_rows(random_source& random, family& f) {
  for (std::size_t e = 1; e < f.experts.size(); ++e) {
    for (index_t r = 0; r < f.base.rows; ++r) {
      if (random.chance(0.3)) { f.experts[e].weight.copy_row(r, f.experts[e - 1].weight); }
    }
  }
}

}  // namespace

TEST_CASE("the fused kernel, emulated, gives the CPU's bytes", "[emulated]") {
  random_source random(501);
  for (int round = 0; round < 40; ++round) {
    int const n = random.between(1, 4);
    dtype const type = three_types[round % 3];
    family f = random_family(random, type, 4, 8 * random.between(1, 150), n);
    if (random.chance(0.3)) { share_rows(random, f); }
    fused_case c;
    c.groups = random.between(1, n + 1);
    auto const similarity = random_similarity(random);
    check_kernel<4>(type, f, braid::prune::none{}, braid::consensus::mean{}, similarity, c);
  }
}

TEST_CASE("random pruning in the emulated kernel, with rows that begin anywhere", "[emulated]") {
  random_source random(502);
  for (int round = 0; round < 16; ++round) {
    int const n = random.between(2, 4);
    family f = random_family(random, dtype::bf16, 3, round % 2 == 0 ? 64 * random.between(1, 20) : random_cols(random) + 1, n);
    fused_case c;
    c.groups = random.between(1, n);
    c.offset = round % 4 == 0 ? 6 : 0;
    check_kernel<braid::bfloat16, 4>(f, braid::prune::dare{.density = 0.6, .seed = random.bits()}, braid::consensus::ties{},
                                     random_similarity(random), c);
  }
}

TEST_CASE("emulated clusters of blocks share rows", "[emulated]") {
  random_source random(503);
  for (int const cluster : {2, 4}) {
    for (int round = 0; round < 3; ++round) {
      int const n = random.between(2, 4);
      family f = random_family(random, dtype::bf16, 2, cluster * 512 * random.between(1, 2), n);
      if (round == 1) { share_rows(random, f); }
      fused_case c;
      c.groups = 2;
      c.cluster = cluster;
      check_kernel<braid::bfloat16, 4>(f, braid::prune::dare{.density = 0.6, .seed = random.bits()}, braid::consensus::ties{},
                                       random_similarity(random), c);
    }
  }
}

TEST_CASE("more experts in the emulated kernel", "[emulated]") {
  random_source random(504);
  for (int const n : {5, 6, 7, 9}) {
    family f = random_family(random, dtype::bf16, 2, 200, n);
    if (n == 6) { share_rows(random, f); }
    fused_case c;
    c.groups = random.between(2, n - 1);
    check_kernel<braid::bfloat16, 10>(f, braid::prune::none{}, braid::consensus::mean{}, random_similarity(random), c);
  }
}

TEST_CASE("channels that stream through an emulated ring give the CPU's bytes", "[emulated]") {
  random_source random(505);
  for (int round = 0; round < 12; ++round) {
    int const n = random.between(3, 4);
    dtype const type = three_types[round % 3];
    family f = random_family(random, type, random.between(3, 6), 16 * (round % 4 == 1 ? random.between(130, 200) : random.between(1, 80)), n);
    if (round / 3 % 2 == 0) { share_rows(random, f); }
    fused_case c;
    c.groups = random.between(2, n - 1);
    c.ring_slots = random.between(7, 8);
    c.blocks = random.between(1, 2);
    braid::similarity::any similarity = braid::similarity::cosine{};
    if (round % 2 == 0) { similarity = braid::similarity::balanced{}; }
    check_kernel<4>(type, f, braid::prune::none{}, braid::consensus::mean{}, similarity, c);
  }
}

TEST_CASE("random pruning in an emulated ring", "[emulated]") {
  random_source random(506);
  for (int round = 0; round < 8; ++round) {
    int const n = random.between(3, 4);
    family f = random_family(random, dtype::bf16, 4, round % 4 == 3 ? 16 * random.between(1, 60) : 128 * random.between(1, 10), n);
    if (round == 2) { share_rows(random, f); }
    fused_case c;
    c.groups = 2;
    c.ring_slots = 6;
    double const densities[] = {0.0, 1.0, 1e-6, 0.7, random.unit(), random.unit(), random.unit(), random.unit()};
    check_kernel<braid::bfloat16, 4>(f, braid::prune::dare{.density = densities[round], .seed = random.bits()}, braid::consensus::ties{},
                                     braid::similarity::cosine{}, c);
  }
}

TEST_CASE("sums of randomly pruned deltas in an emulated ring", "[emulated]") {
  random_source random(509);
  for (int round = 0; round < 9; ++round) {
    int const n = random.between(3, 4);
    dtype const type = three_types[round % 3];
    family f = random_family(random, type, random.between(3, 9), 128 * random.between(1, 20), n);
    fused_case c;
    c.groups = random.between(2, n - 1);
    c.ring_slots = random.between(7, 9);
    c.blocks = random.between(1, 2);
    braid::prune::dare const dare{.density = 0.7, .seed = random.bits(), .rescale = random.chance(0.7)};
    check_kernel<4>(type, f, dare, braid::consensus::mean{}, braid::similarity::cosine{}, c);
  }
}

TEST_CASE("a part of a tensor makes the random choices that the tensor makes there", "[emulated]") {
  random_source random(508);
  for (int round = 0; round < 8; ++round) {
    family const f = random_family(random, dtype::bf16, 5, round % 4 == 1 ? 16 * random.between(1, 60) : 128 * random.between(1, 10), 4);
    fused_case c;
    c.ring_slots = round % 2 == 0 ? 6 : 0;
    c.first = random.between(1, 3);
    check_kernel<braid::bfloat16, 4>(f, braid::prune::dare{.density = 0.5, .seed = random.bits()}, braid::consensus::mean{},
                                     braid::similarity::cosine{}, c);
  }
}

TEST_CASE("sums are divided on the device as they are on the host", "[emulated]") {
  random_source random(507);
  auto const check = [](float x) {
    REQUIRE(__float_as_uint(detail::divide_by<2>(x)) == __float_as_uint(x / 2.0f));
    REQUIRE(__float_as_uint(detail::divide_by<3>(x)) == __float_as_uint(x / 3.0f));
    REQUIRE(__float_as_uint(detail::divide_by<4>(x)) == __float_as_uint(x / 4.0f));
  };
  for (int i = 0; i < 300000; ++i) {
    float const x = __uint_as_float(static_cast<unsigned>(random.bits() >> 32));
    if (x == x) { check(x); }
  }
  for (unsigned bits = 0; bits < 100000; ++bits) { check(__uint_as_float(bits)); }
  for (float const x : {-0.0f, HUGE_VALF, -HUGE_VALF, 3.4028235e38f, 1.17549435e-38f}) { check(x); }
}
