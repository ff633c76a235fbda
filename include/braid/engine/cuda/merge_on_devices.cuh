#pragma once

/// Channel Merging of checkpoints on devices: `run` with a `channel_merge<cuda, ...>`.

#include <braid/backend/cuda/merge_channels.cuh>
#include <braid/core/detail/memory_layout.hpp>
#include <braid/engine/cuda/resident_tensor.cuh>
#include <braid/engine/detail/tensor_merger.hpp>

#include <algorithm>
#include <memory>
#include <optional>

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

/// A block as a tensor of its own.
[[nodiscard]] inline tensor_channels as_tensor(tensor_context const& context, channel_block const& block) {
  tensor_channels source;
  source.channels = block.rows;
  source.first_channel = block.first;
  source.cols = context.cols;
  source.out = block.out;
  source.base = block.base;
  source.experts = block.experts;
  return source;
}

/// Where results of a block lie behind its inputs, and beside them.
struct block_places {
  packed_tensor packed;
  device_residuals coded;
  std::size_t up;         // bytes of the inputs
  std::size_t totals_at;  // behind the inputs: what is small
  std::size_t label_at;
  std::size_t planes_at;
  std::size_t scales_at;
  std::size_t code_at;
  std::size_t end;
  std::size_t zero_at;  // in memory of their own: rows
  std::size_t extra_at;
  std::size_t results;

  /// @param is_there  the inputs are on the device and take no room
  block_places(tensor_channels const& source, device_residuals const& residuals, std::size_t row_bytes, std::size_t most_extra, bool is_there)
      : packed(source), coded(residuals), up(is_there ? 0 : packed.bytes) {
    auto const rows = static_cast<std::size_t>(source.channels);
    std::size_t const experts = source.experts.size();
    memory_layout small;
    totals_at = up + small.place(sizeof(merge_totals));
    label_at = up + small.place(rows * experts);
    planes_at = up + small.place(rows * experts * static_cast<std::size_t>(coded.plane_bytes));
    scales_at = up + small.place(rows * experts * static_cast<std::size_t>(coded.scale_count) * sizeof(bfloat16));
    code_at = up + small.place(coded.scale_count == 0 ? 0 : rows * experts);
    end = up + small.size();
    memory_layout result;
    zero_at = result.place(rows * row_bytes);
    extra_at = result.place(rows * most_extra * row_bytes);
    results = result.size();
  }
};

/// A block that a device merges.
class block_on_device final : public block_under_way {
 public:
  block_on_device(device_lanes& lanes, device_residuals const& residuals, tensor_context const& context, std::size_t most_extra,
               stream_timeline* timeline)
      : context_(context), most_extra_(most_extra), residuals_(residuals), timeline_(timeline), taken_(lanes) {}
  block_on_device(block_on_device const&) = delete;
  block_on_device& operator=(block_on_device const&) = delete;
  ~block_on_device() override {
    if (begun_) { (void)cudaStreamSynchronize(lane().be.stream()); }  // nobody wants its results any more
  }

  [[nodiscard]] int device() const noexcept { return lane().be.device(); }

  /// Copies the block to the lane and lets the device merge it.
  /// @param block  where it lies on the host
  /// @param there  where it lies on the lane's device, or null
  template <class Operation>
  void begin(Operation const& merge, channel_block const& block, tensor_channels const* there, merged_block const& out) {
    source_ = as_tensor(context_, block);
    std::size_t const row_bytes = this->row_bytes();
    places_.emplace(source_, residuals_, row_bytes, most_extra_, there != nullptr);
    block_places const& at = *places_;
    device_lane& lane = *taken_;
    lane.fit(at.end, at.results);
    if (there != nullptr) {
      source_ = *there;
    } else {
      stream_timeline::timed const timed(timeline_, stream_timeline::read);
      for (std::size_t m = 0; m <= block.experts.size(); ++m) {
        channel_rows& model = m == 0 ? source_.base : source_.experts[m - 1];
        std::size_t const row = packed_tensor::row_bytes(source_, model);
        stage_rows(model, block.rows, row, lane.here.data() + at.packed.at[m]);
        model = {lane.inputs.data() + at.packed.at[m], model.type, static_cast<index_t>(row)};
      }
    }
    stream_timeline::timed const timed(timeline_, stream_timeline::start);
    merge_totals const totals;
    std::memcpy(lane.here.data() + at.totals_at, &totals, sizeof totals);
    cuda const& be = lane.be;
    begun_ = true;
    be.to_device(lane.inputs.data(), static_cast<std::byte const*>(lane.here.data()), at.label_at);
    device_residuals coded = residuals_;
    coded.planes = lane.inputs.data() + at.planes_at;
    coded.scales = reinterpret_cast<bfloat16*>(lane.inputs.data() + at.scales_at);
    coded.code = reinterpret_cast<residual_code*>(lane.inputs.data() + at.code_at);
    merge.enqueue(be, context_, source_,
                  {lane.results.data() + at.zero_at, most_extra_ == 0 ? nullptr : lane.results.data() + at.extra_at,
                   static_cast<index_t>(most_extra_), reinterpret_cast<std::uint8_t*>(lane.inputs.data() + at.label_at),
                   reinterpret_cast<merge_totals*>(lane.inputs.data() + at.totals_at)},
                  coded);
    auto const rows = static_cast<std::size_t>(block.rows);
    be.to_host(out.group_zero, static_cast<std::byte const*>(lane.results.data() + at.zero_at), rows * row_bytes);
    be.to_host(out.extra, static_cast<std::byte const*>(lane.results.data() + at.extra_at), rows * most_extra_ * row_bytes);
    be.to_host(lane.here.data() + at.totals_at, static_cast<std::byte const*>(lane.inputs.data() + at.totals_at), at.end - at.totals_at);
  }

