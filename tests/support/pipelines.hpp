#pragma once

/// The library's channel merges, each compiled once (unit/pipelines.cpp) and chosen here at run time. In memory and
/// over checkpoints. Exceptions of the library pass through.

#include "support/random_models.hpp"
#include "support/recipe.hpp"

#include <braid/engine/report.hpp>

#include <filesystem>
#include <functional>
#include <map>
#include <optional>

namespace braid_test {

/// Everything that a grouped_tensor says.
struct merged_family {
  std::vector<std::string> experts;
  index_t channels = 0;
  index_t cols = 0;
  index_t pool_rows = 0;
  double similarity = 0.0;
  std::vector<std::byte> pool;                  // [pool_rows, cols]
  std::vector<std::vector<int>> label;          // [channel][expert]
  std::vector<std::vector<std::int32_t>> rows;  // [expert][channel]
  std::vector<std::vector<std::byte>> rebuilt;  // [expert], through extract()

  friend bool operator==(merged_family const&, merged_family const&) = default;
};

/// Merges in memory. All weights have the base's type. bfloat16 goes through every pipeline, the other types through
/// `none_mean` (that is a matter of compile time: the kernels meet types at run time, and `run_on_disk` takes them
/// all).
merged_family merge(recipe const& r, family const& f, int threads = 1);

/// What can be said about a merge of checkpoints.
struct disk_options {
  int threads = 1;
  index_t block_rows = 0;
  std::optional<dtype> out{};
  std::vector<std::pair<std::string, std::string>> rules{};  // "merge", "keep" or "base", and a pattern
  std::vector<std::pair<std::string, int>> axes{};
  bool overwrite = false;
  bool hash_inputs = true;
  std::uint64_t max_shard_bytes = 5'000'000'000;
  braid::progress_callback on_progress{};
};

struct expert_path {
  std::string name;
  std::filesystem::path path;
};

braid::report run_on_disk(recipe const& r, std::filesystem::path const& base, std::vector<expert_path> const& experts,
                          std::filesystem::path const& out, disk_options const& options = {});

/// The same with the policies of support/own_policies.hpp.
braid::report run_own_policies(float least, int groups, std::filesystem::path const& base,
                               std::vector<expert_path> const& experts, std::filesystem::path const& out);

/// All that a grouped checkpoint holds, through the library's reader.
struct grouped_contents {
  struct tensor {
    dtype type = dtype::f32;
    std::vector<index_t> shape;
    index_t channels = 0;
    index_t cols = 0;
    int axis = 0;
    std::string action;
    double similarity = 0.0;
    std::vector<std::byte> first;                 // rows of group 0, in the tensor's own layout
    std::vector<std::byte> extra;                 // further rows
    std::vector<std::vector<std::int32_t>> rows;  // [expert][channel], empty where it lacks the tensor
    std::vector<std::vector<std::byte>> rebuilt;  // [expert]
    std::vector<std::vector<index_t>> shapes;     // [expert]
  };
  std::vector<std::string> experts;
  std::map<std::string, tensor> tensors;
  std::string description;  // JSON
  std::uint64_t stored_bytes = 0;
  std::uint64_t expert_bytes = 0;
};
grouped_contents read_grouped(std::filesystem::path const& dir);

/// An expert's tensor, also by a tied name.
std::vector<std::byte> read_tensor(std::filesystem::path const& dir, std::string const& expert,
                                   std::string const& tensor);

void extract_expert(std::filesystem::path const& dir, std::string const& expert, std::filesystem::path const& out);

}  // namespace braid_test
