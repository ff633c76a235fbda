#pragma once

/// The first element that is NaN or infinite: a reduction. For any execution policy of Thrust.

#include <braid/core/float_types.hpp>
#include <braid/core/types.hpp>

#include <thrust/functional.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/transform_reduce.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The number of an element that isn't finite, else `none`.
template <class T>
struct nonfinite_place {
  T const* data;
  index_t none;

  BRAID_HD index_t operator()(index_t i) const noexcept {
    return (bits_as<std::uint32_t>(static_cast<float>(data[i])) & 0x7F800000u) == 0x7F800000u ? i : none;
  }
};

/// @return the lowest number of an element that is NaN or infinite; `n` where all are finite. Waits
template <class Policy, class T>
index_t first_nonfinite(Policy const& policy, T const* data, index_t n) {
  thrust::counting_iterator<index_t> const first(0);
  return thrust::transform_reduce(policy, first, first + n, nonfinite_place<T>{data, n}, n, thrust::minimum<index_t>());
}

}  // namespace detail
BRAID_NAMESPACE_END
