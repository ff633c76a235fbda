#pragma once

/// Exact selection by magnitude of values that are functions of the inputs, by radix: three passes of 11, 10 and 10 bits, and
/// one more where equals straddle a cut. Nothing is sorted or stored.

#include <braid/backend/cpu/radix_select.hpp>
#include <braid/backend/cuda/count_kernel.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/method_blocks.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One stream of a selection.
struct stream_selection {
  index_t wanted = 0;         // how many are taken, from 0 to all
  std::uint64_t left = 0;     // of those that begin with `bits`
  std::uint64_t equal = 0;    // elements that do
  std::uint32_t bits = 0;
  bool open = false;          // the cut lies somewhere inside
};

template <class Values>
class value_selector {
 public:
  /// @param last_only  only the last magnitude that is taken is asked for, not the place of the last of its equals
  value_selector(device_method_workspace& work, channel_block const& block, index_t cols, operand what, Values const& values,
                 radix_select::order order, bool last_only = false)
      : work_(work), block_(block), cols_(cols), what_(what), values_(values), order_(order), last_only_(last_only) {}

  /// @param wanted  `wanted(stream, values that aren't zero)`: how many to take
  template <class Wanted>
  std::vector<magnitude_cut> operator()(Wanted const& wanted) {
    auto const streams = static_cast<std::size_t>(Values::streams(static_cast<int>(block_.experts.size())));
    index_t const elements = block_.rows * cols_;
    std::vector<stream_selection> found(streams);
    for (int const shift : shifts) {
      auto const counts = count(found, shift);
      for (std::size_t s = 0; s < streams; ++s) {
        stream_selection& f = found[s];
        if (shift == shifts[0]) {
          f.wanted = std::clamp<index_t>(wanted(s, elements - static_cast<index_t>(counts[streams * count_bins + s])), 0, elements);
          f.open = f.wanted > 0 && (f.wanted < elements || last_only_);
          f.left = static_cast<std::uint64_t>(f.wanted);
        }
        if (f.open) { narrow(f, counts.data() + s * count_bins, bits_of_pass(shift), order_); }
      }
      if (std::none_of(found.begin(), found.end(), [](stream_selection const& f) { return f.open; })) { break; }
    }
    std::vector<magnitude_cut> cuts;
    for (stream_selection const& f : found) { cuts.push_back(cut_of(f, elements)); }
    if (!last_only_) { find_last_equals(found, cuts); }
    return cuts;
  }

  // The pieces, for selections over several tensors.

  static constexpr int shifts[3] = {20, 10, 0};  // of the passes
  static constexpr int bits_of_pass(int shift) noexcept { return shift == 20 ? 11 : 10; }

  /// Finds the bin in which the last element that is taken lies.
  static void narrow(stream_selection& f, unsigned long long const* counts, int bits, radix_select::order order) noexcept {
    std::uint32_t const last = (1u << bits) - 1u;
    bool const down = order == radix_select::order::largest;
    std::uint32_t step = 0;
    auto const bin = [&] { return down ? last - step : step; };
    for (; step < last && counts[bin()] < f.left; ++step) { f.left -= counts[bin()]; }
    f.equal = counts[bin()];
    f.bits = f.bits << bits | bin();
  }

