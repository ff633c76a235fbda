#pragma once

#include <braid/similarity/cosine.hpp>

BRAID_NAMESPACE_BEGIN
namespace similarity {

/// The cosine of the deltas' sign vectors (-1, 0, +1): how often two experts move a weight the same way, whatever the
/// distance. Its Gram matrix is a count, hence exact.
struct sign : cosine {
  static constexpr std::string_view name = "sign";
  static constexpr gram_operand operand = gram_operand::signs;
};
static_assert(similarity_policy<sign>);

}  // namespace similarity
BRAID_NAMESPACE_END
