#pragma once

/// Selection by magnitude over any number of tensors, without sorting or storing them: histograms of the bits of the
/// magnitudes, in bins that get narrower from pass to pass, and, where equals straddle a cut, a last pass that finds the last
/// of them that is taken. Two histograms are enough; where a sample has told about where the cut lies, mostly one.

#include <braid/backend/cpu/key_range.hpp>
#include <braid/backend/cpu/method_blocks.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Cuts streams of values (the deltas of a model, say), each at a number of its own. Deterministic: equals go to the lower
/// index, of an earlier tensor first.
///
/// A source is what gives the values: `source(block, row, first column, count, workspace, visit)` calls
/// `visit(stream, float const* values)` for every stream of a segment.
class radix_select {
 public:
  enum class order : unsigned char {
    largest,  ///< takes the largest magnitudes
    smallest  ///< takes the smallest
  };

  enum class goal : unsigned char {
    cuts,   ///< `result`: which elements are taken
    values  ///< `last_taken`: the last magnitude that is taken, without its place
  };

  radix_select(std::size_t streams, order o, goal g = goal::cuts)
      : streams_(streams), flip_(o == order::largest ? 0u : largest_key), goal_(g), cut_(streams), counts_(streams) {}

  /// Looks at a sample of the only tensor that will be added, before the first pass, to make the bins of that pass narrow. No
  /// result depends on it: where the cut lies elsewhere, further passes find it.
  /// @param wanted `wanted(stream, share)`: how many will be taken of that share of the tensor, about
  template <class Source, class Wanted>
  void expect(tensor_channels const& tensor, Source const& source, Wanted const& wanted) {
    index_t const elements = tensor.channels * tensor.cols;
    if (elements < 16 * sample_pieces * sample_cols) { return; }
    std::vector<std::vector<std::uint32_t>> keys(streams_);
    method_workspace work;
    index_t const in_row = (tensor.cols + sample_cols - 1) / sample_cols;
    index_t const all = tensor.channels * in_row;
    index_t read = 0;
    for (index_t i = 0; i < sample_pieces; ++i) {
      index_t const at = all / sample_pieces * i + all % sample_pieces * i / sample_pieces;
      index_t const row = at / in_row;
      index_t const col = (at + row) % in_row * sample_cols;  // another column in each row
      auto const n = static_cast<int>(std::min<index_t>(sample_cols, tensor.cols - col));
      source(tensor.block(row, 1, work.gathered), 0, col, n, work, [&](std::size_t s, float const* x) {
        for (int c = 0; c < n; ++c) { keys[s].push_back(key(x[c])); }
      });
      read += n;
    }
    double const share = static_cast<double>(read) / static_cast<double>(elements);
    for (std::size_t s = 0; s < streams_; ++s) {
      auto const size = static_cast<index_t>(keys[s].size());
      auto const about = static_cast<index_t>(wanted(s, share));
      index_t const margin = size / 64;
      auto const at = [&](index_t position) {  // of the keys from the top
        auto const where = keys[s].begin() + std::clamp<index_t>(position, 0, size - 1);
        std::nth_element(keys[s].begin(), where, keys[s].end(), [](std::uint32_t x, std::uint32_t y) { return x > y; });
        return *where;
      };
      std::uint32_t const high = about < margin ? largest_key : at(about - margin);
      std::uint32_t const low = about + margin >= size ? 0u : at(about + margin);
      cut_[s].range = key_range::of(low, high);
    }
  }

  /// Begins the next pass, in which every tensor has to be added, in one order.
  /// @param wanted `wanted(stream, elements of the stream)`: how many to take. Asked after the first pass
  /// @return false when all cuts are known
  template <class Wanted>
  bool next_pass(Wanted const& wanted) {
    if (counting_last_) { return false; }
    if (started_) {
      gather();
      for (std::size_t s = 0; s < streams_; ++s) { narrow(s, wanted); }
    }
    bool const first = !started_;
    started_ = true;
    bool searching = false;
    bool straddles = false;
    for (cut const& c : cut_) {
      searching = searching || first || c.searching;
      straddles = straddles || c.open;
    }
    if (!searching) {
      counting_last_ = straddles && goal_ == goal::cuts;
      return counting_last_;
    }
    begin_.assign(streams_ + 1, 0);
    for (std::size_t s = 0; s < streams_; ++s) {
      bool const counted = first || cut_[s].searching;
      begin_[s + 1] = begin_[s] + (counted ? above_slot + 1 + cut_[s].range.bins() : 0);
    }
    local_.clear();
    return true;
  }

