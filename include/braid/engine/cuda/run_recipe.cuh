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
  device_runner(cuda be, cpu const& host, merge_recipe const& r, braid::detail::device_choices choices)
      : be_(std::move(be)), host_(host), on_host_(host, r), methods_(r), choices_(std::move(choices)),
        pinned_(be_.device()), lanes_(choices_.devices, choices_.lanes) {}

  [[nodiscard]] index_t block_rows(tensor_channels const& inputs) const override {
    std::size_t const row = static_cast<std::size_t>(inputs.cols) * size_of(inputs.out);
    std::size_t const rows = row == 0 ? 1 : choices_.block_bytes / 2 / row;
    return std::clamp<index_t>(static_cast<index_t>(rows), 1, std::max<index_t>(inputs.channels, 1));
  }

  [[nodiscard]] braid::detail::block_memory const& memory() const override { return pinned_; }

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
    lane.be.to_host(out, static_cast<std::byte const*>(lane.results.data()), bytes);
    there.finish();
  }

 private:
  cuda be_;
  cpu const& host_;
  host_runner on_host_;
  method_set<cuda> methods_;
  braid::detail::device_choices choices_;
  braid::detail::pinned_memory pinned_;
  mutable braid::detail::device_lanes lanes_;
  std::unique_ptr<braid::detail::resident_tensor> resident_;
  tensor_method<cuda> const* method_ = nullptr;
  std::unique_ptr<method_plan const> plan_;
};

}  // namespace detail

/// `run` on a device, to the same bytes: each tensor is brought there as a whole, measured, and merged in blocks. Tensors that
/// don't fit `options.device.memory` are merged by the host's threads, which also read, write and copy what isn't merged.
/// Several devices take the next tensor as soon as they are free.
inline report run(run_plan const& plan, std::filesystem::path const& out, run_options const& options, cuda const& be) {
  cpu const host(options.device.host_threads);
  std::vector<int> devices = options.device.devices;
  if (devices.empty()) { devices.push_back(be.device()); }
  std::vector<std::unique_ptr<detail::device_runner>> runners;
  std::vector<detail::tensor_runner*> all;
  int const threads = (host.threads() + static_cast<int>(devices.size()) - 1) / static_cast<int>(devices.size());
  for (int const d : devices) {
    device_options one = options.device;
    one.devices = {d};
    cuda own(d);  // a stream for each runner, which has a thread of its own
    braid::detail::device_choices choices(own, one, threads);
    runners.push_back(std::make_unique<detail::device_runner>(std::move(own), host, plan.recipe, std::move(choices)));
    all.push_back(runners.back().get());
  }
  return detail::recipe_job(host, all, plan, options).run(out);
}

}  // namespace recipe
BRAID_NAMESPACE_END
