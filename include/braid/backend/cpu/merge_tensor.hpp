#pragma once

#include <braid/backend/cpu.hpp>
#include <braid/method/grouped_tensor.hpp>

#include <tbb/enumerable_thread_specific.h>

#include <algorithm>
#include <numeric>

BRAID_NAMESPACE_BEGIN
namespace ops {

/// Channel Merging of a whole tensor in memory: blocks of channels on all threads, their rows put together in order.
/// Returns when done. @throws detail::nonfinite_found
template <>
struct merge_tensor<cpu> {
  template <class Operation, class T>
  void operator()(cpu const& be, Operation const& op, tensor_context const& context, tensor_channels const& source,
                  std::vector<std::string> const& names, grouped_tensor<T>& out) const {
    auto const experts = source.experts.size();
    auto const most_extra = static_cast<index_t>(std::min<std::size_t>(static_cast<std::size_t>(op.groups), experts)) - 1;
    auto const row_bytes = static_cast<std::size_t>(source.cols) * sizeof(T);
    using access = detail::grouped_tensor_access;
    std::byte* const pool = access::reshape(out, names, source.channels, source.cols, 1 + most_extra);
    std::byte* const extra = pool + static_cast<std::size_t>(source.channels) * row_bytes;
    std::uint8_t* const index = access::index(out);

    index_t const rows = detail::block_rows(source);
    index_t const blocks = (source.channels + rows - 1) / rows;
    std::vector<index_t> extra_rows(static_cast<std::size_t>(blocks));
    std::vector<std::int64_t> similarity(static_cast<std::size_t>(blocks));
    std::vector<index_t> compared(static_cast<std::size_t>(blocks));
    bool const codes = codes_anything(op.residual);
    std::vector<residual_block> residuals(codes ? static_cast<std::size_t>(blocks) : 0);
    struct local {
      detail::channel_workspace work;
      std::vector<std::byte> gathered;
      std::vector<std::uint8_t> label;
    };
    tbb::enumerable_thread_specific<local> locals;
    be.for_each(blocks, [&](index_t b) {
      local& mine = locals.local();
      index_t const first = b * rows;
      channel_block const block = source.block(first, std::min(rows, source.channels - first), mine.gathered);
      mine.label.resize(static_cast<std::size_t>(block.rows) * experts);
      merged_block merged;
      merged.group_zero = pool + static_cast<std::size_t>(first) * row_bytes;
      // Usually every channel has the full number of groups; then this is its place for good.
      merged.extra = extra + static_cast<std::size_t>(first * most_extra) * row_bytes;
      merged.label = mine.label.data();
      if (codes) { merged.residual = &residuals[static_cast<std::size_t>(b)]; }
      op(context, block, merged, mine.work);
      for (index_t r = 0; r < block.rows; ++r) {
        for (std::size_t e = 0; e < experts; ++e) {
          index[e * static_cast<std::size_t>(source.channels) + static_cast<std::size_t>(first + r)] =
              mine.label[static_cast<std::size_t>(r) * experts + e];
        }
      }
      auto const slot = static_cast<std::size_t>(b);
      extra_rows[slot] = merged.extra_rows;
      similarity[slot] = merged.similarity;
      compared[slot] = merged.compared;
    });
    // Close the gaps that channels with fewer distinct rows have left.
    index_t placed = 0;
    for (index_t b = 0; b < blocks; ++b) {
      index_t const count = extra_rows[static_cast<std::size_t>(b)];
      index_t const from = b * rows * most_extra;
      if (from != placed) {
        std::memmove(extra + static_cast<std::size_t>(placed) * row_bytes, extra + static_cast<std::size_t>(from) * row_bytes,
                     static_cast<std::size_t>(count) * row_bytes);
      }
      placed += count;
    }
    access::place_residuals(out, residuals, context.column);
    auto const total = std::accumulate(compared.begin(), compared.end(), index_t{0});
    auto const sum = static_cast<double>(std::accumulate(similarity.begin(), similarity.end(), std::int64_t{0}));
    access::finish(out, placed, total == 0 ? 1.0 : sum / merged_block::similarity_unit / static_cast<double>(total));
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
