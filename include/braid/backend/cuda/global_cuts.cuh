#pragma once

/// Trims over whole models on a device.

#include <braid/backend/cuda/value_select.cuh>
#include <braid/method/global_magnitude_cuts.hpp>

BRAID_NAMESPACE_BEGIN

/// As on the CPU, with the same cuts, for tensors in device memory: passes of 11, 10 and 10 bits of the magnitudes, each tensor
/// read once a pass, and one more where equals straddle a cut. Counts stay on the device during a pass: 16 kB a model.
///
/// `add` enqueues, and waits in the pass for equals; `next_pass` waits. Use one executor for all of it.
template <>
class global_magnitude_cuts<cuda> {
 public:
  /// @param density of each model, in the order of the tensors' experts
  /// @throws argument_error
  explicit global_magnitude_cuts(std::vector<double> density)
      : tensors_(std::move(density)), found_(tensors_.models()), last_(found_.size()), straddles_(found_.size()) {}

  /// Begins a pass. @return false when the cuts are known
  [[nodiscard]] bool next_pass() {
    tensors_.begin_pass();
    if (pass_ == passes) { return false; }
    if (pass_ >= 0) { narrow(); }
    bool open = pass_ < 0;
    bool straddles = false;
    for (std::size_t m = 0; m < found_.size(); ++m) {
      open = open || found_[m].open;
      straddles_[m] = found_[m].open && found_[m].equal > found_[m].left;
      straddles = straddles || straddles_[m];
    }
    pass_ = open ? pass_ + 1 : passes;
    cleared_ = false;
    return pass_ < passes || straddles;
  }

  /// Counts a tensor in the current pass. @throws argument_error for another number of models
  void add(cuda const& be, tensor_channels const& tensor) {
    tensors_.add(tensor);
    detail::current_device const current(be.device());
    if (pass_ < passes) { clear(be); }
    index_t const elements = tensor.channels * tensor.cols;
    if (pass_ == 0) { elements_ += elements; }
    if (elements == 0) {
      for (std::size_t m = 0; m < found_.size(); ++m) {
        if (pass_ == passes && straddles_[m]) { last_[m].push_back(-1); }
      }
      return;
    }
    detail::device_method_workspace work(be);
    detail::device_block const block(be, tensor);
    for (std::size_t first = 0; first < found_.size(); first += at_once) {
      auto const begin = static_cast<std::ptrdiff_t>(first);
      auto const end = static_cast<std::ptrdiff_t>(std::min(first + at_once, found_.size()));
      channel_block part = block.get();
      part.experts.assign(block.get().experts.begin() + begin, block.get().experts.begin() + end);
      std::vector<detail::stream_selection> const found(found_.begin() + begin, found_.begin() + end);
      selector const select(work, part, tensor.cols, detail::operand::deltas, detail::delta_values{}, order);
      if (pass_ < passes) {
        select.add_counts(found, selector::shifts[pass_], counts_.data() + first * counts_of_model);
      } else if (std::any_of(straddles_.begin() + begin, straddles_.begin() + end, [](bool b) { return b; })) {
        take_equals(select, first, found, elements, tensor.channels);
      }
    }
  }

  /// The cuts of one tensor, one a model, when `next_pass` has returned false.
  /// @param tensor its number in the order of `add`
  [[nodiscard]] std::vector<magnitude_cut> of_tensor(std::size_t tensor) const {
    index_t const elements = tensors_.elements(tensor);
    std::vector<magnitude_cut> cuts;
    for (std::size_t m = 0; m < found_.size(); ++m) {
      auto const& f = found_[m];
      if (f.wanted == 0) {
        cuts.push_back({0xFFFFFFFFu, -1});
      } else if (!f.open) {
        cuts.push_back({0u, elements});
      } else {
        cuts.push_back({f.bits, tensor < last_[m].size() ? last_[m][tensor] : elements});
      }
    }
    return cuts;
  }

 private:
  using selector = detail::value_selector<detail::delta_values>;
  static constexpr auto order = detail::radix_select::order::largest;
  static constexpr int passes = 3;
  static constexpr std::size_t at_once = detail::most_count_streams;
  static constexpr std::size_t counts_of_model = detail::count_bins + 1;

  /// Before the first tensor of a pass.
  void clear(cuda const& be) {
    if (std::exchange(cleared_, true)) { return; }
    be_ = be;
    if (counts_.size() == 0) { counts_ = be.make_buffer<unsigned long long>(found_.size() * counts_of_model); }
    detail::check_cuda(cudaMemsetAsync(counts_.data(), 0, counts_.size() * sizeof(unsigned long long), be.stream()), "clearing counts");
  }

  /// Looks where the cuts lie in what was counted.
  void narrow() {
    auto const counts = be_ ? detail::download(*be_, counts_) : std::vector<unsigned long long>(found_.size() * counts_of_model, 0);
    for (std::size_t m = 0; m < found_.size(); ++m) {
      detail::stream_selection& f = found_[m];
      if (pass_ == 0) {
        f.wanted = std::clamp<index_t>(tensors_.kept(m, elements_), 0, elements_);
        f.open = f.wanted > 0 && f.wanted < elements_;
        f.left = static_cast<std::uint64_t>(f.wanted);
      }
      std::size_t const part = m / at_once * at_once;  // whose bins lie before its zeros
      if (f.open) {
        selector::narrow(f, counts.data() + part * counts_of_model + (m - part) * detail::count_bins, selector::bits_of_pass(selector::shifts[pass_]), order);
      }
    }
  }

  /// Of a tensor's elements that equal an open cut, finds the last one that is taken.
  void take_equals(selector const& select, std::size_t first, std::vector<detail::stream_selection> const& found, index_t elements, index_t rows) {
    auto const equals = select.count_equals(found);
    for (std::size_t s = 0; s < found.size(); ++s) {
      if (!straddles_[first + s]) { continue; }
      std::uint64_t& left = found_[first + s].left;
      index_t last = left == 0 ? -1 : elements;
      for (index_t row = 0; left > 0 && row < rows; ++row) {
        std::uint64_t const here = equals[static_cast<std::size_t>(row) * found.size() + s];
        if (here >= left) { last = select.find_in_row(s, row, found[s].bits, left); }
        left -= std::min(here, left);
      }
      last_[first + s].push_back(last);
    }
  }

  detail::trimmed_tensors tensors_;
  std::vector<detail::stream_selection> found_;  // of each model
  std::vector<std::vector<index_t>> last_;       // of each model, where equals straddle its cut: for each tensor
  std::vector<bool> straddles_;
  std::optional<cuda> be_;
  device_buffer<unsigned long long> counts_;
  index_t elements_ = 0;
  int pass_ = -1;
  bool cleared_ = false;
};

BRAID_NAMESPACE_END
