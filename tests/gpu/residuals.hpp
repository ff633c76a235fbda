#pragma once

/// Channel merges that code residuals, or keep to a budget, on one backend: compiled once for braid::cpu and once for
/// braid::cuda, and compared bit for bit.

#include "gpu/pipelines.hpp"

#include <braid/residual/palette.hpp>

namespace braid_test {

/// How residuals are coded.
struct residual_recipe {
  braid::residual_code code = braid::residual_code::none;  ///< none: a budget chooses
  braid::residual_code_list allowed{braid::residual_code::sign1, braid::residual_code::ternary, braid::residual_code::sign2};
  int sweeps = 2;
  bool rank_one = false;
  double budget = 0.0;
  braid::error_weighting weighting = braid::error_weighting::even;
};

/// Everything that a merged tensor says, residuals included.
struct coded_family {
  merged_family merged;
  std::vector<std::byte> planes;
  std::vector<std::uint16_t> scales;
  std::vector<std::uint16_t> column;
  std::vector<int> code;  // [channels, experts]
  std::size_t stored_bytes = 0;

  friend bool operator==(coded_family const&, coded_family const&) = default;
};

coded_family code_on_cpu(recipe const& r, residual_recipe const& residual, family const& f, std::vector<float> const& column_weight = {});
coded_family code_on_device(recipe const& r, residual_recipe const& residual, family const& f, std::vector<float> const& column_weight = {});

/// Calls `f(method)`: DARE and the sum where something is pruned, else the mean.
template <class Backend, class F>
auto with_coding_method(recipe const& r, residual_recipe const& coding, F const& f) {
  using method = braid::channel_merge<Backend, braid::prune::dare, braid::similarity::any, braid::cluster::any, braid::consensus::mean,
                                      braid::residual::palette>;
  typename method::options o;
  o.prune = {.density = r.density, .seed = r.seed};
  o.similarity = similarity_of(r);
  o.cluster = cluster_of(r);
  o.groups = r.groups;
  o.lambda = r.lambda;
  o.allow_nonfinite = r.allow_nonfinite;
  o.residual.code = coding.code;
  o.residual.allowed = coding.allowed;
  o.residual.rank_one = coding.rank_one;
  o.residual.set_sweeps(coding.sweeps);
  o.budget = {.stored = coding.budget, .weighting = coding.weighting};
  return f(method(o));
}

template <class T>
coded_family describe_coded(braid::grouped_tensor<T> const& merged) {
  coded_family out;
  out.merged = describe(merged);
  out.planes.assign(merged.planes().begin(), merged.planes().end());
  for (braid::bfloat16 const s : merged.scales()) { out.scales.push_back(s.bits); }
  for (braid::bfloat16 const s : merged.column_scales()) { out.column.push_back(s.bits); }
  for (index_t c = 0; c < merged.channels(); ++c) {
    for (std::size_t e = 0; e < merged.experts().size(); ++e) { out.code.push_back(static_cast<int>(merged.residual(e, c))); }
  }
  out.stored_bytes = merged.stored_bytes();
  return out;
}

}  // namespace braid_test
