#pragma once

#include <braid/backend/cpu/radix_select.hpp>
#include <braid/core/error.hpp>

#include <string>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Densities of the models, and the tensors that are added in every pass.
class trimmed_tensors {
 public:
  /// @throws argument_error
  explicit trimmed_tensors(std::vector<double> density) : density_(std::move(density)) {
    for (double const d : density_) {
      if (!(d >= 0.0 && d <= 1.0)) {
        throw argument_error("global_magnitude_cuts: density is " + std::to_string(d) +
                             ", but it is the fraction of elements kept: choose a number from 0 to 1");
      }
    }
  }

  [[nodiscard]] std::size_t models() const noexcept { return density_.size(); }
  /// How many of `elements` a model keeps.
  [[nodiscard]] index_t kept(std::size_t model, index_t elements) const noexcept {
    return static_cast<index_t>(density_[model] * static_cast<double>(elements));
  }
  [[nodiscard]] index_t elements(std::size_t tensor) const { return elements_.at(tensor); }

  void begin_pass() noexcept { added_ = 0; }

  /// @throws argument_error for another number of models, or another tensor than in the pass before
  void add(tensor_channels const& tensor) {
    if (tensor.experts.size() != density_.size() || tensor.base.data == nullptr) {
      throw argument_error("global_magnitude_cuts: a tensor with a base and " + std::to_string(density_.size()) +
                           " models is needed, not with " + std::to_string(tensor.experts.size()) + " models");
    }
    index_t const elements = tensor.channels * tensor.cols;
    if (added_ == elements_.size()) { elements_.push_back(elements); }
    if (elements_[added_++] != elements) {
      throw argument_error("global_magnitude_cuts: a pass has other tensors than the one before; add the same ones, in the same order");
    }
  }

 private:
  std::vector<double> density_;
  std::vector<index_t> elements_;  // of each tensor
  std::size_t added_ = 0;
};

}  // namespace detail

/// Trims over whole models, out of core: the cut of each model's deltas, over all tensors together, that keeps
/// floor(density * elements) of largest magnitude; of equal ones those of an earlier tensor, then of a lower index. This is
/// the trim of TIES as published (Yadav et al., NeurIPS 2023, section 4, step 1); `prune::magnitude` trims each tensor.
///
///   global_magnitude_cuts<cpu> cuts{{0.2, 0.2, 0.3}};            // a density for each model
///   while (cuts.next_pass()) {
///     for (tensor_channels const& t : tensors) { cuts.add(be, t); }  // the same tensors in the same order in every pass
///   }
///   request.cuts = cuts.of_tensor(number);
///
/// Two passes over all tensors, a third where equals straddle a cut. Memory: half a megabyte a thread and model. The result
/// doesn't depend on threads; it does depend on the order of the tensors, where equals straddle a cut. The same cuts come out of
/// `global_magnitude_cuts<cuda>` (<braid/cuda.cuh>), for tensors in device memory.
template <backend Exec>
class global_magnitude_cuts {
  static_assert(std::same_as<Exec, cpu>, "braid: trimming over whole models is there for braid::cpu, and with <braid/cuda.cuh> for braid::cuda");

 public:
  /// @param density of each model, in the order of the tensors' experts
  /// @throws argument_error
  explicit global_magnitude_cuts(std::vector<double> density)
      : tensors_(std::move(density)), select_(tensors_.models(), detail::radix_select::order::largest) {}

  /// Begins a pass. @return false when the cuts are known
  [[nodiscard]] bool next_pass() {
    tensors_.begin_pass();
    return select_.next_pass([&](std::size_t model, index_t elements) { return tensors_.kept(model, elements); });
  }

  /// Counts a tensor in the current pass. @throws argument_error for another number of models
  void add(Exec const& be, tensor_channels const& tensor) {
    tensors_.add(tensor);
    select_.add(be, tensor, detail::delta_source{});
  }

  /// The cuts of one tensor, one a model, when `next_pass` has returned false.
  /// @param tensor its number in the order of `add`
  [[nodiscard]] std::vector<magnitude_cut> of_tensor(std::size_t tensor) const {
    std::vector<magnitude_cut> cuts;
    for (std::size_t m = 0; m < tensors_.models(); ++m) { cuts.push_back(select_.result(m, tensor, tensors_.elements(tensor))); }
    return cuts;
  }

 private:
  detail::trimmed_tensors tensors_;
  detail::radix_select select_;
};

BRAID_NAMESPACE_END
