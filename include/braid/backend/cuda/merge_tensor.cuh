#pragma once

#include <braid/backend/cuda/grouped_tensor.cuh>
#include <braid/backend/cuda/merge_channels.cuh>

#include <algorithm>
#include <utility>

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
    be.to_host(&totals, static_cast<detail::merge_totals const*>(totals_there.data()), 1);
    be.synchronize();
    if (totals.first_bad != ~0ull) { detail::report_nonfinite(be, context, source, static_cast<index_t>(totals.first_bad)); }
    std::int32_t extra_rows = 0;
    access::place(out, be, label.data(), &extra_rows);
    be.synchronize();
    if (codes_anything(op.residual)) {
      access::pack_residuals(out, be, std::move(code), std::move(planes), coded.plane_bytes, std::move(scales), coded.scale_count, context.column);
    }
    access::close_gaps(out, be, extra_rows, most_extra);
    be.synchronize();  // other executors may read it from here on
    access::finish(out, extra_rows,
                   totals.compared == 0 ? 1.0
                                        : static_cast<double>(static_cast<std::int64_t>(totals.similarity)) / merged_block::similarity_unit /
                                              static_cast<double>(totals.compared));
  }
};

}  // namespace ops
BRAID_NAMESPACE_END