  template <class Source>
  void add(cpu const& be, tensor_channels const& tensor, Source const& source) {
    if (counting_last_) {
      find_last_equals(be, tensor, source);
      return;
    }
    ops::tensor_blocks<cpu>::for_each(be, tensor, measure_rows, [&](index_t, channel_block const& block, method_workspace& work) {
      std::vector<std::uint64_t>& counts = local_.local();
      if (counts.empty()) { counts.resize(begin_.back()); }
      std::uint32_t inside[sum_order::segment];
      for_each_row_segment(block, tensor.cols, [&](index_t row, index_t c, int n) {
        source(block, row, c, n, work, [&](std::size_t s, float const* x) {
          if (begin_[s] == begin_[s + 1]) { return; }
          std::uint64_t* const mine = counts.data() + begin_[s];
          mine[elements_slot] += static_cast<std::uint64_t>(n);
          cut_[s].range.count(x, n, flip_, inside, mine[above_slot], mine + above_slot + 1);
        });
      });
    });
  }

  /// Whether a stream takes an element: `bits` as in `magnitude_cut`, in a tensor with `elements` elements.
  /// @param tensor number of the tensor, in the order of `add`
  [[nodiscard]] magnitude_cut result(std::size_t stream, std::size_t tensor, index_t elements) const {
    cut const& c = cut_[stream];
    bool const largest = flip_ == 0;
    if (c.taken == 0) { return largest ? magnitude_cut{0xFFFFFFFFu, -1} : magnitude_cut{0u, -1}; }
    if (c.taken == counts_[stream]) { return largest ? magnitude_cut{0u, elements} : magnitude_cut{largest_key, elements}; }
    return {c.bits ^ flip_, tensor < c.last.size() ? c.last[tensor] : elements};
  }

  /// The last magnitude that a stream takes; it takes at least one.
  [[nodiscard]] float last_taken(std::size_t stream) const noexcept { return bits_as<float>(cut_[stream].bits ^ flip_); }

  /// Elements of a stream in all tensors; known after the first pass.
  [[nodiscard]] std::uint64_t elements(std::size_t stream) const noexcept { return counts_[stream]; }

  /// Rows of a block of a measure.
  static constexpr index_t measure_rows = 256;

 private:
  static constexpr std::uint32_t largest_key = key_range::largest_key;
  static constexpr index_t sample_pieces = 1024;  // of a row; many, since rows differ
  static constexpr index_t sample_cols = 128;
  static constexpr index_t equal_rows = 16;       // whose equals are counted together
  static constexpr std::size_t elements_slot = 0;  // before a stream's bins
  static constexpr std::size_t above_slot = 1;

  struct cut {
    key_range range;              // that is being counted
    bool searching = false;       // the last key that is taken isn't known
    bool open = false;            // it is, but of the elements that have it only some are taken
    std::uint64_t taken = 0;      // wanted, at most all
    std::uint64_t left = 0;       // equals still to be taken
    std::uint32_t bits = 0;       // the last key that is taken
    std::vector<index_t> last{};  // per tensor, where equals straddle the cut
  };

  /// The largest keys are taken.
  [[nodiscard]] std::uint32_t key(float x) const noexcept { return magnitude_bits(x) ^ flip_; }

  template <class F>
  static void for_each_row_segment(channel_block const& block, index_t cols, F const& f) {
    for (index_t row = 0; row < block.rows; ++row) {
      for_each_segment(cols, [&](index_t c, int n) { f(row, c, n); });
    }
  }

  void gather() {
    total_.assign(begin_.back(), 0);
    for (auto const& counts : local_) {
      for (std::size_t i = 0; i < counts.size(); ++i) { total_[i] += counts[i]; }
    }
  }

  template <class Wanted>
  void narrow(std::size_t s, Wanted const& wanted) {
    if (begin_[s] == begin_[s + 1]) { return; }
    std::uint64_t const* const counted = total_.data() + begin_[s];
    cut& c = cut_[s];
    if (!c.searching) {  // after the first pass
      counts_[s] = counted[elements_slot];
      index_t const n = wanted(s, static_cast<index_t>(counts_[s]));
      c.taken = n <= 0 ? 0 : std::min(static_cast<std::uint64_t>(n), counts_[s]);
      c.searching = c.taken > 0 && (c.taken < counts_[s] || goal_ == goal::values);
      if (!c.searching) { return; }
    }
    std::uint64_t above = counted[above_slot];
    if (above >= c.taken) {  // not where it was expected
      c.range = key_range::of(c.range.high() + 1, largest_key);
      return;
    }
    std::uint64_t const* const bin = counted + above_slot + 1;
    for (std::uint32_t b = c.range.bins(); b-- > 0;) {
      if (above + bin[b] < c.taken) {
        above += bin[b];
        continue;
      }
      c.range = c.range.bin(b);
      if (c.range.low != c.range.high()) { return; }
      c.searching = false;
      c.bits = c.range.low;
      c.left = c.taken - above;
      c.open = bin[b] > c.left;
      return;
    }
    c.range = key_range::of(0, c.range.low - 1);  // nor here
  }

