#pragma once

#include "pipelines.hpp"

#include <braid/method/channel_merge.hpp>

namespace program {

/// The pipelines of one pruning policy on one backend, for every consensus. Residuals, which are asked for once a row, are chosen
/// at run time; without them nothing but `Residual` = `residual::none` is compiled in.
template <class Backend, class Residual, class Prune>
braid::report run_pruned(Backend const& be, Residual const& residual, Prune const& prune, merge_method const& m, merge_job const& job) {
  return std::visit(
      [&]<class Consensus>(Consensus const& consensus) {
        using merge =
            braid::channel_merge<Backend, Prune, braid::similarity::any, braid::cluster::any, Consensus, Residual>;
        merge const method{{.prune = prune,
                            .similarity = m.similarity,
                            .cluster = m.cluster,
                            .consensus = consensus,
                            .residual = residual,
                            .groups = m.groups,
                            .budget = m.budget,
                            .lambda = m.lambda,
                            .allow_nonfinite = m.allow_nonfinite}};
        return braid::run(method, job.base, job.experts, job.out, job.options, be);
      },
      m.consensus);
}

}  // namespace program
