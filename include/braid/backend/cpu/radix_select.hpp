#pragma once

/// Selection by magnitude over any number of tensors, without sorting or storing them: histograms of the bits of the
/// magnitudes, the upper 16 of 31 in a first pass, the lower 15 in a second, and, where equals straddle a cut, a third pass
/// that finds the last of them that is taken.

#include <braid/backend/cpu/method_blocks.hpp>

#include <array>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Cuts streams of values (the deltas of a model, say), each at a number of its own. Deterministic: equals go to the lower
/// index, of an earlier tensor first.
///
/// A source is what gives the values: `source(block, cols, workspace, visit)` calls
/// `visit(stream, float const* values, count, row of the block, first column)` for every segment of a block.
class radix_select {
 public:
  enum class order : unsigned char {
    largest,  ///< takes the largest magnitudes
    smallest  ///< takes the smallest
  };

  enum class goal : unsigned char {
    cuts,   ///< `result`: which elements are taken
    values  ///< `last_taken`: the last magnitude that is taken, without its place; at most two passes
  };

  radix_select(std::size_t streams, order o, goal g = goal::cuts)
      : streams_(streams), order_(o), goal_(g), cut_(streams), counts_(streams) {}

  /// Begins the next pass, in which every tensor has to be added, in one order.
  /// @param wanted `wanted(stream, elements of the stream)`: how many to take. Asked after the first pass
  /// @return false when all cuts are known
  template <class Wanted>
  bool next_pass(Wanted const& wanted) {
    switch (pass_++) {
      case 0: bins_ = upper_bins; break;
      case 1:
        gather();
        for (std::size_t s = 0; s < streams_; ++s) { cut_upper(s, wanted); }
        bins_ = lower_bins;
        if (std::none_of(cut_.begin(), cut_.end(), [](cut const& c) { return c.open; })) { return false; }
        break;
      case 2: {
        gather();
        bool straddles = false;
        for (std::size_t s = 0; s < streams_; ++s) { straddles = cut_lower(s) || straddles; }
        if (!straddles || goal_ == goal::values) { return false; }
        bins_ = 0;
        break;
      }
      default: return false;
    }
    local_.clear();
    total_.assign(streams_ * bins_, 0);
    return true;
  }

  template <class Source>
  void add(cpu const& be, tensor_channels const& tensor, Source const& source) {
    if (bins_ == 0) {
      find_last_equals(be, tensor, source);
      return;
    }
    bool const upper = pass_ == 1;
    ops::tensor_blocks<cpu>::for_each(be, tensor, measure_rows, [&](index_t, channel_block const& block, method_workspace& work) {
      std::vector<std::uint64_t>& counts = local_.local();
      if (counts.empty()) { counts.resize(streams_ * bins_); }
      source(block, tensor.cols, work, [&](std::size_t s, float const* x, int n, index_t, index_t) {
        std::uint64_t* const mine = counts.data() + s * bins_;
        std::uint32_t const above = cut_[s].upper;
        for (int c = 0; c < n; ++c) {
          std::uint32_t const k = key(x[c]);
          if (upper) {
            ++mine[k >> lower_bits];
          } else if (k >> lower_bits == above) {
            ++mine[k & (lower_bins - 1)];
          }
        }
      });
    });
  }

  /// Whether a stream takes an element: `bits` as in `magnitude_cut`, in a tensor with `elements` elements.
  /// @param tensor number of the tensor, in the order of `add`
  [[nodiscard]] magnitude_cut result(std::size_t stream, std::size_t tensor, index_t elements) const {
    cut const& c = cut_[stream];
    if (c.taken == 0) { return order_ == order::largest ? magnitude_cut{0xFFFFFFFFu, -1} : magnitude_cut{0u, -1}; }
    if (c.taken == counts_[stream]) {
      return order_ == order::largest ? magnitude_cut{0u, elements} : magnitude_cut{0x7FFFFFFFu, elements};
    }
    std::uint32_t const bits = order_ == order::largest ? c.bits : 0x7FFFFFFFu - c.bits;
    return {bits, tensor < c.last.size() ? c.last[tensor] : elements};
  }

  /// The last magnitude that a stream takes; it takes at least one.
  [[nodiscard]] float last_taken(std::size_t stream) const noexcept {
    std::uint32_t const bits = cut_[stream].bits;
    return bits_as<float>(order_ == order::largest ? bits : 0x7FFFFFFFu - bits);
  }

  /// Elements of a stream in all tensors; known after the first pass.
  [[nodiscard]] std::uint64_t elements(std::size_t stream) const noexcept { return counts_[stream]; }

  /// Rows of a block of a measure.
  static constexpr index_t measure_rows = 256;

 private:
  static constexpr int lower_bits = 15;
  static constexpr std::uint32_t lower_bins = 1u << lower_bits;
  static constexpr std::uint32_t upper_bins = 1u << 16;

  struct cut {
    bool open = false;            // somewhere inside the stream
    std::uint64_t taken = 0;      // wanted, at most all
    std::uint64_t above = 0;      // elements with larger keys than `bits`
    std::uint64_t left = 0;       // equals still to be taken
    std::uint32_t upper = 0;
    std::uint32_t bits = 0;
    std::vector<index_t> last{};  // per tensor, where equals straddle the cut
  };

