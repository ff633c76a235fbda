/// The points of the frontier, family by family. A rival or a control gets the same policies, the same prompts and,
/// where it is random, as many seeds as braid's own points; single-model methods, which braid's points do without, get
/// the best of a sweep.

#include "single_models.hpp"

namespace zoo {

namespace {

using braid::similarity::any;

/// One sweep for all single-model methods: the merged delta is the (sign-elected) mean of the experts' deltas times one
/// of these. Task arithmetic's own lambda, which scales the sum, is this one divided by the number of experts.
std::vector<float> const sweep{0.1f, 0.2f, 0.3f, 0.4f, 0.6f, 0.8f, 1.0f, 1.5f, 2.0f, 3.0f};

std::string k_name(int groups) { return "K = " + std::to_string(groups); }

std::string joined(std::string const& a, std::string const& b) { return a + ", " + b; }

/// A merge of the recipe that `make` gives for a seed and a lambda.
template <class Make>
plan merging(std::string family, std::string name, std::string label, origin from, Make make) {
  plan p{std::move(family), std::move(name), std::move(label), from, false, {1.0f}, {}};
  p.measure = [make](bench& b, std::uint64_t seed, float lambda) { return b.merged(make(seed, lambda)); };
  return p;
}

void add_references(std::vector<plan>& all) {
  plan p{"references", "unmerged", "unmerged", origin::reference, false, {1.0f}, {}};
  p.measure = [](bench& b, std::uint64_t, float) { return b.unmerged(); };
  all.push_back(p);
  p.name = p.label = "base alone";
  p.measure = [](bench& b, std::uint64_t, float) { return b.base(); };
  all.push_back(p);
}

recipe channel_merging(int experts, int groups, bool ties, any similarity, std::uint64_t seed) {
  recipe r;
  r.prune = ties ? pruning::magnitude : pruning::none;
  r.elect_signs = ties;
  r.groups = groups;
  r.similarity = similarity;
  r.cluster = clustering_for(experts, seed);
  r.seed = seed;
  return r;
}

/// @return the similarities, or one where there is nothing to cluster
std::vector<any> similarities_for(int experts, int groups, std::vector<any> all) {
  if (groups == 1 || groups == experts) { all.resize(1); }
  return all;
}

void add_channel_merging(std::vector<plan>& all, int experts, bool ties) {
  using namespace braid;
  std::string const family = ties ? "channel merging, ties" : "channel merging, mean";
  // A group for each expert is lossless whatever the consensus.
  for (int groups = 1; groups <= (ties ? experts - 1 : experts); ++groups) {
    auto const list = similarities_for(
        experts, groups, {similarity::cosine{}, similarity::euclidean{}, similarity::balanced{}, similarity::sign{}});
    for (any const& s : list) {
      std::string const label = joined(k_name(groups), ties ? "ties" : "mean");
      all.push_back(merging(
          family, list.size() == 1 ? k_name(groups) : joined(k_name(groups), std::string(s.name)), label, origin::braid,
          [=](std::uint64_t seed, float) { return channel_merging(experts, groups, ties, s, seed); }));
    }
  }
}

/// All residual codes, by rising size.
/// @param sweeps  negative: as many as each code's default
std::vector<braid::residual::any> residual_codes(bool rank_one, int sweeps = -1) {
  using namespace braid;
  auto const with = [&](auto code) -> residual::any {
    code.rank_one = rank_one;
    if (sweeps >= 0) { code.sweeps = sweeps; }
    return code;
  };
  return {with(residual::sign_bits<1>{}), with(residual::trellis<1>{}), with(residual::ternary{}),
          with(residual::sign_bits<2>{}), with(residual::trellis<2>{}), with(residual::sign_bits<3>{})};
}

void add_residuals(std::vector<plan>& all, int experts) {
  using namespace braid;
  auto const codes = residual_codes(false);
  for (int groups = 1; groups <= 3 && groups < experts; ++groups) {
    for (auto const& code : codes) {
      auto const list = similarities_for(experts, groups, {similarity::cosine{}, similarity::balanced{}});
      for (any const& s : list) {
        std::string const short_name = k_name(groups) + " + " + std::string(code.name);
        all.push_back(merging("residuals", list.size() == 1 ? short_name : joined(short_name, std::string(s.name)),
                              short_name, origin::braid, [=](std::uint64_t seed, float) {
                                recipe r = channel_merging(experts, groups, false, s, seed);
                                r.residual = code;
                                return r;
                              }));
      }
    }
  }
}

/// One group with residuals whose scales are those of rows times those of columns.
void add_rank_one(std::vector<plan>& all, std::string const& family, std::string const& ending,
                  std::shared_ptr<moments const> const& column_weights) {
  for (bool const rank_one : {false, true}) {
    if (!rank_one && !column_weights) { continue; }
    for (auto const& code : residual_codes(rank_one)) {
      std::string const name = k_name(1) + " + " + std::string(code.name) + (rank_one ? ", rank one" : "");
      all.push_back(merging(family, name, name + ending, origin::braid, [=](std::uint64_t, float) {
        recipe r;
        r.residual = code;
        r.column_weights = column_weights;
        return r;
      }));
    }
  }
}

std::string bitdelta_name(bitdelta const& code) {
  return "BitDelta" + std::string(code.passes == 2 ? " twice" : "") + ", a scale a " + (code.row_scales ? "row" : "tensor");
}

constexpr bitdelta bitdeltas[] = {{1, false}, {1, true}, {2, false}, {2, true}};

/// Merges that are given a size, that of the whole checkpoint, instead of a number of groups; among the sizes are those of
/// BitDelta. They go through files: one price for all channels of all tensors is what a merge of single tensors in
/// memory doesn't see.
void budget_points(std::vector<plan>& all, zoo_tensors const& zoo,
                   std::shared_ptr<moments const> const& column_weights) {
  int const experts = static_cast<int>(zoo.experts());
  auto const whole = static_cast<double>(zoo.expert_bytes);
  double least = static_cast<double>(zoo.kept_bytes);  // and a row a channel
  for (auto const& t : zoo.merged) { least += 2.0 * static_cast<double>(t.rows * t.cols); }
  struct size {
    std::string name;
    double stored;
  };
  std::vector<size> sizes;
  for (int const percent : {15, 17, 20, 22, 25, 28, 30, 33, 36, 40, 50}) {
    sizes.push_back({"budget " + std::to_string(percent / 100.0).substr(0, 4), percent / 100.0});
  }
  for (bitdelta const& code : bitdeltas) {
    double bytes = static_cast<double>(zoo.kept_bytes);
    for (auto const& t : zoo.merged) { bytes += static_cast<double>(bytes_of(code, t.rows, t.cols, zoo.experts()).total()); }
    sizes.push_back({"budget as " + bitdelta_name(code), (bytes + 0.5) / whole});
  }
  for (bool const trellis : {false, true}) {
    for (auto const& [label, stored] : sizes) {
      // From what is possible to little more than two models.
      if (stored * whole < 1.02 * least || stored > 2.5 / experts) { continue; }
      std::string const name = label + (trellis ? ", trellis" : "");
      all.push_back(merging(column_weights ? "budgets, weighted" : "budgets", name,
                            name + (column_weights ? ", weighted" : ""), origin::braid,
                            [=, stored = stored](std::uint64_t seed, float) {
                              recipe r = channel_merging(experts, experts, false, braid::similarity::balanced{}, seed);
                              r.budget = stored;
                              r.trellis = trellis;
                              r.column_weights = column_weights;
                              return r;
                            }));
    }
  }
}

/// braid's codes for what BitDelta codes, each expert's delta from the base: what is left of braid's advantage is then
/// due to the shared row. A merge with lambda = 0 leaves the base, and without sweeps it stays that.
void add_coded_deltas(std::vector<plan>& all) {
  for (auto const& code : residual_codes(false, 0)) {
    std::string const name = "base + " + std::string(code.name);
    all.push_back(merging("base and coded deltas", name, name, origin::control, [code](std::uint64_t, float) {
      recipe r;
      r.residual = code;
      r.lambda = 0.0f;
      return r;
    }));
  }
}

void add_bitdelta(std::vector<plan>& all) {
  for (bitdelta const& code : bitdeltas) {
    plan p{"BitDelta, untrained", bitdelta_name(code), code.passes == 2 ? "BitDelta twice" : "BitDelta", origin::rival, false, {1.0f}, {}};
    p.measure = [code](bench& b, std::uint64_t, float) { return b.rebuilt(rebuilt_by(code, b.tensors())); };
    all.push_back(p);
  }
}

/// Whole tensors, merged in these groups by the policies of braid's own points.
outcome in_groups(bench& b, bool ties, std::vector<partition> const& partitions) {
  recipe one_group;
  one_group.prune = ties ? pruning::magnitude : pruning::none;
  one_group.elect_signs = ties;
  return b.rebuilt(merged_in_groups(merge_of(one_group), b.tensors(), partitions));
}

/// Each tensor has groups of its own.
void add_whole_tensors(std::vector<plan>& all, int experts, bool ties) {
  using namespace braid;
  for (int groups = 2; groups < experts; ++groups) {
    std::string const k = joined(k_name(groups), ties ? "ties" : "mean");
    for (any const& s : {any(similarity::cosine{}), any(similarity::balanced{})}) {
      plan p{"partition per tensor",
             joined(k, std::string(s.name)),
             joined(k, "per tensor"),
             origin::rival,
             false,
             {1.0f},
             {}};
      p.measure = [=](bench& b, std::uint64_t seed, float) {
        return in_groups(b, ties, partition_per_tensor(clustering_for(experts, seed), s, b.tensors(), groups));
      };
      all.push_back(p);
    }
  }
}

/// All tensors have the same groups: those that the whole deltas suggest, or random ones.
void add_whole_models(std::vector<plan>& all, int experts, bool ties) {
  using namespace braid;
  for (int groups = 2; groups < experts; ++groups) {
    std::string const k = joined(k_name(groups), ties ? "ties" : "mean");
    plan p{"partition of the model", "", joined(k, "whole"), origin::rival, false, {1.0f}, {}};
    for (any const& s : {any(similarity::cosine{}), any(similarity::balanced{})}) {
      p.name = joined(k, std::string(s.name));
      p.measure = [=](bench& b, std::uint64_t seed, float) {
        return in_groups(b, ties, partition_of_model(clustering_for(experts, seed), s, b.tensors(), groups));
      };
      all.push_back(p);
    }
    if (groups > 3) { continue; }
    p.name = joined(k, "random");
    p.label.clear();
    p.origin = origin::control;
    p.random = true;
    p.measure = [=](bench& b, std::uint64_t seed, float) {
      return in_groups(b, ties,
                       partition_of_model(cluster::random{.seed = seed}, similarity::cosine{}, b.tensors(), groups));
    };
    all.push_back(p);
  }
}

void add_random_rows(std::vector<plan>& all, int experts, bool ties) {
  for (int groups = 2; groups <= 3 && groups < experts; ++groups) {
    std::string const k = joined(k_name(groups), ties ? "ties" : "mean");
    plan p = merging("random rows", k, joined(k, "random"), origin::control, [=](std::uint64_t seed, float) {
      recipe r = channel_merging(experts, groups, ties, braid::similarity::cosine{}, seed);
      r.cluster = braid::cluster::random{.seed = seed};
      return r;
    });
    p.random = true;
    all.push_back(p);
  }
}

}  // namespace

std::vector<plan> frontier_plans(zoo_tensors const& zoo, std::shared_ptr<moments const> const& column_weights) {
  int const experts = static_cast<int>(zoo.experts());
  std::vector<plan> all;
  add_references(all);
  for (plan& p : single_model_plans(sweep)) { all.push_back(std::move(p)); }
  add_channel_merging(all, experts, false);
  add_channel_merging(all, experts, true);
  add_residuals(all, experts);
  add_rank_one(all, "residuals, rank one", "", nullptr);
  budget_points(all, zoo, nullptr);
  if (column_weights) {
    add_rank_one(all, "residuals, weighted", ", weighted", column_weights);
    budget_points(all, zoo, column_weights);
  }
  add_bitdelta(all);
  add_coded_deltas(all);
  for (bool const ties : {false, true}) { add_whole_tensors(all, experts, ties); }
  for (bool const ties : {false, true}) { add_whole_models(all, experts, ties); }
  for (bool const ties : {false, true}) { add_random_rows(all, experts, ties); }
  return all;
}

}  // namespace zoo
