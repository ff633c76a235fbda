#pragma once

#include <braid/engine/detail/tensor_pass.hpp>

#include <array>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Kept tensors, and those of the base: rows as they are, equal ones once.
class keep_pass final : public tensor_pass {
 public:
  keep_pass(merge_state& shared, planned_tensor const& p)
      : tensor_pass(shared, p, block_rows(shared, p), widest_row(shared, p)), from_base_(p.what == action::from_base),
        first_channels_(p.in_first || from_base_ ? p.expert_channels[0] : 0) {
    for (std::size_t e = 0; e < models(shared, p); ++e) {
      tensor_meta const* const t = from_base_ ? p.base : p.experts[e];
      source_.emplace_back();
      if (t == nullptr) { continue; }
      source_.back() = {model(e).bytes(*t).data(), t->type, p.expert_channels[e], static_cast<std::size_t>(p.cols) * size_of(t->type)};
    }
  }

  /// Bytes of the results of a block.
  [[nodiscard]] static std::size_t block_bytes(merge_state const& shared, planned_tensor const& p) {
    std::size_t const row = static_cast<std::size_t>(p.cols) * size_of(p.out);
    return static_cast<std::size_t>(std::min(block_rows(shared, p), p.channels)) * (1 + models(shared, p)) * row;
  }

  void work(block_slot& s) override {
    pass_scratch& mine = shared_.scratch.local();
    auto const n = static_cast<std::size_t>(s.rows);
    std::size_t const experts = source_.size();
    fit(s.group_zero, n * row_bytes());
    fit(s.extra, n * experts * row_bytes());
    fit(s.label, n * experts);
    fit(s.hash, n * experts);
    s.merged = {};
    stream_timeline::timed const timed(shared_.options.timeline, stream_timeline::read);
    for (std::size_t r = 0; r < n; ++r) { keep_channel(s, r, mine); }
  }

  void collect(block_slot& s) override {
    if (checks_results()) {
      check_results(planned_, s, s.zero_rows, static_cast<std::size_t>(s.merged.extra_rows), row_bytes(), shared_.scratch.local().work);
    }
    tensor_pass::collect(s);
  }

  void place(block_slot& s) override {
    auto const n = static_cast<std::size_t>(s.rows);
    if (from_base_) {
      used_.add(s);
    } else {
      place_rows(s);
    }
    for (std::size_t e = 0; shared_.options.hash_inputs && e < source_.size(); ++e) {
      index_t const own_rows = std::clamp<index_t>(source_[e].channels - s.first, 0, s.rows);
      shared_.hashes[number(e)].rows(s.hash.data() + e * n, static_cast<std::size_t>(own_rows));
    }
  }

  void finish(block_slot& s) override {
    tensor_pass::finish(s);
    for (std::size_t e = 0; e < source_.size(); ++e) { release(model(e), from_base_ ? planned_.base : planned_.experts[e], s); }
  }

 protected:
  void begin_inputs() override {
    for (std::size_t e = 0; e < source_.size(); ++e) { hash_model(number(e), from_base_ ? planned_.base : planned_.experts[e]); }
  }

 private:
  struct row_source {
    std::byte const* data = nullptr;
    dtype type = dtype::f32;
    index_t channels = 0;
    std::size_t row_bytes = 0;
  };

  [[nodiscard]] static std::size_t models(merge_state const& shared, planned_tensor const& p) {
    return p.what == action::from_base ? 1 : shared.experts.size();
  }
  [[nodiscard]] static std::size_t widest_row(merge_state const& shared, planned_tensor const& p) {
    std::size_t widest = 1;
    for (std::size_t e = 0; e < models(shared, p); ++e) {
      tensor_meta const* const t = p.what == action::from_base ? p.base : p.experts[e];
      if (t != nullptr) { widest = std::max(widest, static_cast<std::size_t>(p.cols) * size_of(t->type)); }
    }
    return widest;
  }
  [[nodiscard]] static index_t block_rows(merge_state const& shared, planned_tensor const& p) {
    if (shared.options.block_rows > 0) { return shared.options.block_rows; }
    auto const fitting = static_cast<index_t>((std::size_t{1} << 20) / (widest_row(shared, p) * models(shared, p)));
    return std::max<index_t>(1, fitting);
  }

  [[nodiscard]] checkpoint const& model(std::size_t e) const { return from_base_ ? shared_.base : shared_.experts[e]; }
  [[nodiscard]] std::size_t number(std::size_t e) const noexcept { return from_base_ ? 0 : e + 1; }

  void keep_channel(block_slot& s, std::size_t r, pass_scratch& mine) const {
    planned_tensor const& p = planned_;
    auto const n = static_cast<std::size_t>(s.rows);
    std::size_t const experts = source_.size();
    index_t const channel = s.first + static_cast<index_t>(r);
    int groups = 0;
    std::array<std::byte const*, max_experts> stored;  // the row of each group, as it is written
    for (std::size_t e = 0; e < experts; ++e) {
      row_source const& x = source_[e];
      s.hash[e * n + r] = 0;
      if (channel >= x.channels) {
        s.label[r * experts + e] = no_group;
        continue;
      }
      std::byte const* row = x.data + static_cast<std::size_t>(channel) * x.row_bytes;
      if (reinterpret_cast<std::uintptr_t>(row) % size_of(x.type) != 0) {  // a file may put a tensor anywhere
        fit(mine.aligned, x.row_bytes);
        std::memcpy(mine.aligned.data(), row, x.row_bytes);
        row = mine.aligned.data();
      }
      if (!shared_.merger.allow_nonfinite() && is_computable(x.type)) {
        check_finite_row(row, x.type, p.cols, from_base_ ? -1 : static_cast<int>(e), channel, mine.work);
      }
      if (shared_.options.hash_inputs) { s.hash[e * n + r] = row_hash(row, x.row_bytes); }
      if (x.type != p.out) {
        fit(mine.converted, row_bytes());
        convert(x.type, row, p.out, mine.converted.data(), p.cols);
        row = mine.converted.data();
      }
      int g = 0;
      while (g < groups && std::memcmp(row, stored[static_cast<std::size_t>(g)], row_bytes()) != 0) { ++g; }
      s.label[r * experts + e] = static_cast<std::uint8_t>(g);
      if (g < groups) { continue; }
      bool const zero = g == 0 && channel < first_channels_;
      std::byte* const to = zero ? s.group_zero.data() + s.zero_rows++ * row_bytes()
                                 : s.extra.data() + static_cast<std::size_t>(s.merged.extra_rows++) * row_bytes();
      std::memcpy(to, row, row_bytes());
      stored[static_cast<std::size_t>(groups++)] = to;
    }
  }

  bool from_base_;
  index_t first_channels_;  // of the first expert: their first row is in the tensor itself
  std::vector<row_source> source_;
};

}  // namespace detail
BRAID_NAMESPACE_END
