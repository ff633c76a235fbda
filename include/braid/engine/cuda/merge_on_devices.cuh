#pragma once

/// Channel Merging of checkpoints on devices: `run` with a `channel_merge<cuda, ...>`.

#include <braid/backend/cuda/merge_channels.cuh>
#include <braid/engine/cuda/resident_tensor.cuh>
#include <braid/engine/detail/tensor_merger.hpp>

#include <algorithm>
#include <memory>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Residuals of `count` rows of experts, a place each, to where they follow each other.
inline void append_residuals(device_residuals const& places, index_t cols, std::byte const* planes, std::byte const* scales, std::byte const* codes,
                             std::size_t count, residual_block& to) {
  for (std::size_t i = 0; i < count; ++i) {
    auto const code = static_cast<residual_code>(codes[i]);
    to.code.push_back(code);
    std::byte const* const plane = planes + i * static_cast<std::size_t>(places.plane_bytes);
    to.planes.insert(to.planes.end(), plane, plane + residual_bytes(code, cols));
    auto const* const scale = reinterpret_cast<bfloat16 const*>(scales) + i * static_cast<std::size_t>(places.scale_count);
    to.scales.insert(to.scales.end(), scale, scale + residual_scales(code));
  }
}

/// Merges blocks on devices. A tensor that has to be measured before lies on the device meanwhile, if there is one and its
/// memory is enough, and blocks that go to other devices come from the host; else the host measures, as it does under a budget.
/// Methods with residual policies of another's than braid's are the host's alone.
template <class Method>
class device_merger final : public tensor_merger {
 public:
  device_merger(Method const& method, cuda const& be, cpu const& host, device_choices const& choices)
      : method_(method), be_(be), host_(host), on_host_(method.template with<cpu>()), host_merger_(on_host_, host), choices_(choices) {
    if constexpr (fused) { lanes_ = std::make_unique<device_lanes>(choices.devices, choices.lanes); }
  }

  [[nodiscard]] int groups() const override { return host_merger_.groups(); }
  [[nodiscard]] bool allow_nonfinite() const override { return host_merger_.allow_nonfinite(); }
  [[nodiscard]] std::vector<residual_code> residuals() const override { return host_merger_.residuals(); }
  [[nodiscard]] bool column_scales() const override { return host_merger_.column_scales(); }
  [[nodiscard]] storage_budget budget() const override { return host_merger_.budget(); }
  [[nodiscard]] measured_tensor measure(std::string_view tensor, std::vector<std::string> const& names, tensor_channels const& source,
                                        cluster::budget_histogram& curves) const override {
    return host_merger_.measure(tensor, names, source, curves);
  }
  [[nodiscard]] tensor_context prepare(std::string_view tensor, std::vector<std::string> const& names, tensor_channels const& source,
                                       measured_tensor const* measured) const override {
    resident_.reset();
    if constexpr (fused) {
      bool const measures = measured == nullptr && lanes_ != nullptr && method_.measures_tensors(names.size()) && source.channels > 0 && source.cols > 0;
      if (measures && may_be_resident(choices_, be_, source)) {
        resident_ = std::make_unique<resident_tensor>(be_, host_, *lanes_, source, block_rows(source));
        return method_.prepare(be_, tensor, names, resident_->there(source, 0, source.channels));
      }
    }
    return host_merger_.prepare(tensor, names, source, measured);
  }

  [[nodiscard]] block_memory const& memory() const override {
    if (lanes_ == nullptr) { return host_memory(); }
    return pinned_;
  }

  [[nodiscard]] index_t block_rows(tensor_channels const& source) const override {
    if (lanes_ == nullptr) { return host_merger_.block_rows(source); }
    std::size_t row = size_of(source.base.type);
    for (auto const& e : source.experts) { row += size_of(e.type); }
    row += rows_out(source.experts.size()) * size_of(source.out);
    row *= static_cast<std::size_t>(source.cols);
    device_residuals const coded = residual_places(method_.settings().residual, source.cols);
    row += source.experts.size() * static_cast<std::size_t>(coded.plane_bytes);
    std::size_t const rows = row == 0 ? 1 : choices_.block_bytes / row;
    return std::clamp<index_t>(static_cast<index_t>(rows), 1, std::max<index_t>(source.channels, 1));
  }

  void merge(tensor_context const& context, channel_block const& block, merged_block& out, channel_workspace& work) const override {
    if constexpr (fused) {
      if (lanes_ != nullptr && block.rows > 0 && context.cols > 0) {
        merge_on_device(context, block, out);
        return;
      }
    }
    host_merger_.merge(context, block, out, work);
  }

 private:
  static constexpr bool fused = coded_on_device<typename Method::residual_type>;

  [[nodiscard]] std::size_t rows_out(std::size_t experts) const {
    return std::min(static_cast<std::size_t>(method_.settings().groups), experts);
  }

