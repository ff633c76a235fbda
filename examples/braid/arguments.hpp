#pragma once

/// What a command line asks for, as plain data: the commands know nothing of how it was parsed.

#include <braid/engine/selection.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace program {

/// `--merge`, `--keep` and `--from-base`, in the order in which they were given: the first that matches decides.
struct pattern_argument {
  braid::action what;
  std::string pattern;
};

/// Where a merge runs.
struct backend_arguments {
  std::string name = "cpu";
  std::vector<int> devices;   ///< of cuda; empty: the first
  std::string memory = "1GiB";
  int threads = 0;
};

struct merge_arguments {
  std::string base;
  std::vector<std::string> experts;  ///< NAME=DIR or DIR
  std::vector<std::string> adapters; ///< of each expert, "" where it has none; empty: nobody has one. Of recipes
  std::string out;

  // Given explicitly, or left to the preset, or else to the defaults.
  std::optional<std::string> preset;
  std::optional<int> groups;
  std::optional<std::string> prune;
  std::optional<double> density;
  std::optional<double> epsilon;
  std::optional<std::string> similarity;
  std::optional<std::string> cluster;
  std::optional<std::string> consensus;
  std::optional<float> lambda;
  std::optional<std::string> residual;
  std::optional<int> residual_sweeps;
  bool rank_one = false;
  std::optional<double> budget;
  std::optional<std::string> budget_weighting;
  std::optional<std::string> column_weights;
  std::optional<std::uint64_t> seed;

  std::vector<pattern_argument> patterns;
  std::vector<std::string> channel_axes;  ///< GLOB=AXIS
  std::optional<std::string> dtype;
  bool allow_nonfinite = false;
  bool dry_run = false;

  std::string max_shard_size = "5GB";
  bool overwrite = false;
  bool no_hash = false;
  backend_arguments backend;
};

struct run_arguments {
  std::string recipe;
  std::string out;
  std::vector<std::string> model_roots;
  bool dry_run = false;
  bool allow_nonfinite = false;
  bool allow_truncated_vocabulary = false;
  std::string max_shard_size = "5GB";
  bool overwrite = false;
  bool no_hash = false;
  backend_arguments backend;
};

struct extract_arguments {
  std::string grouped;
  std::string expert;
  std::string out;
  std::string max_shard_size = "5GB";
  bool overwrite = false;
};

struct inspect_arguments {
  std::string dir;
  bool json = false;
};

struct diff_arguments {
  std::string a;
  std::string b;
};

struct route_train_arguments {
  std::vector<std::string> queries;  ///< NAME=PATH or PATH
  std::string out;
  std::int64_t dimension = 65536;
  std::string chars = "3-5";
  std::string words = "1";
  bool keep_case = false;
  bool keep_digits = false;
  bool no_inverse_frequency = false;
  double l2 = 3e-5;
  int parts = 5;
  double threshold = 0.5;
  std::string default_expert;
  std::uint64_t seed = 0;
  bool overwrite = false;
  int threads = 0;
};

struct route_arguments {
  std::string router;
  std::vector<std::string> queries;  ///< NAME=PATH or PATH; predict: standard input where there are none
  std::optional<double> threshold;   ///< else the router's own
  std::optional<std::string> default_expert;
  bool json = false;
};

/// Each command prints its result to standard output and returns the program's exit status. Errors are exceptions.
int channel_merge(merge_arguments const& args);
int run_recipe(run_arguments const& args);
int extract(extract_arguments const& args);
int inspect(inspect_arguments const& args);
int diff(diff_arguments const& args);
int route_train(route_train_arguments const& args);
int route_eval(route_arguments const& args);
int route_predict(route_arguments const& args);

}  // namespace program
