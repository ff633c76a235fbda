#pragma once

#include <braid/io/checkpoint.hpp>

namespace program {

/// How two tensors of one shape differ.
struct tensor_difference {
  braid::index_t differing = 0;  ///< elements: in bits, or in value where the types differ
  braid::index_t at = -1;        ///< position of the largest |a - b|, the first of equal ones; -1: no element differs
  double a = 0.0;                ///< values there
  double b = 0.0;
  double largest = 0.0;          ///< |a - b|, in float64; infinity where one of them isn't a number

  /// What lies in `other` counts as well. The order in which parts are added changes nothing.
  void add(tensor_difference const& other);
};

/// Compares two tensors of equal shape on all threads. Memory is bounded: pages that were read are given back.
[[nodiscard]] tensor_difference compare(braid::checkpoint const& a, braid::tensor_meta const& in_a,
                                        braid::checkpoint const& b, braid::tensor_meta const& in_b);

}  // namespace program