  void wait() override {
    lane().be.synchronize();
    begun_ = false;
  }

  void collect(merged_block& out) override {
    std::byte const* const here = lane().here.data();
    merge_totals totals;
    std::memcpy(&totals, here + places_->totals_at, sizeof totals);
    if (totals.first_bad != ~0ull) {
      try {
        report_nonfinite(lane().be, context_, source_, static_cast<index_t>(totals.first_bad));
      } catch (nonfinite_found& found) {
        found.where.channel += source_.first_channel;
        throw;
      }
    }
    auto const rows = static_cast<std::size_t>(source_.channels);
    std::size_t const experts = source_.experts.size();
    std::size_t const row_bytes = this->row_bytes();
    std::memcpy(out.label, here + places_->label_at, rows * experts);
    for (std::size_t r = 0; r < rows; ++r) {
      std::uint8_t const* const label = out.label + r * experts;
      std::size_t const used = *std::max_element(label, label + experts);
      std::byte const* const from = out.extra + r * most_extra_ * row_bytes;
      std::byte* const to = out.extra + static_cast<std::size_t>(out.extra_rows) * row_bytes;
      if (from != to) { std::memmove(to, from, used * row_bytes); }
      out.extra_rows += static_cast<index_t>(used);
    }
    if (residuals_.scale_count > 0) {
      append_residuals(residuals_, context_.cols, here + places_->planes_at, here + places_->scales_at, here + places_->code_at, rows * experts,
                       *out.residual);
    }
    out.similarity += static_cast<std::int64_t>(totals.similarity);
    out.compared += static_cast<index_t>(totals.compared);
  }

 private:
  [[nodiscard]] device_lane& lane() const noexcept { return *taken_; }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return static_cast<std::size_t>(context_.cols) * size_of(source_.out); }

  tensor_context const& context_;
  std::size_t most_extra_;
  device_residuals residuals_;  // sizes only
  stream_timeline* timeline_;
  device_lanes::taken taken_;
  std::optional<block_places> places_;
  tensor_channels source_;
  bool begun_ = false;  // and not waited for
};

/// Merges blocks on devices. A tensor that has to be measured before lies on the device meanwhile, if there is one and its
/// memory is enough, and blocks that go to other devices come from the host; else the host measures, as it does under a budget.
/// Methods with residual policies of another's than braid's are the host's alone.
template <class Method>
class device_merger final : public tensor_merger {
 public:
  device_merger(Method const& method, cuda const& be, cpu const& host, device_choices const& choices)
      : method_(method), be_(be), host_(host), on_host_(method.template with<cpu>()), host_merger_(on_host_, host), choices_(choices),
        pinned_(choices.devices.front()) {
    if constexpr (fused) {
      lanes_ = std::make_unique<device_lanes>(choices.devices, choices.lanes);
      locked_pool::of_process().reserve(host, choices.devices.front(), choices.lanes * choices.block_bytes);
    }
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
  [[nodiscard]] bool measures(std::size_t experts) const override { return host_merger_.measures(experts); }
  [[nodiscard]] tensor_context prepare(std::string_view tensor, std::vector<std::string> const& names, tensor_channels const& source,
                                       measured_tensor const* measured) const override {
    if (!measures(names.size())) { return host_merger_.prepare(tensor, names, source, measured); }  // blocks may be under way
    resident_.reset();
    if constexpr (fused) {
      bool const reads = measured == nullptr && lanes_ != nullptr && source.channels > 0 && source.cols > 0;
      if (reads && may_be_resident(choices_, be_, source)) {
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
    if (coded.scale_count > 0) { row += static_cast<std::size_t>(source.cols) * 64; }  // where rows are coded that shared memory can't hold
    std::size_t const rows = row == 0 ? 1 : choices_.block_bytes / row;
    return std::clamp<index_t>(static_cast<index_t>(rows), 1, std::max<index_t>(source.channels, 1));
  }

  /// As many as there are lanes, so that who needs one never waits.
  [[nodiscard]] std::size_t most_blocks() const override { return lanes_ == nullptr ? host_merger_.most_blocks() : lanes_->count(); }

  [[nodiscard]] std::unique_ptr<block_under_way> merge(tensor_context const& context, channel_block const& block, merged_block& out,
                                                       channel_workspace& work) const override {
    if constexpr (fused) {
      if (lanes_ != nullptr && block.rows > 0 && context.cols > 0) {
        device_residuals const residuals = residual_places(method_.settings().residual, context.cols);
        auto under_way = std::make_unique<block_on_device>(*lanes_, residuals, context, rows_out(block.experts.size()) - 1,
                                                        choices_.timeline);
        std::optional<tensor_channels> there;
        if (resident_ != nullptr && under_way->device() == be_.device()) { there = resident_->there(as_tensor(context, block), block.first, block.rows); }
        under_way->begin(method_.block_operation(), block, there ? &*there : nullptr, out);
        return under_way;
      }
    }
    return host_merger_.merge(context, block, out, work);
  }

 private:
  static constexpr bool fused = coded_on_device<typename Method::residual_type>;

  [[nodiscard]] std::size_t rows_out(std::size_t experts) const {
    return std::min(static_cast<std::size_t>(method_.settings().groups), experts);
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