  /// Adds what a pass over the tensor counts. Enqueues.
  /// @param counts  [streams, count_bins], then [streams]: zeros
  void add_counts(std::vector<stream_selection> const& found, int shift, unsigned long long* counts) const {
    cuda const& be = work_.executor();
    current_device const current(be.device());
    auto const n = static_cast<int>(block_.experts.size());
    std::size_t const size = found.size() * (count_bins + 1);
    int processors = 0;
    check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, be.device()), "asking a device what it is");
    auto const start = [&]<int Most>(std::integral_constant<int, Most>) {
      constexpr bool few = Most == Values::most;
      auto a = arguments<Most>(found, false);
      a.of_row = static_cast<std::uint32_t>(a.in.rows > 1 ? tiles_of<tile_layout::together>(a.in.cols) : 0);
      a.tiles = few ? a.in.rows * tiles_of<tile_layout::together>(a.in.cols) : a.in.rows * a.in.cols;
      a.shift = shift;
      a.bits = bits_of_pass(shift);
      a.counts = counts;
      constexpr unsigned threads = few ? 256 : 64;
      std::size_t const shared = size * 4 + (few ? 0 : threads * static_cast<std::size_t>(n) * sizeof(float));
      auto const blocks = static_cast<unsigned>(std::min<index_t>((a.tiles + threads - 1) / threads, processors * 4));
      auto const launch = [&](auto const kernel) {
        allow_shared_memory(kernel);
        kernel<<<blocks, threads, shared, be.stream()>>>(a);
        check_cuda(cudaGetLastError(), "starting a selection");
      };
      if constexpr (few) {
        with_few_models<Most>(n, [&]<int N>(std::integral_constant<int, N>) { launch(count_kernel<N, Values, Most>); });
      } else {
        launch(count_many_kernel<Values, Most>);
      }
    };
    if (n <= Values::most) {
      start(std::integral_constant<int, Values::most>{});
    } else {
      start(std::integral_constant<int, max_experts>{});
    }
  }

  /// Elements whose magnitude is a stream's `bits`, [rows, streams]. Waits.
  [[nodiscard]] std::vector<std::uint32_t> count_equals(std::vector<stream_selection> const& found) const {
    cuda const& be = work_.executor();
    current_device const current(be.device());
    auto const a = arguments<max_experts>(found, true);
    device_buffer<std::uint32_t> const there = be.make_buffer<std::uint32_t>(static_cast<std::size_t>(block_.rows) * found.size());
    constexpr unsigned threads = 128;
    std::size_t const shared = most_count_streams * 4 + threads * block_.experts.size() * sizeof(float);
    auto const kernel = count_equals_kernel<Values, max_experts>;
    allow_shared_memory(kernel);
    kernel<<<static_cast<unsigned>(block_.rows), threads, shared, be.stream()>>>(a, there.data());
    check_cuda(cudaGetLastError(), "starting a count");
    return download(be, there);
  }

  /// The element of a row whose magnitude is the `number`-th (from 1) to equal `bits`: its number in the tensor.
  [[nodiscard]] index_t find_in_row(std::size_t s, index_t row, std::uint32_t bits, std::uint64_t number) const {
    tensor_channels source;
    source.channels = block_.rows;
    source.cols = cols_;
    source.base = block_.base;
    source.experts = block_.experts;
    source.out = block_.out;
    downloaded_channel const d = download_channel(work_.executor(), source, row);
    method_workspace host;
    auto const n = static_cast<int>(block_.experts.size());
    std::vector<float> one(block_.experts.size());
    index_t found = -1;
    for_each_segment(cols_, [&](index_t c, int count) {
      if (found >= 0) { return; }
      load_segment(d.block, 0, c, count, what_, host);
      float const* const x = host.models.fit(1);
      for (int k = 0; k < count && found < 0; ++k) {
        for (int i = 0; i < n; ++i) { one[static_cast<std::size_t>(i)] = x[i * segment_stride + k]; }
        float const value = values_.value(static_cast<int>(s), one.data(), n, block_.first + row, c + k);
        if (magnitude_key(value) == bits && --number == 0) { found = (block_.first + row) * cols_ + c + k; }
      }
    });
    return found;
  }

 private:
  [[nodiscard]] magnitude_cut cut_of(stream_selection const& f, index_t elements) const noexcept {
    bool const largest = order_ == radix_select::order::largest;
    if (f.wanted == 0) { return {largest ? 0xFFFFFFFFu : 0u, -1}; }
    if (!f.open) { return {largest ? 0u : 0x7FFFFFFFu, elements}; }
    return {f.bits, elements};
  }

  template <int Most>
  count_arguments<Values, Most> arguments(std::vector<stream_selection> const& found, bool by_row) const {
    count_arguments<Values, Most> a{inputs_of<Most>(block_, cols_, {what_, false, by_row || Values::by_row}), 0, 0, 0, 0, {}, nullptr, values_};
    for (std::size_t s = 0; s < found.size(); ++s) { a.prefix[s] = found[s].bits; }
    return a;
  }

  [[nodiscard]] std::vector<unsigned long long> count(std::vector<stream_selection> const& found, int shift) const {
    cuda const& be = work_.executor();
    current_device const current(be.device());
    std::size_t const size = found.size() * (count_bins + 1);
    device_buffer<unsigned long long> const there = be.make_buffer<unsigned long long>(size);
    check_cuda(cudaMemsetAsync(there.data(), 0, size * sizeof(unsigned long long), be.stream()), "clearing counts");
    add_counts(found, shift, there.data());
    return download(be, there);
  }

  /// Of the elements that equal a cut, finds the index of the last one that is taken.
  void find_last_equals(std::vector<stream_selection> const& found, std::vector<magnitude_cut>& cuts) const {
    std::size_t const streams = found.size();
    auto const straddles = [](stream_selection const& f) { return f.open && f.equal > f.left; };
    if (std::none_of(found.begin(), found.end(), straddles)) { return; }
    auto const equals = count_equals(found);
    for (std::size_t s = 0; s < streams; ++s) {
      if (!straddles(found[s])) { continue; }
      std::uint64_t left = found[s].left;
      std::size_t row = 0;
      for (; equals[row * streams + s] < left; ++row) { left -= equals[row * streams + s]; }
      cuts[s].last = find_in_row(s, static_cast<index_t>(row), found[s].bits, left);
    }
  }

  device_method_workspace& work_;
  channel_block const& block_;
  index_t cols_;
  operand what_;
  Values values_;
  radix_select::order order_;
  bool last_only_;
};

}  // namespace detail
BRAID_NAMESPACE_END
