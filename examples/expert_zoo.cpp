/// expert_zoo ZOO_DIR: how well do merged experts still know their trades?
///
/// A zoo is a directory with a model `base`, one fine-tuned expert per task in a directory of the task's name, all of
/// them Llamas in Hugging Face layout, and `prompts.json` with questions and answers. This program merges the zoo in
/// several ways, rebuilds every expert from each merged checkpoint, lets it answer its own task's prompts, and prints
/// a table: method, exact-match accuracy per task, their mean, and the bytes stored.
///
/// The rows are in `methods()`: a name, and a function that merges into a directory. Add yours there.

#include "zoo_support/evaluate.hpp"
#include "zoo_support/table.hpp"
#include "zoo_support/weights.hpp"

#include <braid/braid.hpp>
#include <braid/core/glob.hpp>

#include <CLI/CLI.hpp>

#include <stdlib.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <numeric>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct models {
  braid::checkpoint base;
  std::vector<braid::checkpoint> experts;  // in the order of the tasks
};

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
  if (experts <= cluster::exact::most_experts) {
    all.push_back(named("preset dare_cm", [](std::uint64_t seed) { return presets::make_dare_cm(seed); }));
    all.push_back(named("preset ties_cm", [](std::uint64_t) { return presets::make_ties_cm(); }));
  }
  return all;
}

/// A new directory for merged checkpoints, gone at the end.
class scratch {
 public:
  scratch() {
    std::error_code problem;
    std::string name = (fs::temp_directory_path(problem) / "expert_zoo-XXXXXX").string();
    if (!problem && ::mkdtemp(name.data()) == nullptr) { problem = {errno, std::generic_category()}; }
    if (problem) {
      throw braid::io_error("no temporary directory (" + problem.message() +
                            "): set TMPDIR to a directory with room for a merged checkpoint");
    }
    path_ = name;
  }
  scratch(scratch const&) = delete;
  scratch& operator=(scratch const&) = delete;
  ~scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  [[nodiscard]] fs::path const& path() const noexcept { return path_; }

 private:
  fs::path path_;
};

std::uint64_t tensor_bytes(braid::checkpoint const& model) {
  auto const& tensors = model.tensors();
  return std::accumulate(tensors.begin(), tensors.end(), std::uint64_t{0},
                         [](std::uint64_t sum, braid::tensor_meta const& t) { return sum + t.bytes; });
}

class zoo_keeper {
 public:
  explicit zoo_keeper(fs::path const& dir)
      : questions_(zoo::read_questions(dir / "prompts.json")), models_{braid::checkpoint(dir / "base"), {}} {
    for (auto const& task : questions_.tasks) {
      models_.experts.emplace_back(dir / task.name);
      expert_bytes_ += tensor_bytes(models_.experts.back());
    }
  }

  [[nodiscard]] std::vector<std::string> tasks() const {
    std::vector<std::string> names;
    for (auto const& task : questions_.tasks) { names.push_back(task.name); }
    return names;
  }
  [[nodiscard]] int experts() const { return static_cast<int>(models_.experts.size()); }

  /// Each expert as it was trained.
  [[nodiscard]] zoo::result unmerged() const {
    return scored(1.0, [&](std::size_t n) { return model(models_.experts[n], zoo::weights_of(models_.experts[n])); });
  }

  /// The base in every expert's place.
  [[nodiscard]] zoo::result base() const {
    double const stored = static_cast<double>(tensor_bytes(models_.base)) / static_cast<double>(expert_bytes_);
    return scored(stored, [&](std::size_t) { return model(models_.base, zoo::weights_of(models_.base)); });
  }

  /// Each expert as it is rebuilt from a merged checkpoint.
  [[nodiscard]] zoo::result merged(method const& m, std::uint64_t seed) const {
    zoo::result mean;
    mean.accuracy.resize(models_.experts.size());
    for (int draw = 0; draw < m.draws; ++draw) {
      scratch const place;
      m.merge(models_, place.path() / "merged", seed + static_cast<std::uint64_t>(draw));
      braid::grouped_checkpoint const grouped(place.path() / "merged");
      zoo::result const one = scored(grouped.stored_fraction(), [&](std::size_t n) {
        auto const& expert = models_.experts[n];
        return model(expert, zoo::weights_of(grouped, grouped.expert_number(expert.name())));
      });
      mean.stored += one.stored / m.draws;
      for (std::size_t n = 0; n < one.accuracy.size(); ++n) { mean.accuracy[n] += one.accuracy[n] / m.draws; }
    }
    return mean;
  }