  /// Of a tensor's elements that equal an open cut, finds the index of the last one that is taken.
  template <class Source>
  void find_last_equals(cpu const& be, tensor_channels const& tensor, Source const& source) {
    static_assert(measure_rows % equal_rows == 0);
    auto const parts = static_cast<std::size_t>((tensor.channels + equal_rows - 1) / equal_rows);
    std::vector<std::uint64_t> in_part(parts * streams_, 0);
    ops::tensor_blocks<cpu>::for_each(be, tensor, measure_rows, [&](index_t, channel_block const& block, method_workspace& work) {
      for_each_row_segment(block, tensor.cols, [&](index_t row, index_t c, int n) {
        std::uint64_t* const counts = in_part.data() + static_cast<std::size_t>((block.first + row) / equal_rows) * streams_;
        source(block, row, c, n, work, [&](std::size_t s, float const* x) {
          if (cut_[s].open) { counts[s] += count_key(x, n, flip_, cut_[s].bits); }
        });
      });
    });
    method_workspace work;
    for (std::size_t s = 0; s < streams_; ++s) {
      cut& mine = cut_[s];
      if (!mine.open) { continue; }
      mine.last.push_back(mine.left == 0 ? -1 : tensor.channels * tensor.cols);
      for (std::size_t p = 0; p < parts && mine.left > 0; ++p) {
        if (in_part[p * streams_ + s] < mine.left) {
          mine.left -= in_part[p * streams_ + s];
          continue;
        }
        index_t const first = static_cast<index_t>(p) * equal_rows;
        channel_block const block = tensor.block(first, std::min(equal_rows, tensor.channels - first), work.gathered);
        for_each_row_segment(block, tensor.cols, [&](index_t row, index_t col, int n) {
          if (mine.left == 0) { return; }
          source(block, row, col, n, work, [&](std::size_t stream, float const* x) {
            if (stream != s) { return; }
            std::uint64_t const here = count_key(x, n, flip_, mine.bits);
            if (here < mine.left) {
              mine.left -= here;
              return;
            }
            for (int c = 0; c < n && mine.left > 0; ++c) {
              if (key(x[c]) == mine.bits && --mine.left == 0) { mine.last.back() = (first + row) * tensor.cols + col + c; }
            }
          });
        });
      }
    }
  }

  std::size_t streams_;
  std::uint32_t flip_;
  goal goal_;
  bool started_ = false;
  bool counting_last_ = false;
  std::vector<cut> cut_;
  std::vector<std::uint64_t> counts_;  // elements
  std::vector<std::size_t> begin_;     // of each stream's counts: elements, those above the range, bins of the range
  std::vector<std::uint64_t> total_;
  tbb::enumerable_thread_specific<std::vector<std::uint64_t>> local_;
};

/// Stream i is the delta of model i; with two cuts a model, so is stream models + i.
struct delta_source {
  template <class Visit>
  void operator()(channel_block const& block, index_t row, index_t c, int n, method_workspace& work, Visit const& visit) const {
    load_segment(block, row, c, n, operand::deltas, work);
    float const* const delta = work.models.fit(1);
    std::size_t const models = block.experts.size();
    for (std::size_t s = 0; s < cuts * models; ++s) { visit(s, delta + s % models * sum_order::segment); }
  }

  std::size_t cuts = 1;  // a model
};

/// The cuts that take `wanted[s]` elements of the delta of model s % models, largest or smallest first.
inline std::vector<magnitude_cut> select_deltas(cpu const& be, tensor_channels const& tensor, std::vector<index_t> const& wanted,
                                                radix_select::order order) {
  std::size_t const streams = wanted.size();
  radix_select select(streams, order);
  delta_source const source{streams / tensor.experts.size()};
  select.expect(tensor, source, [&](std::size_t s, double share) { return share * static_cast<double>(wanted[s]); });
  while (select.next_pass([&](std::size_t s, index_t) { return wanted[s]; })) { select.add(be, tensor, source); }
  std::vector<magnitude_cut> cuts;
  for (std::size_t s = 0; s < streams; ++s) { cuts.push_back(select.result(s, 0, tensor.channels * tensor.cols)); }
  return cuts;
}

}  // namespace detail
BRAID_NAMESPACE_END
