#include "support/models_on_disk.hpp"
#include "support/own_policies.hpp"
#include "support/pipelines.hpp"
#include "unit/io_support.hpp"

#include <braid/method/channel_merge.hpp>

using namespace braid_test;

namespace {

/// What the own policies say about one channel, in plain code.
std::vector<int> expected_labels(family const& f, index_t row, int groups) {
  auto const number = distinct_numbers(f, row);
  int const used = std::min(groups, count_distinct(number));
  auto const d = channel_deltas(f, row);
  auto const dot = [&](std::size_t i, std::size_t j) {
    return static_cast<double>(ordered_sum(
        f.base.cols, [&](index_t c) { return d[i][static_cast<std::size_t>(c)] * d[j][static_cast<std::size_t>(c)]; }));
  };
  std::vector<std::size_t> first;  // expert of each distinct row
  std::vector<int> group;
  for (std::size_t e = 0; e < number.size(); ++e) {
    if (number[e] < static_cast<int>(first.size())) { continue; }
    first.push_back(e);
    auto const g = static_cast<int>(group.size());
    group.push_back(g < used ? g : 0);
    for (int lead = 1; g >= used && lead < used; ++lead) {
      // self - cross: the leader with the largest dot product is nearest.
      if (dot(e, first[static_cast<std::size_t>(lead)]) > dot(e, first[static_cast<std::size_t>(group.back())])) {
        group.back() = lead;
      }
    }
  }
  std::vector<int> label;
  for (int const n : number) { label.push_back(group[static_cast<std::size_t>(n)]); }
  return label;
}

std::vector<std::byte> expected_row(family const& f, index_t row, std::vector<int> const& label, std::size_t expert,
                                    float least) {
  std::vector<std::byte> out(f.base.row_bytes());
  auto const number = distinct_numbers(f, row);
  bool alone = true;
  for (std::size_t e = 0; e < label.size(); ++e) {
    alone = alone && (label[e] != label[expert] || number[e] == number[expert]);
  }
  for (index_t c = 0; c < f.base.cols; ++c) {
    float best = 0.0f;
    for (std::size_t e = 0; e < label.size(); ++e) {
      if (label[e] != label[expert]) { continue; }
      float const x = f.experts[e].weight.at(row, c) - f.base.at(row, c);
      if (std::abs(x) >= least && std::abs(x) > std::abs(best)) { best = x; }
    }
    store(f.base.type, alone ? f.experts[expert].weight.at(row, c) : f.base.at(row, c) + best, out.data(), c);
  }
  return out;
}

/// A clustering by somebody who hasn't read the documentation.
struct foreign_labels {
  static constexpr std::string_view name = "foreign_labels";
  enum { backwards, too_large, negative, one_group } kind = backwards;

  template <braid::similarity_policy Similarity>
  void partition(Similarity const&, braid::cluster_problem const& p, int* label) const {
    for (int i = 0; i < p.count; ++i) {
      label[i] = kind == one_group ? 0 : p.groups - 1 - i % p.groups;
      if (i == p.count - 1 && kind == too_large) { label[i] = p.groups; }
      if (i == p.count - 1 && kind == negative) { label[i] = -1; }
    }
  }
};

// example-begin
using own_merge = braid::channel_merge<braid::cpu, own::threshold, own::shared_length, own::leaders, own::strongest>;
// example-end

}  // namespace

TEST_CASE("a user's own pruning, similarity, clustering and consensus merge a tensor", "[own_policy]") {
  random_source random(131);
  for (int round = 0; round < 40; ++round) {
    int const n = random.between(1, 6);
    int const groups = random.between(1, n);
    float const least = static_cast<float>(0.02 * random.unit());
    family const f = random_family(random, dtype::f32, random.between(1, 12), random.between(1, 600), n);
    auto const view = [](matrix const& m) {
      return braid::tensor_view<float const>(reinterpret_cast<float const*>(m.memory.data()), m.rows, m.cols);
    };
    std::vector<braid::expert_view<float>> experts;
    for (auto const& e : f.experts) { experts.push_back({e.name, view(e.weight)}); }
    own_merge const merge{{.prune = {.least = least}, .groups = groups}};
    auto const merged = merge(braid::cpu(1), f.tensor, view(f.base), experts);
    std::vector<float> rebuilt(static_cast<std::size_t>(f.base.rows * f.base.cols));
    for (std::size_t e = 0; e < experts.size(); ++e) {
      merged.extract(e, {rebuilt.data(), f.base.rows, f.base.cols});
      for (index_t row = 0; row < f.base.rows; ++row) {
        auto const label = expected_labels(f, row, groups);
        REQUIRE(merged.group(e, row) == label[e]);
        auto const expected = expected_row(f, row, label, e, least);
        REQUIRE((expected.empty() ||
                 std::memcmp(expected.data(), rebuilt.data() + row * f.base.cols, expected.size()) == 0));
      }
    }
  }
}

