#pragma once

#include <braid/backend/cpu.hpp>
#include <braid/core/tensor_view.hpp>
#include <braid/residual/apply.hpp>
#include <braid/serve/detail/coded_products.hpp>
#include <braid/serve/detail/row_products.hpp>
#include <braid/serve/row_source.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

/// y = W_expert x for any expert of a merged weight, without rebuilding it: rows are found through the index, residuals are
/// decoded row by row. Switching the expert costs nothing.
///
/// Each output is the dot product of the expert's row, exactly as `extract` gives it, with the input, in float32 in the
/// order of sums (core/sum_order.hpp): a batch gives the bits of its vectors one by one, and so do other instruction sets,
/// threads, and a rebuilt weight. Const members may be called from many threads.
///
/// Cost: reads each row that anybody in the batch needs once from memory. Scratch: about 300 KiB a thread.
/// @note Channel Merging, arXiv 2412.15283: inference looks an expert's channels up.
template <row_source Source>
class row_linear {
 public:
  explicit row_linear(Source source) : source_(std::move(source)) {}

  [[nodiscard]] Source const& source() const noexcept { return source_; }
  [[nodiscard]] std::size_t experts() const noexcept { return source_.experts(); }
  [[nodiscard]] index_t cols() const noexcept { return source_.cols(); }
  /// @throws argument_error if there is no such expert
  [[nodiscard]] index_t channels(std::size_t expert) const {
    check(expert);
    return source_.channels(expert);
  }

  /// An expert's row as `extract` gives it, in float32: what an embedding looks up. out [cols].
  /// @throws argument_error if there is no such expert or channel, shape_error for another size
  void row(std::size_t expert, index_t channel, std::span<float> out) const {
    if (channel < 0 || channel >= channels(expert)) {
      throw argument_error("row_linear: expert number " + std::to_string(expert) + " has no channel " + std::to_string(channel) +
                           "; it has " + std::to_string(channels(expert)));
    }
    if (static_cast<index_t>(out.size()) != cols()) {
      throw shape_error("row_linear: a row has " + std::to_string(cols()) + " columns, and room for " + std::to_string(out.size()) +
                        " was given");
    }
    stored_row const from = source_.row(expert, channel);
    std::byte const* stored = from.shared;
    std::vector<std::byte> rebuilt;
    if (from.code != residual_code::none) {
      rebuilt.resize(out.size() * size_of(source_.type()));
      apply_residual(source_.type(), from.shared, from.code, from.plane, from.scale, source_.column_scales(), cols(), rebuilt.data());
      stored = rebuilt.data();
    }
    detail::convert(source_.type(), stored, dtype::f32, reinterpret_cast<std::byte*>(out.data()), cols());
  }

  /// One vector: x [cols], y [channels].
  /// @throws argument_error if there is no such expert, shape_error for other sizes
  void apply(cpu const& be, std::size_t expert, std::span<float const> x, std::span<float> y) const {
    apply(be, expert, tensor_view<float const>(x.data(), 1, static_cast<index_t>(x.size())),
          tensor_view<float>(y.data(), 1, static_cast<index_t>(y.size())));
  }

  /// A batch of one expert: x [batch, cols], y [batch, channels].
  /// @throws argument_error, shape_error as above
  void apply(cpu const& be, std::size_t expert, tensor_view<float const> x, tensor_view<float> y) const {
    std::vector<std::size_t> const experts(static_cast<std::size_t>(x.rows()), expert);
    check(expert);
    apply(be, experts, x, y);
  }

