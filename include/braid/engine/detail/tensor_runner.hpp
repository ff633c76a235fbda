#pragma once

/// Where the tensors of a recipe are merged.

#include <braid/engine/detail/block_stream.hpp>
#include <braid/engine/device_options.hpp>
#include <braid/method/make_tensor_method.hpp>
#include <braid/recipe/run_plan.hpp>

#include <map>

BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

/// The methods of a recipe: one, in a form for each meaning of `rescale`.
template <backend Exec>
class method_set {
 public:
  explicit method_set(merge_recipe const& r) : name_(r.merge_method) {
    options_.style = r.style == "paper" ? method_style::paper : method_style::mergekit;
    options_.seed = r.seed;
    if (r.trim_scope == "row") { options_.scope = trim_scope::row; }
    if (r.trim_scope == "tensor") { options_.scope = trim_scope::tensor; }
    if (r.trim_scope == "model" || r.trim_scope == "global") { options_.scope = trim_scope::model; }
  }

  [[nodiscard]] tensor_method<Exec> const& of(run_tensor const& t) {
    auto& method = made_[t.rescaling];
    if (!method) {
      method_options options = options_;
      options.rescaling = t.rescaling;
      method = make_tensor_method<Exec>(name_, options);
    }
    return *method;
  }

 private:
  std::string name_;
  method_options options_;
  std::map<std::optional<rescale>, std::unique_ptr<tensor_method<Exec>>> made_;
};

/// What the recipe engine asks of the place where tensors are merged. Blocks come from and go to the host's memory.
class tensor_runner {
 public:
  using workspace = ops::tensor_blocks<cpu>::workspace;

  virtual ~tensor_runner() = default;
  [[nodiscard]] virtual index_t block_rows(tensor_channels const& inputs) const = 0;
  /// Where `apply` writes to.
  [[nodiscard]] virtual braid::detail::block_memory const& memory() const { return braid::detail::host_memory(); }
  /// Measures the tensor whose blocks come next.
  virtual void prepare(run_tensor const& t, tensor_request const& request) = 0;
  /// Merges a block of it. Called from many threads.
  /// @param out  [block.rows, cols] of `block.out`, packed
  virtual void apply(channel_block const& block, std::byte* out, workspace& work) const = 0;
};

class host_runner final : public tensor_runner {
 public:
  host_runner(cpu const& be, merge_recipe const& r) : be_(be), methods_(r) {}
  [[nodiscard]] index_t block_rows(tensor_channels const& inputs) const override { return braid::detail::block_rows(inputs); }
  void prepare(run_tensor const& t, tensor_request const& request) override {
    method_ = &methods_.of(t);
    plan_ = method_->prepare(be_, request);
  }
  void apply(channel_block const& block, std::byte* out, workspace& work) const override { method_->apply(*plan_, block, out, work); }

 private:
  cpu const& be_;
  method_set<cpu> methods_;
  tensor_method<cpu> const* method_ = nullptr;
  std::unique_ptr<method_plan const> plan_;
};

}  // namespace recipe::detail
BRAID_NAMESPACE_END
