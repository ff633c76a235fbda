#pragma once

/// Where equals lie in a sorted list.

#include <braid/config.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The first and the last place, added, of those that equal place `i` of `keys[0 .. n)`, which rise: twice the mean of the ranks
/// that they take together. Fast where few are equal.
template <class Key, class Index>
BRAID_HD Index twice_mean_place(Key const* keys, Index n, Index i) noexcept {
  Key const key = keys[i];
  Index first = i;
  if (i > 0 && keys[i - 1] == key) {
    Index low = 0;
    first = i - 1;
    while (low < first) {
      Index const middle = (low + first) / 2;
      if (keys[middle] < key) {
        low = middle + 1;
      } else {
        first = middle;
      }
    }
  }
  Index last = i;
  if (i + 1 < n && keys[i + 1] == key) {
    Index high = n - 1;
    last = i + 1;
    while (last < high) {
      Index const middle = (last + high + 1) / 2;
      if (key < keys[middle]) {
        high = middle - 1;
      } else {
        last = middle;
      }
    }
  }
  return first + last;
}

}  // namespace detail
BRAID_NAMESPACE_END
