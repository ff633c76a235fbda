#pragma once

#include <braid/backend/channel_block.hpp>
#include <braid/engine/merge_plan.hpp>
#include <braid/io/checkpoint_writer.hpp>
#include <braid/io/detail/spool_file.hpp>
#include <braid/io/grouped_description.hpp>
#include <braid/io/residual_layout.hpp>

#include <algorithm>
#include <optional>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Residuals on their way from the blocks of a merge to its files. They belong behind tensors that are merged later, since
/// files are in the order of falling element size: scales and codes, which are small, wait in memory, planes in a file.
class residual_store {
 public:
  /// @param codes  those that the method may give a row; none of them: there will be no residuals
  residual_store(std::vector<residual_code> codes, std::size_t experts) : codes_(std::move(codes)), experts_(experts) {
    std::erase(codes_, residual_code::none);
  }

  /// Whether there may be residuals.
  [[nodiscard]] bool active() const noexcept { return !codes_.empty(); }
  /// Whether there are any so far.
  [[nodiscard]] bool any() const noexcept {
    return std::any_of(entries_.begin(), entries_.end(), [](entry const& e) { return e.bytes() != 0; });
  }
  [[nodiscard]] std::vector<residual_code> const& codes() const noexcept { return codes_; }

  /// Most bytes of a channel's planes.
  [[nodiscard]] std::size_t plane_bound(index_t cols) const noexcept {
    index_t most = 0;
    for (residual_code const c : codes_) { most = std::max(most, residual_bytes(c, cols)); }
    return static_cast<std::size_t>(most) * experts_;
  }

  /// The scales of tensors of one byte an element can't come before these: they begin a file of their own.
  void plan_scales(merge_plan const& plan, bool one_byte, std::vector<tensor_plan>& plans) const {
    if (!active()) { return; }
    bool first = one_byte;
    for (auto const& p : plan.tensors) {
      if (p.what != action::merge || (size_of(p.out) == 1) != one_byte) { continue; }
      plans.push_back({scale_name(p.name), dtype::bf16, {p.channels * scale_bound()}, true, -1, first});
      plans.push_back({column_name(p.name), dtype::bf16, {p.cols}, true, -1});
      first = false;
    }
  }
  /// @param unit  of the indices, which the codes are neighbours of
  void plan_codes(merge_plan const& plan, int unit, std::vector<tensor_plan>& plans) const {
    if (!active()) { return; }
    for (auto const& p : plan.tensors) {
      if (p.what != action::merge) { continue; }
      plans.push_back({code_name(p.name), dtype::u8, {static_cast<index_t>(experts_), p.channels}, true, unit});
    }
    for (auto const& p : plan.tensors) {
      if (p.what != action::merge) { continue; }
      plans.push_back({residual_name(p.name), dtype::u8, {p.channels * static_cast<index_t>(plane_bound(p.cols))}, true, -1});
    }
  }

  /// The next tensor, in the order of the plan.
  /// @param column  scales of its columns, or nothing
  void begin(planned_tensor const& p, std::vector<bfloat16> column, checkpoint_writer const& writer,
             std::filesystem::path const& shown) {
    if (!active()) { return; }
    if (!spool_) { spool_.emplace(writer.hidden_directory(), shown); }
    entry e;
    e.tensor = &p;
    e.column = std::move(column);
    e.first_byte = spool_->size();
    entries_.push_back(std::move(e));
  }

  /// The next channels of the tensor.
  void append(residual_block const& block) {
    if (!active()) { return; }
    entry& e = entries_.back();
    e.code.insert(e.code.end(), block.code.begin(), block.code.end());
    e.scales.insert(e.scales.end(), block.scales.begin(), block.scales.end());
    spool_->append(block.planes);
    e.plane_bytes += block.planes.size();
  }

