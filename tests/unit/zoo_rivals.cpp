/// What the frontier compares braid with, and how it counts bytes, against the plainest code.

#include "../../examples/zoo_support/rivals.hpp"
#include "support/catch.hpp"
#include "support/random_models.hpp"
#include "support/temp_dir.hpp"

#include <braid/braid.hpp>

#include <map>
#include <set>

namespace braid_test {
namespace {

using namespace braid;

std::vector<bfloat16> bells(random_source& random, std::size_t n, double scale) {
  std::vector<bfloat16> x;
  for (std::size_t i = 0; i < n; ++i) { x.push_back(bfloat16(static_cast<float>(scale * random.bell()))); }
  return x;
}

zoo::merged_tensor random_tensor(random_source& random, std::string name, index_t rows, index_t cols,
                                 std::size_t experts) {
  auto const size = static_cast<std::size_t>(rows * cols);
  zoo::merged_tensor t{std::move(name), {rows, cols}, rows, cols, bells(random, size, 1.0), {}};
  for (std::size_t e = 0; e < experts; ++e) {
    auto w = bells(random, size, 0.1 * (1.0 + static_cast<double>(e)));
    for (std::size_t i = 0; i < size; ++i) {
      w[i] = bfloat16(static_cast<float>(w[i]) + static_cast<float>(t.base[i]));
    }
    t.experts.push_back(std::move(w));
  }
  return t;
}

zoo::zoo_tensors random_zoo(random_source& random, std::size_t experts) {
  zoo::zoo_tensors z;
  for (std::size_t e = 0; e < experts; ++e) { z.names.push_back(std::string(1, static_cast<char>('a' + e))); }
  for (int t = 0; t < 3; ++t) {
    z.merged.push_back(
        random_tensor(random, "w" + std::to_string(t), random.between(1, 9), random.between(1, 70), experts));
  }
  z.kept_bytes = 77;
  return z;
}

/// The same as zoo::rebuilt_by, in float64 but for the scales' storage.
std::vector<double> reference(int passes, bool row_scales, std::vector<bfloat16> const& base,
                              std::vector<bfloat16> const& expert, std::size_t cols, double& largest_scale) {
  std::vector<double> out(base.size());
  std::vector<double> rest(base.size());
  for (std::size_t i = 0; i < base.size(); ++i) {
    out[i] = static_cast<double>(static_cast<float>(base[i]));
    rest[i] = static_cast<double>(static_cast<float>(expert[i])) - out[i];
  }
  for (int pass = 0; pass < passes; ++pass) {
    std::map<std::size_t, double> sum;
    std::map<std::size_t, double> count;
    auto const part = [&](std::size_t i) { return row_scales ? i / cols : 0; };
    for (std::size_t i = 0; i < base.size(); ++i) {
      sum[part(i)] += std::abs(rest[i]);
      count[part(i)] += 1.0;
    }
    for (std::size_t i = 0; i < base.size(); ++i) {
      double const scale =
          static_cast<double>(static_cast<float>(bfloat16(static_cast<float>(sum[part(i)] / count[part(i)]))));
      largest_scale = std::max(largest_scale, scale);
      double const step = rest[i] < 0.0 ? -scale : scale;
      out[i] += step;
      rest[i] -= step;
    }
  }
  return out;
}

using plain_merge =
    channel_merge<cpu, prune::none, similarity::balanced, cluster::exact, consensus::mean, residual::any>;

zoo::tensor_merge merge_with(int groups, residual::any const& residual = {}) {
  return
      [merge = plain_merge{{.residual = residual, .groups = groups}}](
          std::string_view name, tensor_view<bfloat16 const> base, std::vector<expert_view<bfloat16>> const& experts) {
        return merge.template operator()<bfloat16>(cpu{1}, name, base, experts);
      };
}

bool same_bits(std::vector<bfloat16> const& a, std::vector<bfloat16> const& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](bfloat16 x, bfloat16 y) { return x.bits == y.bits; });
}

}  // namespace

TEST_CASE("BitDelta gives back base plus signs times the mean absolute delta", "[zoo]") {
  random_source random(1);
  for (int round = 0; round < 40; ++round) {
    index_t const rows = random.between(1, 9);
    index_t const cols = random.between(1, 70);
    int const passes = random.between(1, 2);
    bool const row_scales = random.chance(0.5);
    INFO(rows << " x " << cols << ", " << passes << " passes" << (row_scales ? ", a scale a row" : ""));
    auto const t = random_tensor(random, "w", rows, cols, 1);
    double scale = 0.0;
    auto const expected = reference(passes, row_scales, t.base, t.experts[0], static_cast<std::size_t>(cols), scale);
    auto const got =
        zoo::rebuilt_by(zoo::bitdelta{passes, row_scales}, t.base, t.experts[0], static_cast<std::size_t>(cols));
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      // Half a unit in the last place of the result, and float32 sums before it.
      CHECK(std::abs(static_cast<double>(static_cast<float>(got[i])) - expected[i]) <=
            std::abs(expected[i]) / 256.0 + scale * 1e-5);
    }
  }
}

