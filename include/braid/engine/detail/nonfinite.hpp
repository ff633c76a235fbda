#pragma once

#include <braid/backend/cpu/channel_workspace.hpp>
#include <braid/engine/detail/block_stream.hpp>
#include <braid/engine/merge_plan.hpp>

#include <string>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Whether finite inputs may have become infinite or NaN in the type of the result.
inline bool may_overflow(dtype t) noexcept { return t == dtype::f16 || t == dtype::f8_e4m3 || t == dtype::f8_e5m2; }

/// Looks for what didn't fit, in a block's rows as they are stored.
/// @throws value_error naming the tensor and the block
inline void check_results(planned_tensor const& p, block_slot const& s, std::size_t zero_rows, std::size_t extra_rows,
                          std::size_t row_bytes, channel_workspace& work) {
  try {
    for (std::size_t r = 0; r < zero_rows; ++r) {
      check_finite_row(s.group_zero.data() + r * row_bytes, p.out, p.cols, -1, s.first, work);
    }
    for (std::size_t r = 0; r < extra_rows; ++r) {
      check_finite_row(s.extra.data() + r * row_bytes, p.out, p.cols, -1, s.first, work);
    }
  } catch (nonfinite_found const&) {
    throw value_error("tensor " + in_quotes(p.name) + " doesn't fit into " + std::string(name_of(p.out)) + " from channel " +
                      std::to_string(s.first) + " on: a result is too large; choose another type (--dtype bf16) or a smaller lambda");
  }
}

/// A residual saturates, so rows that don't fit into the type of the result are looked for in the inputs.
/// @throws value_error naming the tensor and the block
inline void check_inputs_fit(planned_tensor const& p, channel_block const& block, channel_workspace& work) {
  std::vector<std::byte> row(static_cast<std::size_t>(p.cols) * size_of(p.out));
  try {
    for (auto const& e : block.experts) {
      if (e.type == p.out) { continue; }
      for (index_t r = 0; r < block.rows; ++r) {
        convert(e.type, e.row(r), p.out, row.data(), p.cols);
        check_finite_row(row.data(), p.out, p.cols, -1, block.first + r, work);
      }
    }
  } catch (nonfinite_found const& found) {
    throw value_error("tensor " + in_quotes(p.name) + " doesn't fit into " + std::string(name_of(p.out)) + " from channel " +
                      std::to_string(found.where.channel) + " on: an expert's number is too large; choose another type (--dtype bf16)");
  }
}

/// One line about a NaN or an infinity in an input.
/// @param who  "the base", or "expert 'NAME'"
inline std::string nonfinite_text(checkpoint const& model, tensor_meta const& t, int axis, std::string const& who,
                                  nonfinite_location const& at) {
  channel_layout const layout(t.shape, axis);
  index_t rest = layout.offset(at.channel) + at.col * layout.stride;
  std::vector<index_t> position(t.shape.size());
  for (std::size_t d = position.size(); d-- > 0;) {
    position[d] = rest % t.shape[d];
    rest /= t.shape[d];
  }
  return model.file_of(t).string() + ": tensor " + in_quotes(t.name) + " of " + who + " has " + describe_nonfinite(at.value) +
         " at " + shape_text(position) + "; repair the checkpoint, leave it out, or allow it (--allow nonfinite)";
}

}  // namespace detail
BRAID_NAMESPACE_END
