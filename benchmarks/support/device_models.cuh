#pragma once

#include <braid/backend/channel_block.hpp>
#include <braid/backend/cuda.cuh>
#include <braid/core/philox.hpp>

#include <cstdint>
#include <vector>

namespace braid_bench {

/// Weights of a few hundredths and deltas a fiftieth of that, as fine-tuning leaves them: multiples of the weight's last bit.
struct fill_model {
  braid::bfloat16* to;
  std::uint64_t model;  // 0: the base
  float still = 0.0f;   // share of the elements that fine-tuning left as they are
  BRAID_HD static float bell(std::uint64_t stream, std::uint64_t i) {
    braid::philox_block const b = braid::philox4x32(1, i, stream);
    float sum = 0.0f;
    for (std::uint32_t const w : b.word) { sum += static_cast<float>(w) * 0x1p-32f - 0.5f; }
    return sum * 1.7f;
  }
  BRAID_HD void operator()(braid::index_t i) const {
    auto const at = static_cast<std::uint64_t>(i);
    braid::bfloat16 const base(0.02f * bell(0, at));
    bool const moves = model != 0 && !(static_cast<float>(braid::philox_element(2, model, at)) < 65536.0f * still);
    to[i] = moves ? braid::bfloat16(static_cast<float>(base) + 0.0004f * bell(model, at)) : base;
  }
};

/// A base and its experts in bfloat16, and where they lie.
struct model_set {
  std::vector<braid::device_buffer<braid::bfloat16>> models;  // the base first
  braid::tensor_channels source;

  model_set(braid::cuda const& be, braid::index_t rows, braid::index_t cols, int experts) {
    for (int m = 0; m <= experts; ++m) {
      models.push_back(be.make_buffer<braid::bfloat16>(static_cast<std::size_t>(rows * cols)));
      be.for_each(rows * cols, fill_model{models.back().data(), static_cast<std::uint64_t>(m)});
      braid::channel_rows const lies{reinterpret_cast<std::byte const*>(models.back().data()), braid::dtype::bf16, cols * 2};
      if (m == 0) {
        source.base = lies;
      } else {
        source.experts.push_back(lies);
      }
    }
    source.channels = rows;
    source.cols = cols;
    source.out = braid::dtype::bf16;
  }
};

}  // namespace braid_bench