  /// The largest keys are taken.
  [[nodiscard]] std::uint32_t key(float x) const noexcept {
    std::uint32_t const bits = magnitude_bits(x);
    return order_ == order::largest ? bits : 0x7FFFFFFFu - bits;
  }

  void gather() {
    for (auto const& counts : local_) {
      for (std::size_t i = 0; i < counts.size(); ++i) { total_[i] += counts[i]; }
    }
  }

  template <class Wanted>
  void cut_upper(std::size_t s, Wanted const& wanted) {
    std::uint64_t const* const counts = total_.data() + s * bins_;
    for (std::uint32_t b = 0; b < bins_; ++b) { counts_[s] += counts[b]; }
    cut& c = cut_[s];
    index_t const n = wanted(s, static_cast<index_t>(counts_[s]));
    c.taken = n <= 0 ? 0 : std::min(static_cast<std::uint64_t>(n), counts_[s]);
    c.open = c.taken > 0 && (c.taken < counts_[s] || goal_ == goal::values);
    c.upper = c.open ? find_bin(counts, c) : upper_bins;
  }

  /// @return whether only some of the equals are taken
  bool cut_lower(std::size_t s) {
    cut& c = cut_[s];
    if (!c.open) { return false; }
    std::uint32_t const low = find_bin(total_.data() + s * bins_, c);
    c.bits = (c.upper << lower_bits) | low;
    c.left = c.taken - c.above;
    c.open = total_[s * bins_ + low] > c.left;
    return c.open;
  }

  /// The bin, from the top, in which the last element that is taken lies.
  [[nodiscard]] std::uint32_t find_bin(std::uint64_t const* counts, cut& c) const noexcept {
    std::uint32_t b = bins_;
    while (b-- > 0) {
      if (c.above + counts[b] >= c.taken) { return b; }
      c.above += counts[b];
    }
    return 0;
  }

  /// Of a tensor's elements that equal an open cut, finds the index of the last one that is taken.
  template <class Source>
  void find_last_equals(cpu const& be, tensor_channels const& tensor, Source const& source) {
    auto const blocks = static_cast<std::size_t>((tensor.channels + measure_rows - 1) / measure_rows);
    std::vector<std::uint64_t> in_block(blocks * streams_, 0);
    ops::tensor_blocks<cpu>::for_each(be, tensor, measure_rows, [&](index_t b, channel_block const& block, method_workspace& work) {
      std::uint64_t* const counts = in_block.data() + static_cast<std::size_t>(b) * streams_;
      source(block, tensor.cols, work, [&](std::size_t s, float const* x, int n, index_t, index_t) {
        if (!cut_[s].open) { return; }
        for (int c = 0; c < n; ++c) { counts[s] += key(x[c]) == cut_[s].bits ? 1u : 0u; }
      });
    });
    method_workspace work;
    for (std::size_t s = 0; s < streams_; ++s) {
      cut& mine = cut_[s];
      if (!mine.open) { continue; }
      mine.last.push_back(mine.left == 0 ? -1 : tensor.channels * tensor.cols);
      for (std::size_t b = 0; b < blocks && mine.left > 0; ++b) {
        if (in_block[b * streams_ + s] < mine.left) {
          mine.left -= in_block[b * streams_ + s];
          continue;
        }
        index_t const first = static_cast<index_t>(b) * measure_rows;
        index_t const rows = std::min(measure_rows, tensor.channels - first);
        source(tensor.block(first, rows, work.gathered), tensor.cols, work,
               [&](std::size_t stream, float const* x, int n, index_t row, index_t col) {
                 for (int c = 0; stream == s && c < n && mine.left > 0; ++c) {
                   if (key(x[c]) == mine.bits && --mine.left == 0) { mine.last.back() = (first + row) * tensor.cols + col + c; }
                 }
               });
      }
    }
  }

  std::size_t streams_;
  order order_;
  goal goal_;
  int pass_ = 0;
  std::uint32_t bins_ = 0;
  std::vector<cut> cut_;
  std::vector<std::uint64_t> counts_;  // elements
  std::vector<std::uint64_t> total_;   // [streams, bins]
  tbb::enumerable_thread_specific<std::vector<std::uint64_t>> local_;
};

/// Stream i is the delta of model i.
struct delta_source {
  template <class Visit>
  void operator()(channel_block const& block, index_t cols, method_workspace& work, Visit const& visit) const {
    for (index_t row = 0; row < block.rows; ++row) {
      for_each_segment(cols, [&](index_t c, int n) {
        load_segment(block, row, c, n, operand::deltas, work);
        float const* const delta = work.models.fit(1);
        for (std::size_t i = 0; i < block.experts.size(); ++i) { visit(i, delta + i * sum_order::segment, n, row, c); }
      });
    }
  }
};

/// The cuts that take `wanted[i]` elements of the delta of model i, largest or smallest first.
inline std::vector<magnitude_cut> select_deltas(cpu const& be, tensor_channels const& tensor, std::vector<index_t> const& wanted,
                                                radix_select::order order) {
  std::size_t const streams = wanted.size();
  radix_select select(streams, order);
  while (select.next_pass([&](std::size_t s, index_t) { return wanted[s]; })) { select.add(be, tensor, delta_source{}); }
  std::vector<magnitude_cut> cuts;
  for (std::size_t s = 0; s < streams; ++s) { cuts.push_back(select.result(s, 0, tensor.channels * tensor.cols)); }
  return cuts;
}

}  // namespace detail
BRAID_NAMESPACE_END
