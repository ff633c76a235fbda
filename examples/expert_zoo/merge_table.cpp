/// The table: a zoo merged in several ways, every expert answering from each merged checkpoint, its rows found through
/// the index.
///
/// The rows are in `methods()`: a name, and a function that merges into a directory. Add yours there.

#include "keeper.hpp"
#include "merge_table.hpp"
#include "output_file.hpp"
#include "scratch.hpp"

#include <braid/braid.hpp>
#include <braid/core/glob.hpp>

#include <chrono>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace zoo {

namespace {

namespace fs = std::filesystem;

/// A way to merge a zoo into one grouped checkpoint, a row of the table.
struct method {
  std::string name;
  std::function<void(models const&, fs::path const& out, std::uint64_t seed)> merge;
  int draws = 1;  // the row is the mean over that many seeds
};

/// Accuracy under random groups varies by 0.03 from seed to seed, so such a row is the mean of several.
constexpr int random_draws = 3;

/// @param make gives the merge, ready to run, for a seed
template <class Make>
method named(std::string name, Make make, int draws = 1) {
  auto merge = [make](models const& zoo, fs::path const& out, std::uint64_t seed) {
    braid::run(make(seed), zoo.base, zoo.experts, out);
  };
  return {std::move(name), std::move(merge), draws};
}

/// Channel Merging. Similarity and clustering are chosen at run time, so that few merges are compiled for many rows.
/// @param at_random draws the groups: the control, against which a clustering shows at equal bytes what it is worth
template <class Prune, class Consensus>
method channel_merging(int experts, int groups, Prune prune, Consensus consensus, braid::similarity::any similarity,
                       bool at_random = false) {
  using merge = braid::channel_merge<braid::cpu, Prune, braid::similarity::any, braid::cluster::any, Consensus>;
  auto const make = [=](std::uint64_t seed) {
    braid::cluster::any cluster = braid::cluster::exact{};
    if (experts > braid::cluster::exact::most_experts) { cluster = braid::cluster::kmeans{.seed = seed}; }
    if (at_random) { cluster = braid::cluster::random{.seed = seed}; }
    return merge{{.prune = prune, .similarity = similarity, .cluster = cluster, .consensus = consensus,
                  .groups = groups}};
  };
  std::string const name = "channel merging K=" + std::to_string(groups) + " " + std::string(consensus.name) + ", ";
  if (at_random) { return named(name + "random (" + std::to_string(random_draws) + " draws)", make, random_draws); }
  return named(name + std::string(similarity.name), make);
}

/// Every way of merging that the table compares.
std::vector<method> methods(int experts) {
  using namespace braid;
  similarity::any const similarities[] = {similarity::cosine{}, similarity::euclidean{}, similarity::balanced{}};
  std::vector<method> all;
  // Merging in its simplest form, and as TIES does it: trim over the tensor, elect signs, mean of those that agree.
  auto const compare = [&](int groups, auto prune, auto consensus) {
    for (auto const& s : similarities) { all.push_back(channel_merging(experts, groups, prune, consensus, s)); }
    if (groups == 2) { all.push_back(channel_merging(experts, 2, prune, consensus, similarity::cosine{}, true)); }
  };
  for (int groups = 2; groups <= 3 && groups < experts; ++groups) {
    compare(groups, prune::none{}, consensus::mean{});
    compare(groups, prune::magnitude{.density = 0.7}, consensus::ties{});
  }
  all.push_back(channel_merging(experts, experts, prune::none{}, consensus::mean{}, similarity::cosine{}));
  // What each expert lacks, stored in a few bits an element; then groups and bits as one budget chooses them.
  using coded = channel_merge<cpu, prune::none, similarity::any, cluster::any, consensus::mean, residual::palette>;
  all.push_back(named("K=1, residual sign1", [](std::uint64_t) {
    return coded{{.residual = {.code = residual_code::sign1}, .groups = 1}};
  }));
  all.push_back(named("preset best (K=1, ternary)", [](std::uint64_t) {
    return coded{{.residual = {.code = residual_code::ternary}, .groups = 1}};
  }));
  if (experts <= cluster::exact::most_experts) {
    double const stored = 1.0 / experts + 0.11;
    all.push_back(named("budget " + std::to_string(stored).substr(0, 4), [=](std::uint64_t) {
      return coded{{.similarity = similarity::balanced{}, .groups = experts, .budget = {.stored = stored}}};
    }));
    all.push_back(named("preset dare_cm", [](std::uint64_t seed) { return presets::make_dare_cm(seed); }));
    all.push_back(named("preset ties_cm", [](std::uint64_t) { return presets::make_ties_cm(); }));
  }
  return all;
}

/// Each expert as it is served from a merged checkpoint; the mean over the method's draws.
result merged(keeper const& zoo, method const& m, std::uint64_t seed) {
  result mean;
  mean.accuracy.resize(zoo.models().experts.size());
  for (int draw = 0; draw < m.draws; ++draw) {
    scratch const place;
    m.merge(zoo.models(), place.path() / "merged", seed + static_cast<std::uint64_t>(draw));
    braid::grouped_checkpoint const grouped(place.path() / "merged");
    auto const one = zoo.served_from(grouped);
    mean.stored += grouped.stored_fraction() / m.draws;
    for (std::size_t n = 0; n < one.size(); ++n) { mean.accuracy[n] += one[n] / m.draws; }
  }
  return mean;
}

struct row {
  std::string name;
  std::function<result(keeper const&)> compute;
};

/// All rows whose names match.
std::vector<row> wanted_rows(int experts, table_options const& options) {
  std::vector<row> rows{
      {"unmerged", [](keeper const& zoo) { return result{{}, zoo.unmerged(), 1.0, 0.0}; }},
      {"base alone", [](keeper const& zoo) { return result{{}, zoo.base(), zoo.base_fraction(), 0.0}; }}};
  for (method const& m : methods(experts)) {
    rows.push_back({m.name, [m, seed = options.seed](keeper const& zoo) { return merged(zoo, m, seed); }});
  }
  std::string names;
  for (row const& r : rows) { names += (names.empty() ? "'" : ", '") + r.name + "'"; }
  braid::glob const pattern(options.rows);
  std::erase_if(rows, [&](row const& r) { return !pattern.matches(r.name); });
  if (rows.empty()) { throw braid::argument_error("--rows '" + options.rows + "' matches none of " + names); }
  return rows;
}

}  // namespace

void print_merge_table(std::string const& dir, table_options const& options, std::string const& json) {
  check_writable(json, "--json");  // better now than after half a minute of merging
  keeper const zoo(dir, options.prompts);
  auto const rows = wanted_rows(zoo.experts(), options);
  std::vector<std::string> names;
  for (row const& r : rows) { names.push_back(r.name); }

  std::cout << "Accuracy: exact match of each expert, from the merged checkpoint by its index, on its own task.\n"
               "Stored: bytes of all tensors, index included, over those of all experts.\n\n";
  table table(std::cout, names, zoo.tasks());
  std::vector<result> results;
  for (auto const& [name, compute] : rows) {
    table.begin(name);
    auto const start = std::chrono::steady_clock::now();
    results.push_back(compute(zoo));
    results.back().method = name;
    results.back().seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    table.finish(results.back());
  }
  if (!json.empty()) { write_file(json, "--json", to_json(dir, zoo.tasks(), results).dump(2) + "\n"); }
}

}  // namespace zoo
