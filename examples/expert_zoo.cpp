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

/// A clustering policy of this program's own: searches every partition where that is feasible, uses K-Means++ for
/// larger zoos, or groups at random: the control, against which a clustering shows at equal bytes what it is worth.
struct grouping {
  static constexpr std::string_view name = "grouping";

  bool at_random = false;
  std::uint64_t seed = 0;

  template <braid::similarity_policy Similarity>
  void partition(Similarity const& similarity, braid::cluster_problem const& problem, int* label) const {
    if (at_random) {
      braid::cluster::random{.seed = seed}.partition(similarity, problem, label);
    } else if (problem.count <= braid::cluster::exact::most_experts) {
      braid::cluster::exact{}.partition(similarity, problem, label);
    } else {
      braid::cluster::kmeans{.seed = seed}.partition(similarity, problem, label);
    }
  }
};
static_assert(braid::clustering_policy<grouping>);

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

template <class Similarity, class Consensus, class Prune>
method channel_merging(int groups, Prune prune, bool at_random = false) {
  using merge = braid::channel_merge<braid::cpu, Prune, Similarity, grouping, Consensus>;
  auto const make = [=](std::uint64_t seed) {
    return merge{{.prune = prune, .cluster = {.at_random = at_random, .seed = seed}, .groups = groups}};
  };
  std::string name = "channel merging K=" + std::to_string(groups) + " " + std::string(Consensus::name) + ", ";
  if (!at_random) { return named(name + std::string(Similarity::name), make); }
  return named(name + "random (" + std::to_string(random_draws) + " draws)", make, random_draws);
}

/// Every way of merging that the table compares.
std::vector<method> methods(int experts) {
  using braid::similarity::balanced;
  using braid::similarity::cosine;
  using braid::similarity::euclidean;
  using braid::consensus::mean;
  using braid::consensus::ties;
  braid::prune::none const whole;
  braid::prune::magnitude const trimmed{.density = 0.7};  // over the tensor, as TIES does before it elects signs
  std::vector<method> all;
  for (int groups = 2; groups <= 3 && groups < experts; ++groups) {
    all.push_back(channel_merging<cosine, mean>(groups, whole));
    all.push_back(channel_merging<euclidean, mean>(groups, whole));
    all.push_back(channel_merging<balanced, mean>(groups, whole));
    if (groups == 2) { all.push_back(channel_merging<cosine, mean>(groups, whole, true)); }
    all.push_back(channel_merging<cosine, ties>(groups, trimmed));
    all.push_back(channel_merging<euclidean, ties>(groups, trimmed));
    all.push_back(channel_merging<balanced, ties>(groups, trimmed));
    if (groups == 2) { all.push_back(channel_merging<cosine, ties>(groups, trimmed, true)); }
  }
  all.push_back(channel_merging<cosine, mean>(experts, whole));
  if (experts <= braid::cluster::exact::most_experts) {
    all.push_back(named("preset dare_cm", [](std::uint64_t seed) { return braid::presets::make_dare_cm(seed); }));
    all.push_back(named("preset ties_cm", [](std::uint64_t) { return braid::presets::make_ties_cm(); }));
  }
  return all;
}

/// A new directory for merged checkpoints, gone at the end.
class scratch {
 public:
  scratch() {
    std::string name = (fs::temp_directory_path() / "expert_zoo-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw braid::io_error(name + ": can't be made: " + std::generic_category().message(errno) +
                            "; set TMPDIR to a directory with room for a merged checkpoint");
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
    return {zoo::llama_config::from_json(of.config(), (of.path() / "config.json").string()), weights};
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

void write_json(std::string const& file, nlohmann::ordered_json const& json) {
  std::ofstream out(file, std::ios::trunc);
  out << json.dump(2) << '\n';
  out.close();
  if (!out) { throw braid::io_error(file + ": can't be written; give --json a file in a directory of yours"); }
}

void run(arguments const& args) {
  zoo_keeper const keeper(args.zoo);
  auto const rows = wanted_rows(keeper.experts(), args);
  std::vector<std::string> names;
  for (row const& r : rows) { names.push_back(r.name); }

  std::cout << "Accuracy: exact match of each expert, rebuilt from the merged checkpoint, on its own task.\n"
               "Stored: bytes of all tensors, index included, over those of the "
            << keeper.experts() << " experts.\n\n";
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
  app.add_option("ZOO_DIR", args.zoo, "directory with base, one expert per task, and prompts.json")->required();
  app.add_option("--json", args.json, "also write the table to this file");
  app.add_option("--rows", args.rows, "only rows whose name matches this glob, such as '*K=2*'");
  app.add_option("--seed", args.seed, "for random pruning and random groups (default 0)");
  try {
    app.parse(argc, argv);
    run(args);
    return 0;
  } catch (CLI::Success const& e) {
    return app.exit(e);
  } catch (CLI::ParseError const& e) {
    std::cerr << "expert_zoo: " << e.what() << "; see expert_zoo --help\n";
  } catch (std::exception const& e) {
    std::cout << std::endl;  // the message stands in a line of its own, also within the table
    std::cerr << "expert_zoo: " << e.what() << '\n';
  }
  return 1;
}