  /// A batch in which every vector names its expert: y[b] = W_{expert[b]} x[b]. Rows that experts share are read once.
  /// @param expert  [batch]
  /// @param x       [batch, cols]
  /// @param y       [batch, channels]; may not overlap x. Where experts have different channels, as many as the one with the
  ///                most, and what lies beyond an expert's own is left as it is
  /// @throws argument_error if there is no such expert, shape_error for other sizes
  void apply(cpu const& be, std::span<std::size_t const> expert, tensor_view<float const> x, tensor_view<float> y) const {
    index_t channels = 0;
    for (std::size_t const e : expert) {
      check(e);
      channels = std::max(channels, source_.channels(e));
    }
    if (static_cast<index_t>(expert.size()) != x.rows() || x.rows() != y.rows() || x.cols() != cols() ||
        (y.cols() != channels && x.rows() != 0)) {
      throw shape_error("row_linear: " + std::to_string(expert.size()) + " experts, x " + shape(x.rows(), x.cols()) + ", y " +
                        shape(y.rows(), y.cols()) + " where " + shape(x.rows(), cols()) + " and " + shape(x.rows(), channels) +
                        " are needed");
    }
    // As many experts at once as a mask has bits.
    std::map<std::size_t, std::vector<index_t>> columns;
    for (std::size_t b = 0; b < expert.size(); ++b) { columns[expert[b]].push_back(static_cast<index_t>(b)); }
    batch some;
    for (auto& [e, list] : columns) {
      some.push_back({e, std::move(list)});
      if (some.size() == 64) {
        run(be, some, x, y);
        some.clear();
      }
    }
    if (!some.empty()) { run(be, some, x, y); }
  }

 private:
  struct asking {
    std::size_t expert;
    std::vector<index_t> inputs;  // which vectors of the batch
  };
  using batch = std::vector<asking>;

  /// A row that the batch needs, and which of its experts do.
  struct task {
    std::uint64_t experts;
    index_t channel;
    stored_row row;
  };

  static constexpr std::size_t run_length = 64;      // rows that are multiplied together
  static constexpr std::size_t decoded_length = 16;  // if they have to be decoded: they stay in the second cache
  static constexpr index_t column_chunk = 1024;  // of a batch: its inputs stay in the second cache

  static std::string shape(index_t rows, index_t cols) { return std::to_string(rows) + " x " + std::to_string(cols); }

  void check(std::size_t expert) const {
    if (expert >= source_.experts()) {
      throw argument_error("row_linear: no expert number " + std::to_string(expert) + "; there are " +
                           std::to_string(source_.experts()) + ", counted from 0");
    }
  }

  void run(cpu const& be, batch const& some, tensor_view<float const> x, tensor_view<float> y) const {
    index_t channels = 0;
    for (auto const& a : some) { channels = std::max(channels, source_.channels(a.expert)); }
    // Some blocks a thread. Of several experts long ones: rows that the same experts ask for are multiplied together.
    index_t const share = channels / (4 * static_cast<index_t>(be.threads()));
    index_t const block = std::clamp<index_t>(share, 16, some.size() == 1 ? 64 : 512) / 16 * 16;
    index_t const blocks = (channels + block - 1) / block;
    auto const one = [&](index_t i) { run_block(some, i * block, std::min((i + 1) * block, channels), x, y); };
    // Below some ten microseconds of work, threads cost more than they bring. One thread is the caller's own, so that callers
    // on many threads don't wait for each other.
    if (blocks < 2 || be.threads() == 1 || static_cast<double>(channels) * static_cast<double>(cols()) * static_cast<double>(x.rows()) < 131072.0) {
      for (index_t i = 0; i < blocks; ++i) { one(i); }
    } else {
      be.for_each(blocks, one);
    }
  }

