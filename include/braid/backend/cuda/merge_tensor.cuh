#pragma once

#include <braid/backend/cuda/grouped_tensor.cuh>
#include <braid/backend/cuda/merge_channels.cuh>

#include <algorithm>

BRAID_NAMESPACE_BEGIN
namespace ops {

/// Channel Merging of a whole tensor in device memory. Returns when done. @throws detail::nonfinite_found
template <>
struct merge_tensor<cuda> {
  template <class Operation, class T>
  void operator()(cuda const& be, Operation const& op, tensor_context const& context, tensor_channels const& source,
                  std::vector<std::string> const& names, grouped_tensor<T, memory_space::device>& out) const {
    detail::current_device const current(be.device());
    std::size_t const experts = source.experts.size();
    auto const channels = static_cast<std::size_t>(source.channels);
    auto const most_extra = static_cast<index_t>(std::min<std::size_t>(static_cast<std::size_t>(op.groups), experts)) - 1;
    using access = detail::device_tensor_access;
    T* const pool = access::reshape(out, be, names, source.channels, source.cols, 1 + most_extra);
    T* const extra = pool == nullptr ? nullptr : pool + source.channels * source.cols;

    device_buffer<std::uint8_t> const label = be.make_buffer<std::uint8_t>(channels * experts);
    device_buffer<detail::merge_totals> const totals_there = be.make_buffer<detail::merge_totals>(1);
    detail::merge_totals totals;
    be.to_device(totals_there.data(), &totals, 1);
    device_buffer<std::byte> planes;
    device_buffer<bfloat16> scales;
    device_buffer<residual_code> code;
    detail::device_residuals coded = detail::residual_places(op.residual, source.cols);
    if (codes_anything(op.residual)) {
      planes = be.make_buffer<std::byte>(channels * experts * static_cast<std::size_t>(coded.plane_bytes));
      scales = be.make_buffer<bfloat16>(channels * experts * static_cast<std::size_t>(coded.scale_count));
      code = be.make_buffer<residual_code>(channels * experts);
      coded.planes = planes.data();
      coded.scales = scales.data();
      coded.code = code.data();
    }
    op.enqueue(be, context, source,
               {reinterpret_cast<std::byte*>(pool), reinterpret_cast<std::byte*>(extra), most_extra, label.data(), totals_there.data()}, coded);
    std::vector<std::uint8_t> labels(channels * experts);
    be.to_host(labels.data(), static_cast<std::uint8_t const*>(label.data()), labels.size());
    be.to_host(&totals, static_cast<detail::merge_totals const*>(totals_there.data()), 1);
    be.synchronize();
    if (totals.first_bad != ~0ull) { detail::report_nonfinite(be, context, source, static_cast<index_t>(totals.first_bad)); }

    std::uint8_t* const index = access::index(out);
    std::vector<std::int32_t> placed;  // slots of the further groups' rows that there are, in order
    for (std::size_t c = 0; c < channels; ++c) {
      std::uint8_t used = 0;
      for (std::size_t e = 0; e < experts; ++e) {
        std::uint8_t const g = labels[c * experts + e];
        index[e * channels + c] = g;
        used = std::max(used, g);
      }
      for (index_t g = 0; g < used; ++g) { placed.push_back(static_cast<std::int32_t>(static_cast<index_t>(c) * most_extra + g)); }
    }
    if (codes_anything(op.residual)) { place_residuals(be, coded, detail::download(be, code), context.column, source.cols, out); }
    if (placed.size() != channels * static_cast<std::size_t>(most_extra)) { close_gaps(be, extra, placed, source.cols); }
    access::finish(out, static_cast<index_t>(placed.size()),
                   totals.compared == 0 ? 1.0
                                        : static_cast<double>(static_cast<std::int64_t>(totals.similarity)) / merged_block::similarity_unit /
                                              static_cast<double>(totals.compared));
  }

 private:
  /// Residuals from a place for every row to one behind the other.
  template <class T>
  static void place_residuals(cuda const& be, detail::device_residuals const& coded, std::vector<residual_code> code, std::vector<bfloat16> const& column,
                              index_t cols, grouped_tensor<T, memory_space::device>& out) {
    std::vector<std::int64_t> slot;
    std::vector<std::int64_t> plane{0};
    std::vector<std::int64_t> scale{0};
    for (std::size_t i = 0; i < code.size(); ++i) {
      if (code[i] == residual_code::none) { continue; }
      slot.push_back(static_cast<std::int64_t>(i));
      plane.push_back(plane.back() + residual_bytes(code[i], cols));
      scale.push_back(scale.back() + residual_scales(code[i]) * static_cast<std::int64_t>(sizeof(bfloat16)));
    }
    auto planes = be.make_buffer<std::byte>(static_cast<std::size_t>(plane.back()));
    auto scales = be.make_buffer<bfloat16>(static_cast<std::size_t>(scale.back()) / sizeof(bfloat16));
    auto const slot_there = detail::upload(be, slot);
    auto const plane_there = detail::upload(be, plane);
    auto const scale_there = detail::upload(be, scale);
    auto const rows = static_cast<index_t>(slot.size());
    be.for_each(rows * coded.plane_bytes, detail::gather_residuals{coded.planes, coded.plane_bytes, slot_there.data(), plane_there.data(), planes.data()});
    index_t const of_scales = coded.scale_count * static_cast<index_t>(sizeof(bfloat16));
    be.for_each(rows * of_scales, detail::gather_residuals{reinterpret_cast<std::byte const*>(coded.scales), of_scales, slot_there.data(), scale_there.data(),
                                                          reinterpret_cast<std::byte*>(scales.data())});
    be.synchronize();
    detail::device_tensor_access::place_residuals(out, std::move(code), std::move(planes), std::move(scales), column);
  }

  /// Moves rows together that channels with fewer groups have left apart.
  template <class T>
  static void close_gaps(cuda const& be, T* rows, std::vector<std::int32_t> const& placed, index_t cols) {
    std::size_t done = 0;  // rows that are in their place already
    while (done < placed.size() && static_cast<std::size_t>(placed[done]) == done) { ++done; }
    std::size_t const moved = placed.size() - done;
    if (moved == 0 || cols == 0) { return; }
    device_buffer<std::int32_t> const from = be.make_buffer<std::int32_t>(moved);
    device_buffer<T> const together = be.make_buffer<T>(moved * static_cast<std::size_t>(cols));
    be.to_device(from.data(), placed.data() + done, moved);
    be.for_each(static_cast<index_t>(moved) * cols, detail::gather_rows<T>{rows, from.data(), together.data(), cols, cols});
    detail::check_cuda(cudaMemcpyAsync(rows + static_cast<index_t>(done) * cols, together.data(), together.size() * sizeof(T),
                                       cudaMemcpyDeviceToDevice, be.stream()),
                       "copying");
    be.synchronize();
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
