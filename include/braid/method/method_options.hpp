#pragma once

#include <braid/method/method_parameters.hpp>
#include <braid/method/rescale.hpp>

#include <cstdint>

BRAID_NAMESPACE_BEGIN

/// Over what TIES ranks magnitudes when it trims.
enum class trim_scope : unsigned char {
  row,     ///< each channel by itself
  tensor,  ///< each tensor by itself: mergekit, and the authors for large models
  model    ///< all tensors together, as published; see `global_magnitude_cuts`
};

/// What a method that is made by name may be told besides its parameters.
struct method_options {
  method_style style = method_style::mergekit;
  std::uint64_t seed = 0;               ///< of random pruning
  std::optional<rescale> rescaling{};   ///< what `rescale: true` means; unset: the style's form
  std::optional<trim_scope> scope{};    ///< of ties; unset: the style's form
};

BRAID_NAMESPACE_END
