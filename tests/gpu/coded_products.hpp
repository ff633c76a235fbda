#pragma once

/// Products by rows of every type and code, on the CPU and on the device.

#include "support/coded_rows.hpp"

namespace braid_test {

/// What is multiplied, and by which vectors.
struct coded_case {
  coded_rows rows;
  std::vector<std::size_t> expert;  ///< of each vector
  std::vector<float> x;             ///< [batch, cols], numbers that bf16 has
};

/// [batch, channels] in the fixed order.
std::vector<float> coded_products_on_device(coded_case const& c);
/// The same from a vector of bf16, for one vector and rows of bf16.
std::vector<float> narrow_products_on_device(coded_case const& c);
/// In any order.
std::vector<float> coded_products_on_tensor_cores(coded_case const& c);

}  // namespace braid_test
