#pragma once

/// A block of channels as kernel arguments.

#include <braid/backend/cpu/method_blocks.hpp>
#include <braid/backend/cuda/element_inputs.cuh>
#include <braid/backend/cuda/random_words.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// How inputs are taken: all channels as one row where that makes no difference.
struct input_options {
  operand what = operand::values;
  bool check = false;
  bool by_row = false;
  tile_layout layout = tile_layout::together;
};

/// The kernel arguments of a block's inputs. `out` is null where nothing is written.
template <int Most>
element_inputs<Most> inputs_of(channel_block const& block, index_t cols, input_options const& o, std::byte const* out = nullptr) {
  element_inputs<Most> in{};
  in.count = static_cast<int>(block.experts.size());
  in.base = device_input(block.base);
  in.has_base = block.base.data != nullptr;
  in.deltas = o.what == operand::deltas;
  in.check = o.check;
  bool one_row = !o.by_row && block.rows > 0;
  bool whole = true;
  auto const look = [&](channel_rows const& rows) {
    if (rows.data == nullptr) { return; }
    index_t const packed = cols * static_cast<index_t>(size_of(rows.type));
    std::size_t const a = o.layout == tile_layout::spread ? tile_alignment<tile_layout::spread>(rows.type) : tile_alignment<tile_layout::together>(rows.type);
    one_row = one_row && (block.rows == 1 || rows.stride == packed);
    whole = whole && reinterpret_cast<std::uintptr_t>(rows.data) % a == 0;
  };
  look(block.base);
  for (std::size_t i = 0; i < block.experts.size(); ++i) {
    in.models[i] = device_input(block.experts[i]);
    look(block.experts[i]);
  }
  channel_rows written{out, block.out, cols * static_cast<index_t>(size_of(block.out)), nullptr};
  look(written);
  if (!one_row && block.rows > 1) {
    auto const steps = [&](channel_rows const& rows) {
      if (rows.data == nullptr) { return; }
      std::size_t const a = o.layout == tile_layout::spread ? tile_alignment<tile_layout::spread>(rows.type) : tile_alignment<tile_layout::together>(rows.type);
      whole = whole && rows.stride % static_cast<index_t>(a) == 0;
    };
    steps(block.base);
    for (auto const& e : block.experts) { steps(e); }
    steps(written);
  }
  in.whole = whole;
  in.rows = one_row ? 1 : block.rows;
  in.cols = one_row ? block.rows * cols : cols;
  in.first = block.first;
  in.channel_cols = cols;
  in.first_row = one_row ? 0 : block.first;
  in.first_col = one_row ? block.first * cols : 0;
  in.grouped = (block.first * cols) % random_group == 0 && in.cols % random_warp == 0;
  return in;
}

}  // namespace detail
BRAID_NAMESPACE_END