TEST_CASE("an expert that is the base needs no BitDelta", "[zoo]") {
  random_source random(2);
  auto t = random_tensor(random, "w", 5, 33, 1);
  CHECK(same_bits(zoo::rebuilt_by(zoo::bitdelta{2, true}, t.base, t.base, 33), t.base));
}

TEST_CASE("BitDelta's bytes are a base, and for each expert rows of bits and bfloat16 scales", "[zoo]") {
  // 3 rows of 9 elements take 2 bytes a row; 5 experts.
  auto const per_tensor = zoo::bytes_of(zoo::bitdelta{1, false}, 3, 9, 5);
  CHECK(per_tensor.rows == 3 * 9 * 2);
  CHECK(per_tensor.planes == 5 * 3 * 2);
  CHECK(per_tensor.scales == 5 * 2);
  CHECK(per_tensor.total() == 54 + 30 + 10);
  auto const twice = zoo::bytes_of(zoo::bitdelta{2, true}, 3, 9, 5);
  CHECK(twice.planes == 2 * per_tensor.planes);
  CHECK(twice.scales == 2 * 5 * 3 * 2);
}

TEST_CASE("bytes of a merged tensor are those of its rows, its index and its residuals", "[zoo]") {
  random_source random(3);
  auto const t = random_tensor(random, "w", 6, 21, 4);
  std::vector<expert_view<bfloat16>> views;
  for (std::size_t e = 0; e < 4; ++e) { views.push_back({std::string_view("abcd").substr(e, 1), t.view(e)}); }

  auto const plain = zoo::bytes_of(merge_with(2)(t.name, t.base_view(), views));
  CHECK(plain == zoo::stored_bytes{.rows = 2 * 6 * 21 * 2, .index = 4 * 6});
  auto const signs = zoo::bytes_of(merge_with(1, residual::sign_bits<1>{})(t.name, t.base_view(), views));
  CHECK(signs == zoo::stored_bytes{.rows = 6 * 21 * 2, .planes = 4 * 6 * 3, .scales = 4 * 6 * 2});
  // Three groups of four experts: two of them share in every channel, and one name says who has a residual.
  auto const ternary = zoo::bytes_of(merge_with(3, residual::ternary{})(t.name, t.base_view(), views));
  CHECK(ternary == zoo::stored_bytes{.rows = 3 * 6 * 21 * 2, .index = 4 * 6, .planes = 2 * 6 * 5, .scales = 2 * 6 * 2});

  // Experts that share a group because they are equal have no residual, which a name for all doesn't say.
  auto equal = t;
  std::copy(t.experts[0].begin(), t.experts[0].begin() + 21, equal.experts[1].begin());
  views[1].weight = equal.view(1);
  auto const coded = zoo::bytes_of(merge_with(3, residual::ternary{})(t.name, t.base_view(), views));
  CHECK(coded.codes == 4 * 6);
}

TEST_CASE("equal rows of kept tensors are stored once", "[zoo]") {
  auto const bytes = [](std::string_view text) { return std::as_bytes(std::span(text)); };
  // Channels of two bytes; three experts.
  CHECK(zoo::kept_bytes({bytes("aabb"), bytes("aabb"), bytes("aabb")}, 2) == 4);
  CHECK(zoo::kept_bytes({bytes("aabb"), bytes("aacc"), bytes("aacc")}, 2) == 6 + 3 * 2);
  CHECK(zoo::kept_bytes({bytes("aa"), bytes("aabb"), bytes("aabb")}, 2) == 4 + 3 * 2);
  CHECK(zoo::kept_bytes({bytes(""), bytes("aa"), bytes("")}, 2) == 2 + 3);
}

TEST_CASE("a partition of whole tensors is the best one by its similarity", "[zoo]") {
  random_source random(4);
  for (int round = 0; round < 10; ++round) {
    auto const t = random_tensor(random, "w", random.between(1, 5), random.between(1, 40), 4);
    auto const gram = zoo::gram_of(t);
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) {
        double dot = 0.0;
        for (std::size_t k = 0; k < t.base.size(); ++k) {
          double const p = static_cast<double>(static_cast<float>(t.base[k]));
          dot += (static_cast<double>(static_cast<float>(t.experts[static_cast<std::size_t>(i)][k])) - p) *
                 (static_cast<double>(static_cast<float>(t.experts[static_cast<std::size_t>(j)][k])) - p);
        }
        CHECK(gram[static_cast<std::size_t>(4 * i + j)] == Approx(dot).epsilon(1e-5).margin(1e-7));
      }
    }
    // Cosine: of the seven partitions into two groups, the one with the longest sums of unit vectors.
    auto const score = [&](zoo::partition const& p) {
      double sum = 0.0;
      for (int g = 0; g < 2; ++g) {
        double total = 0.0;
        for (std::size_t i = 0; i < 4; ++i) {
          for (std::size_t j = 0; j < 4; ++j) {
            if (p[i] == g && p[j] == g) { total += gram[4 * i + j] / std::sqrt(gram[5 * i] * gram[5 * j]); }
          }
        }
        sum += std::sqrt(std::max(total, 0.0));
      }
      return sum;
    };
    auto const found = zoo::clustered(cluster::exact{}, similarity::cosine{}, gram, 4, 2, "w");
    for (unsigned mask = 1; mask < 8; ++mask) {
      zoo::partition const other{0, static_cast<int>(mask & 1), static_cast<int>(mask >> 1 & 1),
                                 static_cast<int>(mask >> 2)};
      CHECK(score(other) <= score(found) + 1e-12);
    }
  }
}

