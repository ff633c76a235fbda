#pragma once

#include <braid/consensus/sum.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace consensus {

/// The arithmetic mean of the members' deltas: a uniform soup of the group (Wortsman et al., ICML 2022,
/// arXiv 2203.05482). The sum in name order, divided by the number of members.
struct mean {
  static constexpr std::string_view name = "mean";

  BRAID_HD constexpr float operator()(float const* member, int n) const noexcept {
    return sum{}(member, n) / static_cast<float>(n);
  }

  template <int N, class V>
  BRAID_ALWAYS_INLINE void lanes(V const* member, V& out) const noexcept {
    sum{}.lanes<N>(member, out);
    out = out / static_cast<float>(N);
  }

  BRAID_ALWAYS_INLINE void combine(float* member, index_t stride, int n, int count, float* out) const noexcept {
    sum{}.combine(member, stride, n, count, out);
    float const size = static_cast<float>(n);
    for (int c = 0; c < count; ++c) { out[c] = out[c] / size; }
  }
};
static_assert(consensus_policy<mean>);

}  // namespace consensus
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