TEST_CASE("labels of a user's own clustering are checked and put in order", "[own_policy][errors]") {
  using merge_with =
      braid::channel_merge<braid::cpu, own::threshold, own::shared_length, foreign_labels, own::strongest>;
  float const weight[] = {0.0f, 1.0f, 2.0f, 3.0f, 4.0f};
  auto const row = [&](int i) { return braid::tensor_view<float const>(weight + i, 1, 1); };
  std::vector<braid::expert_view<float>> const experts{{"a", row(1)}, {"b", row(2)}, {"c", row(3)}, {"d", row(4)}};
  auto const merged = [&](foreign_labels clustering) {
    return merge_with{{.cluster = clustering, .groups = 3}}(braid::cpu(1), "layer.weight", row(0), experts);
  };
  auto const ordered = merged({foreign_labels::backwards});  // 2, 1, 0, 2
  CHECK(ordered.pool_rows() == 3);
  for (std::size_t e = 0; e < 4; ++e) { CHECK(ordered.group(e, 0) == static_cast<int>(e % 3)); }
  CHECK(ordered.pool()(0, 0) == 4.0f);  // of a and d the stronger
  CHECK(ordered.pool()(2, 0) == 3.0f);
  CHECK(merged({foreign_labels::one_group}).pool_rows() == 1);
  CHECK_THROWS_AS(merged({foreign_labels::negative}), braid::argument_error);
  std::string const message = message_of([&] { (void)merged({foreign_labels::too_large}); });
  CHECK(contains(message, "cluster::foreign_labels gave the label 3"));
}

TEST_CASE("a user's own policy may refuse its numbers", "[own_policy][errors]") {
  struct picky : own::strongest {
    int least = 1;
    void validate() const {
      if (least < 1) { throw braid::argument_error("picky: least is " + std::to_string(least)); }
    }
  };
  using merge_with = braid::channel_merge<braid::cpu, own::threshold, own::shared_length, own::leaders, picky>;
  CHECK_NOTHROW(merge_with{});
  typename merge_with::options o;
  o.consensus.least = 0;
  CHECK_THROWS_AS(merge_with{o}, braid::argument_error);
}

TEST_CASE("a user's own policies merge checkpoints, and are named in what is written", "[own_policy]") {
  random_source random(132);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 4, {dtype::bf16, dtype::f32});
  d.write(dir.path());
  std::vector<expert_path> experts;
  for (auto const& n : d.names) { experts.push_back({n, dir.path() / n}); }
  float const least = 0.01f;
  run_own_policies(least, 2, dir.path() / "base", experts, dir.path() / "out");
  auto const read = read_grouped(dir.path() / "out");
  for (auto const& [name, f] : d.merged) {
    auto const& t = read.tensors.at(name);
    for (std::size_t e = 0; e < d.names.size(); ++e) {
      for (index_t row = 0; row < f.base.rows; ++row) {
        auto const expected = expected_row(f, row, expected_labels(f, row, 2), e, least);
        INFO(name << ", expert " << e << ", channel " << row);
        REQUIRE(std::equal(
            expected.begin(), expected.end(),
            t.rebuilt[e].begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(row) * f.base.row_bytes())));
      }
    }
  }
  for (auto const part : {R"("prune":{"name":"threshold"})", R"("similarity":{"name":"shared_length"})",
                          R"("cluster":{"name":"leaders"})", R"("consensus":{"name":"strongest"})"}) {
    CHECK(contains(read.description, part));
  }
}
