#pragma once

#include <braid/core/types.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

/// The one order of sums. A sum over the columns of a row (a dot product, a squared length) is computed in float32 as
///
///   1. segments of 512 columns, from the left;
///   2. in a segment, 16 lanes: lane l adds the terms of columns l, l + 16, l + 32, ... in that order, from +0;
///   3. the lanes fold in a fixed tree: l with l + 8, then l + 4, l + 2, l + 1;
///   4. the segments' sums are added from the left, from +0.
///
/// Products are rounded before they are added. A row that ends inside a segment counts as filled with zeros. Every
/// backend keeps this order, so results don't depend on instruction set, threads, tiles or device.
namespace sum_order {

inline constexpr int lanes = 16;
inline constexpr int segment = 512;

/// Step 3: the sum of 16 lanes.
BRAID_HD constexpr float fold(float const* lane) noexcept {
  float level[lanes]{};
  for (int l = 0; l < lanes; ++l) { level[l] = lane[l]; }
  for (int width = lanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) { level[l] = level[l] + level[l + width]; }
  }
  return level[0];
}

/// The whole order, plainly: the sum of `term(c)` for columns 0 <= c < cols. The reference for every kernel.
template <class Term>
BRAID_HD constexpr float sum(index_t cols, Term const& term) {
  float total = 0.0f;
  for (index_t first = 0; first < cols; first += segment) {
    float lane[lanes]{};
    index_t const last = first + segment < cols ? first + segment : cols;
    for (index_t c = first; c < last; ++c) {
      int const l = static_cast<int>((c - first) % lanes);
      lane[l] = lane[l] + term(c);
    }
    total = total + fold(lane);
  }
  return total;
}

}  // namespace sum_order

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