  void merge_on_device(tensor_context const& context, channel_block const& block, merged_block& out) const {
    auto const rows = static_cast<std::size_t>(block.rows);
    std::size_t const experts = block.experts.size();
    std::size_t const row_bytes = static_cast<std::size_t>(context.cols) * size_of(block.out);
    std::size_t const most_extra = rows_out(experts) - 1;

    tensor_channels source;
    source.channels = block.rows;
    source.first_channel = block.first;
    source.cols = context.cols;
    source.out = block.out;
    source.base = block.base;
    source.experts = block.experts;
    device_lanes::taken const taken(*lanes_);
    device_lane& lane = *taken;
    cuda const& be = lane.be;
    bool const is_there = resident_ != nullptr && be.device() == be_.device();
    packed_tensor const packed(source);
    std::size_t const up = is_there ? 0 : packed.bytes;
    memory_layout small;  // behind the inputs
    std::size_t const totals_at = up + small.place(sizeof(merge_totals));
    std::size_t const label_at = up + small.place(rows * experts);
    device_residuals coded = residual_places(method_.settings().residual, context.cols);
    std::size_t const planes_at = up + small.place(rows * experts * static_cast<std::size_t>(coded.plane_bytes));
    std::size_t const scales_at = up + small.place(rows * experts * static_cast<std::size_t>(coded.scale_count) * sizeof(bfloat16));
    std::size_t const code_at = up + small.place(coded.scale_count == 0 ? 0 : rows * experts);
    memory_layout result;
    std::size_t const zero_at = result.place(rows * row_bytes);
    std::size_t const extra_at = result.place(rows * most_extra * row_bytes);

    lane.fit(up + small.size(), result.size());
    if (is_there) {
      source = resident_->there(source, block.first, block.rows);
    } else {
      for (std::size_t m = 0; m <= experts; ++m) {
        channel_rows& model = m == 0 ? source.base : source.experts[m - 1];
        stage_rows(model, block.rows, packed_tensor::row_bytes(source, model), lane.here.data() + packed.at[m]);
        model = {lane.inputs.data() + packed.at[m], model.type, static_cast<index_t>(packed_tensor::row_bytes(source, model))};
      }
    }
    merge_totals totals;
    std::memcpy(lane.here.data() + totals_at, &totals, sizeof totals);
    be.to_device(lane.inputs.data(), static_cast<std::byte const*>(lane.here.data()), label_at);
    coded.planes = lane.inputs.data() + planes_at;
    coded.scales = reinterpret_cast<bfloat16*>(lane.inputs.data() + scales_at);
    coded.code = reinterpret_cast<residual_code*>(lane.inputs.data() + code_at);
    method_.block_operation().enqueue(be, context, source,
                                      {lane.results.data() + zero_at, most_extra == 0 ? nullptr : lane.results.data() + extra_at,
                                       static_cast<index_t>(most_extra), reinterpret_cast<std::uint8_t*>(lane.inputs.data() + label_at),
                                       reinterpret_cast<merge_totals*>(lane.inputs.data() + totals_at)},
                                      coded);
    be.to_host(out.group_zero, static_cast<std::byte const*>(lane.results.data() + zero_at), rows * row_bytes);
    be.to_host(out.extra, static_cast<std::byte const*>(lane.results.data() + extra_at), rows * most_extra * row_bytes);
    be.to_host(lane.here.data() + totals_at, static_cast<std::byte const*>(lane.inputs.data() + totals_at),
               up + small.size() - totals_at);
    be.synchronize();

    std::memcpy(&totals, lane.here.data() + totals_at, sizeof totals);
    if (totals.first_bad != ~0ull) {
      try {
        report_nonfinite(be, context, source, static_cast<index_t>(totals.first_bad));
      } catch (nonfinite_found& found) {
        found.where.channel += block.first;
        throw;
      }
    }
    std::memcpy(out.label, lane.here.data() + label_at, rows * experts);
    for (std::size_t r = 0; r < rows; ++r) {
      std::uint8_t const* const label = out.label + r * experts;
      std::size_t const used = *std::max_element(label, label + experts);
      std::byte const* const from = out.extra + r * most_extra * row_bytes;
      std::byte* const to = out.extra + static_cast<std::size_t>(out.extra_rows) * row_bytes;
      if (from != to) { std::memmove(to, from, used * row_bytes); }
      out.extra_rows += static_cast<index_t>(used);
    }
    if (coded.scale_count > 0) {
      append_residuals(coded, context.cols, lane.here.data() + planes_at, lane.here.data() + scales_at, lane.here.data() + code_at, rows * experts, *out.residual);
    }
    out.similarity += static_cast<std::int64_t>(totals.similarity);
    out.compared += static_cast<index_t>(totals.compared);
  }

  Method const& method_;
  cuda const& be_;
  cpu const& host_;
  typename Method::template on<cpu> on_host_;
  method_merger<typename Method::template on<cpu>> host_merger_;
  device_choices choices_;
  pinned_memory pinned_;
  std::unique_ptr<device_lanes> lanes_;
  mutable std::unique_ptr<resident_tensor> resident_;  // of the tensor that was prepared last, whose blocks come next
};

template <>
struct engine_backend<cuda> {
  template <class Method>
  struct of {
    cpu host;
    device_merger<Method> merger;
    of(Method const& method, cuda const& be, device_options const& o)
        : host(o.host_threads), merger(method, be, host, device_choices(be, o, host.threads())) {}
  };
};

}  // namespace detail
BRAID_NAMESPACE_END
