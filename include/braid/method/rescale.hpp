#pragma once

#include <braid/config.hpp>

BRAID_NAMESPACE_BEGIN

/// How a pruned delta is scaled up again.
enum class rescale : unsigned char {
  none,
  inverse_keep,  ///< each survivor divided by its own probability of being kept: DARE and DELLA as published
  l1             ///< the whole delta, so that the sum of its magnitudes is as before, one factor a tensor: mergekit
};

BRAID_NAMESPACE_END
