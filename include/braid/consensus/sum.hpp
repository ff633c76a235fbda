#pragma once

#include <braid/core/concepts.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace consensus {

/// The sum of the members' deltas, added in the order of the experts' names. With lambda this is task arithmetic
/// inside a group (Ilharco et al., ICLR 2023, arXiv 2212.04089).
struct sum {
  static constexpr std::string_view name = "sum";

  BRAID_HD constexpr float operator()(float const* member, int n) const noexcept {
    float total = member[0];
    for (int i = 1; i < n; ++i) { total = total + member[i]; }
    return total;
  }

  /// The same for N members whose columns lie in the lanes of a vector type.
  template <int N, class V>
  BRAID_ALWAYS_INLINE void lanes(V const* member, V& out) const noexcept {
    out = member[0];
    BRAID_UNROLL
    for (int i = 1; i < N; ++i) { out = out + member[i]; }
  }

  /// The same for `count` columns at once; `member + i * stride` is member i. May overwrite the members.
  BRAID_ALWAYS_INLINE void combine(float* member, index_t stride, int n, int count, float* out) const noexcept {
    for (int c = 0; c < count; ++c) { out[c] = member[c]; }
    for (int i = 1; i < n; ++i) {
      float const* const row = member + i * stride;
      for (int c = 0; c < count; ++c) { out[c] = out[c] + row[c]; }
    }
  }
};
static_assert(consensus_policy<sum>);

}  // namespace consensus
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