  /// All channels of the tensor were there.
  /// @param index  [experts, channels]: groups
  /// @return bytes that its residuals will take
  std::uint64_t end(std::vector<std::uint8_t> const& index) {
    if (!active()) { return 0; }
    entry& e = entries_.back();
    if (std::all_of(e.code.begin(), e.code.end(), [](residual_code c) { return c == residual_code::none; })) {
      e.code.clear();
      e.column.clear();
      return 0;
    }
    e.implied = implied_code(e, index);
    if (e.implied) {
      e.code.clear();
    } else {
      auto const channels = static_cast<std::size_t>(e.tensor->channels);
      std::vector<residual_code> by_expert(e.code.size());
      for (std::size_t c = 0; c < channels; ++c) {
        for (std::size_t n = 0; n < experts_; ++n) { by_expert[n * channels + c] = e.code[c * experts_ + n]; }
      }
      e.code = std::move(by_expert);
    }
    return e.bytes();
  }

  void write_scales(checkpoint_writer& writer, bool one_byte) const {
    for (entry const& e : entries_) {
      if ((size_of(e.tensor->out) == 1) != one_byte) { continue; }
      writer.append(writer.begin(scale_name(e.tensor->name)), std::as_bytes(std::span(e.scales)));
      writer.append(writer.begin(column_name(e.tensor->name)), std::as_bytes(std::span(e.column)));
    }
  }

  /// Codes, then planes; afterwards nothing of the store is left beside the checkpoint.
  void write_rest(checkpoint_writer& writer, grouped_description& description) {
    for (entry const& e : entries_) {
      writer.append(writer.begin(code_name(e.tensor->name)), std::as_bytes(std::span(e.code)));
      if (e.implied) { description.residuals.emplace(e.tensor->name, *e.implied); }
    }
    for (entry const& e : entries_) {
      std::size_t const slot = writer.begin(residual_name(e.tensor->name));
      spool_->read(e.first_byte, e.plane_bytes, [&](std::span<std::byte const> piece) { writer.append(slot, piece); });
    }
    close();
  }

  /// Gives the temporary file back. Before the checkpoint's directory gets its name, or is removed.
  void close() noexcept { spool_.reset(); }

 private:
  struct entry {
    planned_tensor const* tensor = nullptr;
    std::vector<residual_code> code;  // [channels, experts]; at the end [experts, channels], or nothing
    std::optional<residual_code> implied;
    std::vector<bfloat16> scales;
    std::vector<bfloat16> column;
    std::uint64_t first_byte = 0;  // in the spool
    std::uint64_t plane_bytes = 0;

    [[nodiscard]] std::uint64_t bytes() const noexcept {
      return plane_bytes + (scales.size() + column.size()) * sizeof(bfloat16) + code.size();
    }
  };

  [[nodiscard]] index_t scale_bound() const noexcept {
    int most = 0;
    for (residual_code const c : codes_) { most = std::max(most, residual_scales(c)); }
    return static_cast<index_t>(experts_) * most;
  }

  /// The one code of all rows that experts share, where there is one and no other row has any.
  [[nodiscard]] std::optional<residual_code> implied_code(entry const& e, std::vector<std::uint8_t> const& index) const {
    auto const channels = static_cast<std::size_t>(e.tensor->channels);
    residual_code const code =
        *std::find_if(e.code.begin(), e.code.end(), [](residual_code c) { return c != residual_code::none; });
    std::vector<std::uint8_t> members(256);
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t n = 0; n < experts_; ++n) { members[index[n * channels + c]] = 0; }
      for (std::size_t n = 0; n < experts_; ++n) { ++members[index[n * channels + c]]; }
      for (std::size_t n = 0; n < experts_; ++n) {
        residual_code const expected = members[index[n * channels + c]] > 1 ? code : residual_code::none;
        if (e.code[c * experts_ + n] != expected) { return std::nullopt; }
      }
    }
    return code;
  }

  std::vector<residual_code> codes_;
  std::size_t experts_;
  std::vector<entry> entries_;
  std::optional<spool_file> spool_;
};

}  // namespace detail
BRAID_NAMESPACE_END
