#pragma once

#include "arguments.hpp"

#include <braid/cluster/any.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/consensus/sum.hpp>
#include <braid/consensus/ties.hpp>
#include <braid/prune/dare.hpp>
#include <braid/prune/magnitude.hpp>
#include <braid/prune/magprune.hpp>
#include <braid/prune/none.hpp>
#include <braid/cluster/budget.hpp>
#include <braid/residual/palette.hpp>
#include <braid/similarity/any.hpp>

#include <variant>

namespace program {

using any_prune = std::variant<braid::prune::none, braid::prune::dare, braid::prune::magnitude,
                               braid::prune::magnitude_rows, braid::prune::magprune>;
using any_consensus =
    std::variant<braid::consensus::mean, braid::consensus::sum, braid::consensus::ties, braid::consensus::ties_sum>;

/// A channel merge whose policies are chosen at run time.
struct merge_method {
  any_prune prune;
  braid::similarity::any similarity;
  braid::cluster::any cluster;
  any_consensus consensus;
  bool residuals = false;
  braid::residual::palette residual{};  ///< if there are residuals
  braid::storage_budget budget{};
  int groups = 2;
  float lambda = 1.0f;
  bool allow_nonfinite = false;
};

/// What the options of `braid channel-merge` ask for.
struct chosen_method {
  merge_method method;
  std::string description;         ///< one line: policies and numbers
  std::vector<std::string> notes;  ///< options that were given and have no effect
};

/// Explicit options, else those of the preset, else the defaults.
/// @throws braid::argument_error  for an unknown name, listing the known ones, and for numbers that can't be meant
[[nodiscard]] chosen_method choose_method(merge_arguments const& args);

}  // namespace program
