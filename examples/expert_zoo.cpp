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

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <numeric>
#include <string>
#include <system_error>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct models {
  braid::checkpoint base;
  std::vector<braid::checkpoint> experts;  // in the order of the tasks
};

/// A row of the table: a way to merge a zoo into one grouped checkpoint.
struct method {
  std::string name;
  std::function<void(models const&, fs::path const& out)> merge;
};

/// A clustering policy of this program's own: searches every partition where that is feasible and uses K-Means++ for
/// larger zoos; or groups at random, as a control: what clustering is worth shows against it, at equal bytes.
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

/// Channel Merging with the mean of each group's deltas.
template <class Similarity>
using mean_merge =
    braid::channel_merge<braid::cpu, braid::prune::none, Similarity, grouping, braid::consensus::mean>;

/// Channel Merging as TIES does it: trim at density 0.7 over the tensor, elect signs, mean of those that agree.
template <class Similarity>
using ties_merge =
    braid::channel_merge<braid::cpu, braid::prune::magnitude, Similarity, grouping, braid::consensus::ties>;

/// The row of a merge method that is ready to run.
template <class Merge>
method row(std::string name, Merge merge) {
  return {std::move(name), [merge = std::move(merge)](models const& zoo, fs::path const& out) {
            braid::run(merge, zoo.base, zoo.experts, out);
          }};
}

template <class Similarity>
method mean_row(int groups, grouping how, std::string const& what) {
  using merge = mean_merge<Similarity>;
  return row("channel merging K=" + std::to_string(groups) + " mean, " + what,
             merge{{.prune = {}, .cluster = how, .groups = groups}});
}

template <class Similarity>
method ties_row(int groups, grouping how, std::string const& what) {
  using merge = ties_merge<Similarity>;
  return row("channel merging K=" + std::to_string(groups) + " ties, " + what,
             merge{{.prune = {.density = 0.7}, .cluster = how, .groups = groups}});
}

/// Every way of merging that the table compares.
std::vector<method> methods(int experts, std::uint64_t seed) {
  using braid::similarity::balanced;
  using braid::similarity::cosine;
  using braid::similarity::euclidean;
  grouping const searched{.at_random = false, .seed = seed};
  grouping const drawn{.at_random = true, .seed = seed};
  std::vector<method> all;
  for (int groups = 2; groups <= 3 && groups < experts; ++groups) {
    all.push_back(mean_row<cosine>(groups, searched, "cosine"));
    all.push_back(mean_row<euclidean>(groups, searched, "euclidean"));
    all.push_back(mean_row<balanced>(groups, searched, "balanced"));
    if (groups == 2) { all.push_back(mean_row<cosine>(groups, drawn, "random groups")); }
    all.push_back(ties_row<cosine>(groups, searched, "cosine"));
    all.push_back(ties_row<euclidean>(groups, searched, "euclidean"));
    all.push_back(ties_row<balanced>(groups, searched, "balanced"));
    if (groups == 2) { all.push_back(ties_row<cosine>(groups, drawn, "random groups")); }
  }
  all.push_back(mean_row<cosine>(experts, searched, "cosine"));
  if (experts <= braid::cluster::exact::most_experts) {
    all.push_back(row("preset dare_cm", braid::presets::make_dare_cm(seed)));
    all.push_back(row("preset ties_cm", braid::presets::make_ties_cm()));
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
  [[nodiscard]] zoo::result merged(method const& m) const {
    scratch const place;
    m.merge(models_, place.path() / "merged");
    braid::grouped_checkpoint const grouped(place.path() / "merged");
    return scored(grouped.stored_fraction(), [&](std::size_t n) {
      auto const& expert = models_.experts[n];
      return model(expert, zoo::weights_of(grouped, grouped.expert_number(expert.name())));
    });
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

/// The rows that the user wants, each with what computes it.
std::vector<std::pair<std::string, std::function<zoo::result()>>> wanted_rows(zoo_keeper const& keeper,
                                                                              arguments const& args) {
  std::vector<std::pair<std::string, std::function<zoo::result()>>> rows;
  rows.emplace_back("unmerged", [&] { return keeper.unmerged(); });
  rows.emplace_back("base alone", [&] { return keeper.base(); });
  for (method& m : methods(keeper.experts(), args.seed)) {
    std::string name = m.name;
    rows.emplace_back(std::move(name), [&keeper, m = std::move(m)] { return keeper.merged(m); });
  }
  std::string names;
  for (auto const& [name, compute] : rows) { names += (names.empty() ? "'" : ", '") + name + "'"; }
  braid::glob const pattern(args.rows);
  std::erase_if(rows, [&](auto const& r) { return !pattern.matches(r.first); });
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
  auto const rows = wanted_rows(keeper, args);
  std::vector<std::string> names;
  for (auto const& r : rows) { names.push_back(r.first); }

  std::cout << "Accuracy: exact match of each expert, rebuilt from the merged checkpoint, on its own task.\n"
               "Stored: bytes of all tensors, index included, over those of the "
            << keeper.experts() << " experts.\n\n";
  zoo::table table(std::cout, names, keeper.tasks());
  std::vector<zoo::result> results;
  for (auto const& [name, compute] : rows) {
    table.begin(name);
    auto const start = std::chrono::steady_clock::now();
    results.push_back(compute());
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
