#pragma once

/// A merge that is chosen at run time, in memory or through files.

#include "../zoo_support/moments.hpp"
#include "../zoo_support/zoo_tensors.hpp"

#include <braid/cluster/any.hpp>
#include <braid/residual/any.hpp>
#include <braid/similarity/any.hpp>

#include <filesystem>
#include <memory>
#include <string>

namespace zoo {

enum class pruning { none, magnitude, dare, magprune };

/// Everything that says what a merge does.
struct recipe {
  pruning prune = pruning::none;
  bool elect_signs = false;  ///< consensus::ties instead of consensus::mean
  int groups = 1;
  braid::similarity::any similarity{};
  braid::cluster::any cluster{};
  braid::residual::any residual{};
  double budget = 0.0;   ///< of a tensor's bytes in all experts; above 0: chooses up to `groups`, and a residual's code
  bool trellis = false;  ///< under a budget: whether trellis codes may be chosen
  std::shared_ptr<moments const> column_weights{};  ///< what errors in columns count; null: all the same
  float lambda = 1.0f;
  double density = 0.7;  ///< of every pruning but none
  std::uint64_t seed = 0;

  /// Two recipes of one key give the same bits. What can't matter is left out: with one group, or a group for each
  /// expert, nothing is clustered.
  [[nodiscard]] std::string key(int experts) const;
};

/// The clustering for so many experts: every partition while that is possible.
braid::cluster::any clustering_for(int experts, std::uint64_t seed);

/// The recipe in memory; it may be used after the recipe is gone.
/// @throws braid::argument_error for a pair of policies that this program doesn't compile
tensor_merge merge_of(recipe const& r);

/// The recipe through braid::run, into a grouped checkpoint.
void run_to(recipe const& r, braid::checkpoint const& base, std::vector<braid::checkpoint> const& experts,
            std::filesystem::path const& out);

}  // namespace zoo
