#pragma once

/// Merges of checkpoints on one backend: compiled once for braid::cpu and once for braid::cuda.

#include <braid/braid.hpp>

#include <filesystem>

namespace braid_test {

enum class stream_pipeline { plain, dare, ties, ranks, signs };

struct stream_case {
  stream_pipeline pipeline = stream_pipeline::plain;
  int groups = 2;
  braid::cluster::any cluster = braid::cluster::exact{};
  braid::similarity::any similarity = braid::similarity::cosine{};
  braid::index_t block_rows = 0;
  braid::device_options device{};
};

inline braid::run_options options_of(stream_case const& c) {
  braid::run_options o;
  o.block_rows = c.block_rows;
  o.device = c.device;
  o.overwrite = true;
  return o;
}

template <class Backend, class F>
braid::report with_stream_method(stream_case const& c, F const& f) {
  auto const make = [&]<class Prune, class Consensus, class Residual>(Prune prune, Consensus consensus, Residual residual) {
    using method = braid::channel_merge<Backend, Prune, braid::similarity::any, braid::cluster::any, Consensus, Residual>;
    return f(method({.prune = prune, .similarity = c.similarity, .cluster = c.cluster, .consensus = consensus, .residual = residual,
                     .groups = c.groups}));
  };
  braid::residual::none const none;
  switch (c.pipeline) {
    case stream_pipeline::dare: return make(braid::prune::dare{.density = 0.4, .seed = 7}, braid::consensus::mean{}, none);
    case stream_pipeline::ties: return make(braid::prune::magnitude{.density = 0.3}, braid::consensus::ties{}, none);
    case stream_pipeline::ranks: return make(braid::prune::magprune{.density = 0.5, .epsilon = 0.1, .seed = 3}, braid::consensus::mean{}, none);
    case stream_pipeline::signs: return make(braid::prune::none{}, braid::consensus::mean{}, braid::residual::sign_bits<1>{});
    default: return make(braid::prune::none{}, braid::consensus::mean{}, none);
  }
}

/// All devices of this machine if there are several, else its one twice: two executors of one card, as two cards would be.
std::vector<int> shared_devices();

/// `run` with a `channel_merge` of braid::cuda.
braid::report run_on_device(stream_case const& c, braid::checkpoint const& base, std::vector<braid::checkpoint> const& experts,
                            std::filesystem::path const& out);

}  // namespace braid_test
