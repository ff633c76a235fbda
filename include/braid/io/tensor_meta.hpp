#pragma once

#include <braid/core/dtype.hpp>
#include <braid/core/types.hpp>

#include <cstdint>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// One tensor of a checkpoint: what it is and where its bytes are. Elements are little-endian, in row-major order.
struct tensor_meta {
  std::string name = {};
  dtype type = dtype::f32;
  std::vector<index_t> shape = {};  ///< empty: a scalar
  std::uint64_t offset = 0;         ///< first byte, counted from the start of the file
  std::uint64_t bytes = 0;          ///< exactly elements() * size_of(type)
  int file = 0;                     ///< number of the file in its checkpoint

  /// Product of the dimensions: 1 for a scalar. The reader has made sure that no product of some of them overflows.
  [[nodiscard]] index_t elements() const noexcept {
    index_t n = 1;
    for (index_t const d : shape) { n *= d; }
    return n;
  }
};

BRAID_NAMESPACE_END
