#pragma once

#include <braid/core/sum_order.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// `sum_order::sum`, its bits, in loops that a compiler turns into SIMD.
template <class Term>
BRAID_ALWAYS_INLINE float row_sum(index_t cols, Term const& term) noexcept {
  float total = 0.0f;
  for (index_t first = 0; first < cols; first += sum_order::segment) {
    float lane[sum_order::lanes]{};
    index_t const last = first + sum_order::segment < cols ? first + sum_order::segment : cols;
    index_t c = first;
    for (; c + sum_order::lanes <= last; c += sum_order::lanes) {
      BRAID_VECTORISE
      for (int l = 0; l < sum_order::lanes; ++l) { lane[l] = lane[l] + term(c + l); }
    }
    for (int l = 0; c < last; ++c, ++l) { lane[l] = lane[l] + term(c); }
    total = total + sum_order::fold(lane);
  }
  return total;
}

/// The same with a weight a column, or null for all one; weight times term is rounded before it is added.
template <class Term>
BRAID_ALWAYS_INLINE float row_sum(float const* weight, index_t cols, Term const& term) noexcept {
  if (weight == nullptr) { return row_sum(cols, term); }
  return row_sum(cols, [&](index_t c) { return weight[c] * term(c); });
}

/// The sum of the weights.
BRAID_ALWAYS_INLINE float total_weight(float const* weight, index_t cols) noexcept {
  return weight == nullptr ? static_cast<float>(cols) : row_sum(cols, [&](index_t c) { return weight[c]; });
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