 private:
  static zoo::llama<> model(braid::checkpoint const& of, zoo::weight_source const& weights) {
    try {
      return {zoo::llama_config::from_json(of.config(), (of.path() / "config.json").string()), weights};
    } catch (braid::shape_error const& e) {
      throw braid::shape_error(of.path().string() + ": " + e.what());
    }
  }

  /// @param model_of gives the model that answers the n-th task's prompts
  [[nodiscard]] zoo::result scored(double stored, std::function<zoo::llama<>(std::size_t)> const& model_of) const {
    zoo::result r;
    r.stored = stored;
    for (std::size_t n = 0; n < questions_.tasks.size(); ++n) {
      r.accuracy.push_back(zoo::accuracy(model_of(n), questions_.symbols, questions_.tasks[n].prompts));
    }
    return r;
  }

  zoo::questions questions_;
  models models_;
  std::uint64_t expert_bytes_ = 0;
};

struct arguments {
  std::string zoo;
  std::string json;
  std::string rows = "*";
  std::uint64_t seed = 0;
};

struct row {
  std::string name;
  std::function<zoo::result(zoo_keeper const&)> compute;
};

/// All rows whose names match.
std::vector<row> wanted_rows(int experts, arguments const& args) {
  std::vector<row> rows{{"unmerged", &zoo_keeper::unmerged}, {"base alone", &zoo_keeper::base}};
  for (method const& m : methods(experts)) {
    rows.push_back({m.name, [m, seed = args.seed](zoo_keeper const& keeper) { return keeper.merged(m, seed); }});
  }
  std::string names;
  for (row const& r : rows) { names += (names.empty() ? "'" : ", '") + r.name + "'"; }
  braid::glob const pattern(args.rows);
  std::erase_if(rows, [&](row const& r) { return !pattern.matches(r.name); });
  if (rows.empty()) { throw braid::argument_error("--rows '" + args.rows + "' matches none of " + names); }
  return rows;
}

[[noreturn]] void refuse_json(std::string const& file) {
  throw braid::io_error(file + ": can't be written; give --json a file in a directory that exists and is yours");
}

void write_json(std::string const& file, nlohmann::ordered_json const& json) {
  std::ofstream out(file, std::ios::trunc);
  out << json.dump(2) << '\n';
  out.close();
  if (!out) { refuse_json(file); }
}

void run(arguments const& args) {
  // Better now than after half a minute of merging.
  if (!args.json.empty() && !fs::is_directory(fs::absolute(args.json).parent_path())) { refuse_json(args.json); }
  zoo_keeper const keeper(args.zoo);
  auto const rows = wanted_rows(keeper.experts(), args);
  std::vector<std::string> names;
  for (row const& r : rows) { names.push_back(r.name); }

  std::cout << "Accuracy: exact match of each expert, rebuilt from the merged checkpoint, on its own task.\n"
               "Stored: bytes of all tensors, index included, over those of all experts.\n\n";
  zoo::table table(std::cout, names, keeper.tasks());
  std::vector<zoo::result> results;
  for (auto const& [name, compute] : rows) {
    table.begin(name);
    auto const start = std::chrono::steady_clock::now();
    results.push_back(compute(keeper));
    results.back().method = name;
    results.back().seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    table.finish(results.back());
  }
  if (!args.json.empty()) { write_json(args.json, to_json(args.zoo, keeper.tasks(), results)); }
}

}  // namespace

int main(int argc, char** argv) {
  arguments args;
  CLI::App app{"Merges a zoo of experts in several ways and measures what each expert still knows.", "expert_zoo"};
  app.add_option("ZOO_DIR", args.zoo, "holds base, one expert per task, and prompts.json")->required()->type_name("");
  app.add_option("--json", args.json, "also write the table to this file")->type_name("FILE");
  app.add_option("--rows", args.rows, "only rows whose name matches this glob, such as '*K=2*'")->type_name("GLOB");
  app.add_option("--seed", args.seed, "for random pruning and random groups (default 0)")->type_name("N");
  try {
    app.parse(argc, argv);
    run(args);
    return 0;
  } catch (CLI::Success const& e) {
    return app.exit(e);
  } catch (CLI::ParseError const& e) {
    std::cerr << "expert_zoo: " << e.what() << "; see expert_zoo --help\n";
  } catch (std::exception const& e) {
    std::cerr << "expert_zoo: " << e.what() << '\n';
  }
  return 1;
}
