#pragma once

/// Recipes on devices.

#include <braid/backend/cuda/methods.cuh>
#include <braid/engine/cuda/resident_tensor.cuh>
#include <braid/engine/run_recipe.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe {
namespace detail {

/// Merges on a device the tensors that its memory holds, others on the host.
class device_runner final : public tensor_runner {
 public:
  device_runner(cuda const& be, cpu const& host, merge_recipe const& r, device_options const& options)
      : be_(be), host_(host), on_host_(host, r), methods_(r), choices_(be, options, host.threads()), lanes_(choices_.devices, choices_.lanes) {
    if (choices_.devices.size() != 1 || choices_.devices[0] != be.device()) {
      throw argument_error("a recipe runs on one device: give the executor's alone, or none");
    }
  }

  [[nodiscard]] index_t block_rows(tensor_channels const& inputs) const override {
    std::size_t const row = static_cast<std::size_t>(inputs.cols) * size_of(inputs.out);
    std::size_t const rows = row == 0 ? 1 : choices_.block_bytes / 2 / row;
    return std::clamp<index_t>(static_cast<index_t>(rows), 1, std::max<index_t>(inputs.channels, 1));
  }

  void prepare(run_tensor const& t, tensor_request const& request) override {
    plan_.reset();
    resident_.reset();
    if (!braid::detail::may_be_resident(choices_, be_, request.inputs)) {
      on_host_.prepare(t, request);
      return;
    }
    resident_ = std::make_unique<braid::detail::resident_tensor>(be_, host_, lanes_, request.inputs, block_rows(request.inputs));
    tensor_request there = request;
    there.inputs = resident_->there(request.inputs, 0, request.inputs.channels);
    method_ = &methods_.of(t);
    plan_ = method_->prepare(be_, there);
    be_.synchronize();  // before lanes use it
  }

  void apply(channel_block const& block, std::byte* out, workspace& work) const override {
    if (!resident_) {
      on_host_.apply(block, out, work);
      return;
    }
    tensor_channels source;
    source.channels = block.rows;
    source.cols = plan_->cols;
    source.base = block.base;
    source.experts = block.experts;
    source.out = block.out;
    tensor_channels const moved = resident_->there(source, block.first, block.rows);
    std::size_t const bytes = static_cast<std::size_t>(block.rows * plan_->cols) * size_of(block.out);
    braid::detail::device_lanes::taken const taken(lanes_);
    braid::detail::device_lane& lane = *taken;
    lane.fit(0, bytes);
    ops::tensor_blocks<cuda>::workspace there(lane.be);
    method_->apply(*plan_, {block.first, block.rows, moved.base, moved.experts, block.out}, lane.results.data(), there);
    lane.be.to_host(lane.down.data(), static_cast<std::byte const*>(lane.results.data()), bytes);
    there.finish();
    std::memcpy(out, lane.down.data(), bytes);
  }

 private:
  cuda const& be_;
  cpu const& host_;
  host_runner on_host_;
  method_set<cuda> methods_;
  braid::detail::device_choices choices_;
  mutable braid::detail::device_lanes lanes_;
  std::unique_ptr<braid::detail::resident_tensor> resident_;
  tensor_method<cuda> const* method_ = nullptr;
  std::unique_ptr<method_plan const> plan_;
};

}  // namespace detail

/// `run` on a device, to the same bytes: each tensor is brought there as a whole, measured, and merged in blocks. Tensors that
/// don't fit `options.device.memory` are merged by the host's threads, which also read, write and copy what isn't merged.
inline report run(run_plan const& plan, std::filesystem::path const& out, run_options const& options, cuda const& be) {
  cpu const host(options.device.host_threads);
  detail::device_runner runner(be, host, plan.recipe, options.device);
  return detail::recipe_job(host, runner, plan, options).run(out);
}

}  // namespace recipe
BRAID_NAMESPACE_END
