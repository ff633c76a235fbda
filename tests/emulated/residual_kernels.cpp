#include <braid/backend/cuda/residual_kernel.cuh>

#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/none.hpp>
#include <braid/residual/any.hpp>
#include <braid/similarity/cosine.hpp>

#include <algorithm>

using namespace braid_test;
namespace detail = braid::detail;
namespace residual = braid::residual;

namespace {

template <class Residual>
using cpu_merge =
    braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact, braid::consensus::mean, Residual>;

struct residual_case {
  int groups = 2;
  int threads = 64;
  int blocks = 2;
  bool shared = false;
  bool allow_nonfinite = false;
  std::vector<float> weight{};
};

/// Rows and labels of all channels as an operation leaves them, the further groups' rows apart.
struct merged_rows {
  std::vector<std::byte> pool;  // [channels], then [channels, most_extra]
  std::vector<std::uint8_t> label;
  braid::residual_block residual;
};

template <class Method>
merged_rows merge_rows(Method const& m, family const& f, braid::tensor_channels const& source, braid::tensor_context const& context, std::size_t most_extra) {
  auto const rows = static_cast<std::size_t>(source.channels);
  std::size_t const row = static_cast<std::size_t>(source.cols) * braid::size_of(source.out);
  merged_rows all{std::vector<std::byte>(rows * (1 + most_extra) * row), std::vector<std::uint8_t>(rows * f.experts.size()), {}};
  detail::channel_workspace work;
  std::vector<std::byte> scratch;
  for (std::size_t r = 0; r < rows; ++r) {
    braid::merged_block merged;
    merged.group_zero = all.pool.data() + r * row;
    merged.extra = all.pool.data() + (rows + r * most_extra) * row;
    merged.label = all.label.data() + r * f.experts.size();
    merged.residual = &all.residual;
    m.block_operation()(context, source.block(static_cast<index_t>(r), 1, scratch), merged, work);
  }
  return all;
}

/// Compares the emulated kernel with the CPU backend.
template <class Coder>
void check_residuals(family const& f, residual::any const& policy, residual_case const& c) {
  auto const experts = f.experts.size();
  INFO(f.base.rows << " x " << f.base.cols << ", " << experts << " experts, " << c.groups << " groups, " << policy.name << ", " << policy.sweeps
                   << " sweeps, " << c.threads << " threads, " << (policy.rank_one ? "columns' scales" : ""));
  typename cpu_merge<residual::any>::options o;
  o.residual = policy;
  o.groups = c.groups;
  o.allow_nonfinite = c.allow_nonfinite;
  cpu_merge<residual::any> const coded(o);
  cpu_merge<residual::none> const plain({.groups = c.groups, .allow_nonfinite = c.allow_nonfinite});

  braid::tensor_channels source;
  source.channels = f.base.rows;
  source.cols = f.base.cols;
  source.out = f.base.type;
  auto const rows_of = [](matrix const& m) { return braid::channel_rows{m.memory.data(), m.type, m.stride * static_cast<index_t>(braid::size_of(m.type))}; };
  source.base = rows_of(f.base);
  source.column_weight = c.weight.empty() ? nullptr : c.weight.data();
  std::vector<std::string> names;
  for (auto const& e : f.experts) {
    source.experts.push_back(rows_of(e.weight));
    names.push_back(e.name);
  }
  auto const context = coded.prepare(braid::cpu(1), f.tensor, names, source);
  auto const most_extra = std::min(static_cast<std::size_t>(c.groups), experts) - 1;
  merged_rows const wanted = merge_rows(coded, f, source, context, most_extra);
  merged_rows found = merge_rows(plain, f, source, context, most_extra);
  REQUIRE(found.label == wanted.label);

  std::vector<detail::any_rows> models{detail::any_rows(source.base, source)};
  for (auto const& e : source.experts) { models.emplace_back(e, source); }
  detail::merge_totals totals;
  auto const rows = static_cast<std::size_t>(source.channels);
  std::size_t const row = static_cast<std::size_t>(source.cols) * braid::size_of(source.out);
  auto const plane = static_cast<std::size_t>(braid::residual_bytes(policy.code, source.cols));
  auto const scales = static_cast<std::size_t>(braid::residual_scales(policy.code));
  std::vector<std::byte> planes(rows * experts * plane, std::byte{0xA5});
  std::vector<braid::bfloat16> scale(rows * experts * scales);
  std::vector<braid::residual_code> code(rows * experts, braid::residual_code::none);

  detail::residual_arguments a;
  a.models = models.data();
  a.experts = static_cast<int>(experts);
  a.channels = source.channels;
  a.sweeps = policy.sweeps;
  a.allow_nonfinite = c.allow_nonfinite;
  a.type = source.out;
  a.shape = {static_cast<int>(source.cols), c.threads};
  a.merged = {found.pool.data(), found.pool.data() + rows * row, static_cast<index_t>(most_extra), found.label.data(), &totals};
  a.out = {planes.data(), scale.data(), code.data(), static_cast<index_t>(plane), static_cast<int>(scales)};
  detail::channel_workspace work;
  detail::residual_columns const columns(context, work);
  a.column = columns.scale;
  a.coded_weight = columns.coded_weight;
  a.column_weight = columns.column_weight;
  std::vector<float> table;
  for (unsigned s = 0; s < 256; ++s) {
    table.push_back(policy.code == braid::residual_code::trellis2 ? detail::trellis_value<2>(s) : detail::trellis_value<1>(s));
  }
  a.table = table.data();
  std::size_t const bytes = detail::residual_room::bytes<Coder>(a.shape, a.experts, a.column != nullptr);
  std::vector<float> room;
  a.room_bytes = (bytes + 255) / 256 * 256;
  if (!c.shared) {
    room.resize(a.room_bytes / 4 * static_cast<std::size_t>(c.blocks), NAN);
    a.room = reinterpret_cast<std::byte*>(room.data());
  }
  emulated::run(c.blocks, 1, c.threads, c.shared ? a.room_bytes : 16, sizeof(detail::residual_members), [&a] { detail::code_residuals_kernel<Coder>(a); });

  REQUIRE(code == wanted.residual.code);
  std::size_t next = 0;
  for (std::size_t i = 0; i < code.size(); ++i) {
    if (code[i] == braid::residual_code::none) { continue; }
    INFO("channel " << i / experts << ", expert " << i % experts);
    for (std::size_t s = 0; s < scales; ++s) { REQUIRE(scale[i * scales + s].bits == wanted.residual.scales[next * scales + s].bits); }
    bool const same = std::equal(planes.begin() + static_cast<std::ptrdiff_t>(i * plane), planes.begin() + static_cast<std::ptrdiff_t>((i + 1) * plane),
                                 wanted.residual.planes.begin() + static_cast<std::ptrdiff_t>(next * plane));
    REQUIRE(same);
    ++next;
  }
  REQUIRE(next * plane == wanted.residual.planes.size());
  for (std::size_t r = 0; r < rows; ++r) {
    std::uint8_t const* const label = found.label.data() + r * experts;
    std::size_t const used = *std::max_element(label, label + experts);
    REQUIRE(std::memcmp(found.pool.data() + r * row, wanted.pool.data() + r * row, row) == 0);
    std::size_t const extra = (rows + r * most_extra) * row;
    REQUIRE(std::memcmp(found.pool.data() + extra, wanted.pool.data() + extra, used * row) == 0);
  }
}

void check_any(family const& f, residual::any const& policy, residual_case const& c) {
  switch (policy.code) {
    case braid::residual_code::sign1: check_residuals<detail::sign_coder<1>>(f, policy, c); break;
    case braid::residual_code::sign2: check_residuals<detail::sign_coder<2>>(f, policy, c); break;
    case braid::residual_code::sign3: check_residuals<detail::sign_coder<3>>(f, policy, c); break;
    case braid::residual_code::ternary: check_residuals<detail::ternary_coder>(f, policy, c); break;
    case braid::residual_code::trellis1: check_residuals<detail::trellis_coder<1>>(f, policy, c); break;
    default: check_residuals<detail::trellis_coder<2>>(f, policy, c); break;
  }
}

/// A policy of each code in turn.
residual::any policy_of(int code, int sweeps, bool rank_one) {
  auto const with = [&](auto p) {
    p.sweeps = sweeps;
    p.rank_one = rank_one;
    return residual::any(p);
  };
  switch (code) {
    case 0: return with(residual::sign_bits<1>{});
    case 1: return with(residual::sign_bits<2>{});
    case 2: return with(residual::sign_bits<3>{});
    case 3: return with(residual::ternary{});
    case 4: return with(residual::trellis<1>{});
    default: return with(residual::trellis<2>{});
  }
}

std::vector<float> random_weights(random_source& random, index_t cols) {
  std::vector<float> weight;
  for (index_t c = 0; c < cols; ++c) { weight.push_back(random.chance(0.1) ? 0.0f : static_cast<float>(random.unit())); }
  weight[0] = 1.0f;
  return weight;
}

constexpr dtype usual_types[] = {dtype::bf16, dtype::f16, dtype::f32};

}  // namespace

