#pragma once

#include "../pipelines.hpp"

#include <braid/cuda.cuh>

namespace program {

// Each in a file of its own, which takes long to compile.
braid::report run_pruned_on_devices(braid::prune::none const& prune, merge_method const& m, merge_job const& job);
braid::report run_pruned_on_devices(braid::prune::dare const& prune, merge_method const& m, merge_job const& job);
braid::report run_pruned_on_devices(braid::prune::magnitude const& prune, merge_method const& m, merge_job const& job);
braid::report run_pruned_on_devices(braid::prune::magnitude_rows const& prune, merge_method const& m, merge_job const& job);
braid::report run_pruned_on_devices(braid::prune::magprune const& prune, merge_method const& m, merge_job const& job);

/// The GPU's pipelines of one pruning policy, for every consensus.
template <class Prune>
braid::report run_with_consensus(Prune const& prune, merge_method const& m, merge_job const& job) {
  return std::visit(
      [&]<class Consensus>(Consensus const& consensus) {
        using merge = braid::channel_merge<braid::cuda, Prune, braid::similarity::any, braid::cluster::any, Consensus>;
        merge const method({.prune = prune,
                            .similarity = m.similarity,
                            .cluster = m.cluster,
                            .consensus = consensus,
                            .groups = m.groups,
                            .lambda = m.lambda,
                            .allow_nonfinite = m.allow_nonfinite});
        return braid::run(method, job.base, job.experts, job.out, job.options, braid::cuda(job.options.device.devices.front()));
      },
      m.consensus);
}

}  // namespace program
