#pragma once

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/consensus/sum.hpp>
#include <braid/consensus/ties.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/dare.hpp>
#include <braid/prune/magnitude.hpp>
#include <braid/prune/none.hpp>
#include <braid/residual/ternary.hpp>
#include <braid/similarity/balanced.hpp>
#include <braid/similarity/cosine.hpp>

BRAID_NAMESPACE_BEGIN

/// `dare_cm` and `ties_cm` are the paper's configurations: density 0.7, two groups, lambda 0.5 times the sum of a group's
/// deltas, lone rows exact. (Zhang et al., AAAI 2025; settings as in its reproducibility card.) `best` is this project's.
namespace presets {

/// The best accuracy for its bytes that this project has measured on several zoos (docs/quality.md): one shared row a
/// channel, and what each expert lacks in 1.6 bits an element, coded jointly.
template <backend Backend = cpu>
using best = channel_merge<Backend, prune::none, similarity::balanced, cluster::exact, consensus::mean, residual::ternary>;

/// Random pruning, then half of the sum.
template <backend Backend = cpu>
using dare_cm = channel_merge<Backend, prune::dare, similarity::cosine, cluster::exact, consensus::sum>;

/// Trim by magnitude over the tensor and sign election.
template <backend Backend = cpu>
using ties_cm = channel_merge<Backend, prune::magnitude, similarity::cosine, cluster::exact, consensus::ties_sum>;

template <backend Backend = cpu>
[[nodiscard]] dare_cm<Backend> make_dare_cm(std::uint64_t seed = 0) {
  return dare_cm<Backend>{{.prune = {.density = 0.7, .seed = seed}, .groups = 2, .lambda = 0.5f}};
}

template <backend Backend = cpu>
[[nodiscard]] best<Backend> make_best() {
  return best<Backend>{{.groups = 1}};
}

template <backend Backend = cpu>
[[nodiscard]] ties_cm<Backend> make_ties_cm() {
  return ties_cm<Backend>{{.prune = {.density = 0.7}, .groups = 2, .lambda = 0.5f}};
}

}  // namespace presets
BRAID_NAMESPACE_END