TEST_CASE("residuals that the emulated kernel codes are the CPU's", "[emulated]") {
  random_source random(521);
  for (int code = 0; code < 6; ++code) {
    bool const searches = code >= 4;  // shuffles a column, each of which takes long here
    for (int round = 0; round < (searches ? 4 : 8); ++round) {
      int const n = searches ? 2 + round / 3 : random.between(1, 5);
      index_t const cols = searches ? (round == 2 ? 150 : random.between(1, 40)) : std::max<index_t>(1, random_cols(random));
      family const f = random_family(random, random.one_of(usual_types), searches ? 1 : random.between(1, 4), cols, n);
      residual_case c;
      c.groups = random.between(1, std::min(n, 3));
      c.threads = 32 * random.between(1, 3);
      c.shared = random.chance(0.5);
      if (random.chance(0.3)) { c.weight = random_weights(random, cols); }
      check_any(f, policy_of(code, searches ? 1 - round / 2 : random.between(0, 3), random.chance(0.3)), c);
    }
  }
}

TEST_CASE("residuals of rows with any finite bits, and of rows that aren't finite", "[emulated]") {
  random_source random(522);
  for (int code = 0; code < 5; ++code) {
    for (int round = 0; round < 4; ++round) {
      family f = random_family(random, random.one_of(usual_types), 2, random.between(1, code < 4 ? 150 : 12), random.between(2, 4));
      if (round < 2) {
        for (auto& e : f.experts) { fill_with_any_finite(random, e.weight); }
      } else {
        for (int i = 0; i < 5; ++i) {
          f.experts[0].weight.set(random.below(2), random.below(static_cast<int>(f.base.cols)), random.chance(0.5) ? INFINITY : -INFINITY);
        }
      }
      residual_case c;
      c.groups = 1;
      c.threads = 32;
      c.allow_nonfinite = true;
      check_any(f, policy_of(code, random.between(0, 2), false), c);
    }
  }
}

TEST_CASE("residuals of many experts, of other types, of equal rows", "[emulated]") {
  random_source random(523);
  for (int code = 0; code < 6; ++code) {
    int const n = random.between(5, 9);
    family f = random_family(random, code % 2 == 0 ? dtype::f8_e4m3 : dtype::f8_e5m2, code < 4 ? 3 : 1, random.between(1, code < 4 ? 300 : 9), n);
    for (std::size_t e = 1; e < f.experts.size(); ++e) {
      for (index_t r = 0; r < f.base.rows; ++r) {
        if (random.chance(0.4)) { f.experts[e].weight.copy_row(r, f.experts[e - 1].weight); }
      }
    }
    residual_case c;
    c.groups = 2;
    c.threads = 32;
    check_any(f, policy_of(code, code < 4 ? 2 : 1, code % 3 == 0), c);
  }
}
