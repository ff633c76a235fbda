#pragma once

/// Sums over the rows of a tensor in float64, in the order of the CPU. For any execution policy of Thrust.

#include <braid/core/types.hpp>

#include <thrust/iterator/counting_iterator.h>
#include <thrust/tabulate.h>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Rows that are added one after the other; the sums of such blocks are added in order.
inline constexpr index_t added_rows = 256;

struct sum_of_rows {
  float const* rows;  // [channels, sums]
  index_t channels;
  index_t sums;

  BRAID_HD double operator()(index_t i) const noexcept {
    constexpr int at_once = 16;  // loads in flight
    index_t const first = i / sums * added_rows;
    index_t const last = first + added_rows < channels ? first + added_rows : channels;
    float const* from = rows + first * sums + i % sums;
    double total = 0.0;
    index_t row = first;
    for (; row + at_once <= last; row += at_once, from += at_once * sums) {
      float x[at_once];
      for (int k = 0; k < at_once; ++k) { x[k] = from[k * sums]; }
      for (int k = 0; k < at_once; ++k) { total = total + static_cast<double>(x[k]); }
    }
    for (; row < last; ++row, from += sums) { total = total + static_cast<double>(*from); }
    return total;
  }
};

[[nodiscard]] constexpr index_t blocks_of_rows(index_t channels) noexcept { return (channels + added_rows - 1) / added_rows; }

/// out[block, sum] = the sum of a block's rows, from the first to the last.
/// @param rows [channels, sums]
template <class Policy>
void add_rows(Policy const& policy, float const* rows, index_t channels, index_t sums, double* out) {
  if (sums > 0) { thrust::tabulate(policy, out, out + blocks_of_rows(channels) * sums, sum_of_rows{rows, channels, sums}); }
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