  void run_block(batch const& some, index_t first, index_t last, tensor_view<float const> x, tensor_view<float> y) const {
    std::vector<task> tasks;
    tasks.reserve(static_cast<std::size_t>(last - first) * some.size());
    for (index_t c = first; c < last; ++c) {
      std::size_t const own = tasks.size();
      for (std::size_t i = 0; i < some.size(); ++i) {
        if (c >= source_.channels(some[i].expert)) { continue; }
        stored_row const row = source_.row(some[i].expert, c);
        std::uint64_t const bit = std::uint64_t{1} << i;
        std::size_t t = own;
        while (t < tasks.size() && !(row.code == residual_code::none && tasks[t].row.code == residual_code::none &&
                                     tasks[t].row.shared == row.shared)) {
          ++t;
        }
        if (t == tasks.size()) {
          tasks.push_back({bit, c, row});
        } else {
          tasks[t].experts |= bit;
        }
      }
    }
    if (some.size() > 1) {
      std::stable_sort(tasks.begin(), tasks.end(), [](task const& a, task const& b) { return a.experts < b.experts; });
    }
    scratch s;
    for (std::size_t i = 0; i < tasks.size();) {
      std::size_t end = i + 1;
      while (end < tasks.size() && tasks[end].experts == tasks[i].experts) { ++end; }
      s.inputs.clear();
      s.address.clear();
      for (std::size_t k = 0; k < some.size(); ++k) {
        if ((tasks[i].experts >> k & 1u) == 0) { continue; }
        for (index_t const b : some[k].inputs) {
          s.inputs.push_back(b);
          s.address.push_back(x.row(b));
        }
      }
      while (i < end) {
        bool const decoded = must_decode(tasks[i]);
        std::size_t const most = std::min(end, i + (decoded ? decoded_length : run_length));
        std::size_t next = i + 1;
        while (next < most && must_decode(tasks[next]) == decoded) { ++next; }
        if (decoded && s.inputs.size() == 1) {
          // As many as can be had in one pass.
          std::size_t t = i;
          float total = 0.0f;
          while (t < next && detail::coded_product(source_.type(), tasks[t].row, tasks[t + 1 < tasks.size() ? t + 1 : t].row,
                                                   source_.column_scales(), cols(), s.address[0], total)) {
            y(s.inputs[0], tasks[t].channel) = total;
            ++t;
          }
          if (t != i) {
            i = t;
            continue;
          }
          next = i + 1;
        }
        multiply(std::span(tasks).subspan(i, next - i), decoded, s, y);
        i = next;
      }
    }
  }

  struct scratch {
    std::vector<index_t> inputs;
    std::vector<float const*> address;
    std::vector<float> totals;
    std::unique_ptr<std::byte[]> decoded;  // rows
    std::vector<std::byte> narrow;         // one of them before it is widened
  };

  [[nodiscard]] bool is_f8() const noexcept { return size_of(source_.type()) == 1; }
  [[nodiscard]] bool must_decode(task const& t) const noexcept { return t.row.code != residual_code::none || is_f8(); }

  /// The row as `extract` gives it, in scratch; of an f8 in float32.
  std::byte const* decode(stored_row const& from, std::size_t place, scratch& s) const {
    auto const width = static_cast<std::size_t>(cols());
    std::size_t const element = is_f8() ? sizeof(float) : size_of(source_.type());
    if (!s.decoded) { s.decoded = std::make_unique_for_overwrite<std::byte[]>(decoded_length * width * element); }
    std::byte* const to = s.decoded.get() + place * width * element;
    s.narrow.resize(is_f8() ? width : 0);
    apply_residual(source_.type(), from.shared, from.code, from.plane, from.scale, source_.column_scales(), cols(),
                   is_f8() ? s.narrow.data() : to);
    if (is_f8()) { detail::convert(source_.type(), s.narrow.data(), dtype::f32, to, cols()); }
    return to;
  }

  /// Rows that the same vectors ask for, all of which are decoded or none.
  void multiply(std::span<task const> tasks, bool decoded, scratch& s, tensor_view<float> y) const {
    std::array<std::byte const*, run_length> row{};
    for (std::size_t t = 0; t < tasks.size(); ++t) { row[t] = decoded ? decode(tasks[t].row, t, s) : tasks[t].row.shared; }
    int const rows = static_cast<int>(tasks.size());
    int const inputs = static_cast<int>(s.inputs.size());
    s.totals.assign(tasks.size() * s.inputs.size(), 0.0f);
    index_t const chunk = inputs > 4 ? column_chunk : cols();
    for (index_t begin = 0; begin < cols(); begin += chunk) {
      index_t const end = std::min(begin + chunk, cols());
      auto const products = [&]<class T>(T*) {
        detail::row_products<T>(row.data(), rows, s.address.data(), inputs, begin, end, cols(), s.totals.data(), inputs);
      };
      switch (source_.type()) {
        case dtype::bf16: products(static_cast<bfloat16*>(nullptr)); break;
        case dtype::f16: products(static_cast<float16*>(nullptr)); break;
        default: products(static_cast<float*>(nullptr)); break;
      }
    }
    for (std::size_t t = 0; t < tasks.size(); ++t) {
      for (std::size_t b = 0; b < s.inputs.size(); ++b) { y(s.inputs[b], tasks[t].channel) = s.totals[t * s.inputs.size() + b]; }
    }
  }

  Source source_;
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