TEST_CASE("whole tensors in groups: alone is lossless, together is one group of braid's", "[zoo]") {
  random_source random(5);
  auto const z = random_zoo(random, 3);
  auto const alone = zoo::merged_in_groups(merge_with(1), z, {3, {0, 1, 2}});
  auto const together = zoo::merged_in_groups(merge_with(1), z, {3, {0, 0, 0}});
  auto const one = zoo::merged_by(merge_with(1), z);
  std::uint64_t base_bytes = 0;
  for (std::size_t t = 0; t < z.merged.size(); ++t) {
    base_bytes += z.merged[t].base.size() * 2;
    for (std::size_t e = 0; e < 3; ++e) {
      CHECK(same_bits(alone.weights[t][e], z.merged[t].experts[e]));
      CHECK(same_bits(together.weights[t][e], one.weights[t][e]));
    }
  }
  CHECK(one.stored == zoo::stored_bytes{.kept = 77, .rows = base_bytes});
  CHECK(alone.stored == zoo::stored_bytes{.kept = 77, .rows = 3 * base_bytes, .index = 3});
  // A partition for each tensor is stored for each.
  auto const mixed = zoo::merged_in_groups(merge_with(1), z, {{0, 0, 1}, {0, 1, 0}, {0, 0, 1}});
  CHECK(mixed.stored == zoo::stored_bytes{.kept = 77, .rows = 2 * base_bytes, .index = 9});
  for (std::size_t t = 0; t < z.merged.size(); ++t) {
    CHECK(same_bits(mixed.weights[t][0], mixed.weights[t][t == 1 ? 2 : 1]));
    CHECK(same_bits(mixed.weights[t][t == 1 ? 1 : 2], z.merged[t].experts[t == 1 ? 1 : 2]));
  }
}

TEST_CASE("random partitions of a model depend on the seed, and only on that", "[zoo]") {
  random_source random(6);
  auto const z = random_zoo(random, 4);
  std::set<zoo::partition> seen;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    auto const p = zoo::partition_of_model(cluster::random{.seed = seed}, similarity::cosine{}, z, 2);
    REQUIRE(p.size() == z.merged.size());
    CHECK(std::all_of(p.begin(), p.end(), [&](auto const& q) { return q == p[0]; }));
    CHECK(p == zoo::partition_of_model(cluster::random{.seed = seed}, similarity::cosine{}, z, 2));
    seen.insert(p[0]);
  }
  CHECK(seen.size() > 1);
}

TEST_CASE("a zoo merged in memory is the zoo merged on disk, in every bit and in its bytes", "[zoo]") {
  std::filesystem::path const dir = std::filesystem::path(BRAID_TEST_SOURCE_DIR) / "examples/zoo";
  checkpoint const base(dir / "base");
  std::vector<checkpoint> experts;
  for (char const* name : {"sort", "add", "facts", "cipher"}) { experts.emplace_back(dir / name); }
  auto const tensors = zoo::zoo_tensors::load(base, experts);
  CHECK(tensors.names == std::vector<std::string>{"add", "cipher", "facts", "sort"});
  struct variant {
    int groups;
    residual::any residual;
  };
  variant const variants[] = {{2, {}}, {1, residual::sign_bits<1>{.rank_one = true}}, {3, residual::ternary{}}};
  for (auto const& [groups, residual] : variants) {
    INFO("K = " << groups << ", residual " << residual.name);
    auto const memory = zoo::merged_by(merge_with(groups, residual), tensors);
    temp_dir const place;
    run(plain_merge{{.residual = residual, .groups = groups}}, base, experts, place.path() / "merged");
    grouped_checkpoint const disk(place.path() / "merged");
    CHECK(memory.stored.total() == disk.stored_bytes());
    CHECK(tensors.expert_bytes == disk.expert_bytes());
    for (std::size_t t = 0; t < tensors.merged.size(); ++t) {
      for (std::size_t e = 0; e < 4; ++e) {
        std::vector<bfloat16> w(memory.weights[t][e].size());
        disk.read(tensors.merged[t].name, e, std::as_writable_bytes(std::span(w)));
        CHECK(same_bits(w, memory.weights[t][e]));
      }
    }
  }
}

}  // namespace braid_test
