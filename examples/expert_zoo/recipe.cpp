#include "recipe.hpp"

#include <braid/braid.hpp>

#include <memory>

namespace zoo {

namespace {

/// Calls `use` with the channel_merge that the recipe means. Every pair of pruning and consensus is compiled for
/// itself, so only those that the frontier has are listed; residuals go with the plainest one.
template <class Use>
auto with_merge(recipe const& r, Use const& use) {
  using namespace braid;
  auto const of = [&](auto prune, auto consensus, auto residual) {
    using merge =
        channel_merge<cpu, decltype(prune), similarity::any, cluster::any, decltype(consensus), decltype(residual)>;
    return use(merge{{.prune = prune,
                      .similarity = r.similarity,
                      .cluster = r.cluster,
                      .consensus = consensus,
                      .residual = residual,
                      .groups = r.groups,
                      .budget = {.stored = r.budget},
                      .lambda = r.lambda}});
  };
  if (r.budget > 0.0) {
    residual::palette palette;
    if (r.trellis) {
      palette.allowed = {residual_code::trellis1, residual_code::ternary, residual_code::trellis2,
                         residual_code::sign3};
    }
    return of(prune::none{}, consensus::mean{}, palette);
  }
  residual::none const no_residual;
  if (r.prune == pruning::none && !r.elect_signs) { return of(prune::none{}, consensus::mean{}, r.residual); }
  if (r.residual.code != residual_code::none || r.prune == pruning::none) {
    throw argument_error(
        "this program elects signs with pruning only, and has residuals with prune::none and "
        "consensus::mean only");
  }
  if (r.prune == pruning::magnitude && r.elect_signs) {
    return of(prune::magnitude{.density = r.density}, consensus::ties{}, no_residual);
  }
  if (r.prune == pruning::dare) {
    prune::dare const prune{.density = r.density, .seed = r.seed};
    return r.elect_signs ? of(prune, consensus::ties{}, no_residual) : of(prune, consensus::mean{}, no_residual);
  }
  if (r.prune == pruning::magprune) {
    prune::magprune const prune{.density = r.density, .seed = r.seed};
    return r.elect_signs ? of(prune, consensus::ties{}, no_residual) : of(prune, consensus::mean{}, no_residual);
  }
  throw argument_error("this program trims by magnitude with sign election only");
}

}  // namespace

std::string recipe::key(int experts) const {
  std::string k = std::to_string(static_cast<int>(prune)) + (elect_signs ? " ties" : " mean") + " K" +
                  std::to_string(groups) + " " + std::string(residual.name) + " " + std::to_string(residual.sweeps) +
                  " " + std::to_string(lambda) + " " + std::to_string(density);
  if (residual.rank_one) { k += " rank one"; }
  if (column_weights) { k += " weighted"; }
  if (budget > 0.0) { k += " budget " + std::to_string(budget) + (trellis ? " trellis" : ""); }
  bool const clusters = groups > 1 && (groups < experts || budget > 0.0);
  if (clusters) { k += " " + std::string(cluster.name) + " " + std::string(similarity.name); }
  bool const random = prune == pruning::dare || prune == pruning::magprune || (clusters && cluster.name != "exact");
  return random ? k + " seed " + std::to_string(seed) : k;
}

braid::cluster::any clustering_for(int experts, std::uint64_t seed) {
  if (experts > braid::cluster::exact::most_experts) { return braid::cluster::kmeans{.seed = seed}; }
  return braid::cluster::exact{};
}

tensor_merge merge_of(recipe const& r) {
  return with_merge(r, [&](auto const& merge) -> tensor_merge {
    return [merge, weights = r.column_weights, be = braid::cpu{}](
               std::string_view name, braid::tensor_view<bfloat16 const> base,
               std::vector<braid::expert_view<bfloat16>> const& experts) {
      std::span<float const> weight;
      if (weights) {
        auto const at = weights->of.find(std::string(name));
        if (at == weights->of.end()) {
          throw braid::argument_error("the moments have no tensor " + std::string(name) + "; write them for this zoo");
        }
        weight = at->second;
      }
      return merge.template operator()<bfloat16>(be, name, base, experts, weight);
    };
  });
}

void run_to(recipe const& r, braid::checkpoint const& base, std::vector<braid::checkpoint> const& experts,
            std::filesystem::path const& out) {
  with_merge(r, [&](auto const& merge) { braid::run(merge, base, experts, out); });
}

}  // namespace zoo
