#pragma once

#include <braid/backend/cuda.cuh>
#include <braid/core/philox.hpp>

#include <cstdint>

namespace braid_bench {

/// Weights of a few hundredths and deltas a fiftieth of that, as fine-tuning leaves them.
struct fill_model {
  braid::bfloat16* to;
  std::uint64_t model;  // 0: the base
  BRAID_HD static float bell(std::uint64_t stream, std::uint64_t i) {
    braid::philox_block const b = braid::philox4x32(1, i, stream);
    float sum = 0.0f;
    for (std::uint32_t const w : b.word) { sum += static_cast<float>(w) * 0x1p-32f - 0.5f; }
    return sum * 1.7f;
  }
  BRAID_HD void operator()(braid::index_t i) const {
    auto const at = static_cast<std::uint64_t>(i);
    braid::bfloat16 const base(0.02f * bell(0, at));
    to[i] = model == 0 ? base : braid::bfloat16(static_cast<float>(base) + 0.0004f * bell(model, at));
  }
};

}  // namespace braid_bench
