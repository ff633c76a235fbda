#pragma once

#include <braid/engine/column_weights.hpp>
#include <braid/engine/detail/block_stream.hpp>
#include <braid/engine/detail/input_hash.hpp>
#include <braid/engine/detail/merge_layout.hpp>
#include <braid/engine/detail/nonfinite.hpp>
#include <braid/engine/detail/tensor_merger.hpp>
#include <braid/engine/merge_plan.hpp>
#include <braid/engine/report.hpp>
#include <braid/engine/stream_timeline.hpp>
#include <braid/recipe/detail/read_rows.hpp>

#include <tbb/enumerable_thread_specific.h>

#include <atomic>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What the caller wants, without the method.
struct job_options {
  std::uint64_t max_shard_bytes = 0;
  bool overwrite = false;
  bool hash_inputs = true;
  index_t block_rows = 0;  // 0: chosen; for tests
  progress_callback on_progress;
  stream_timeline* timeline = nullptr;
  column_weights const* weights = nullptr;
  std::vector<recipe::adapter const*> adapters;  // of each expert, null where it has none; empty: nobody has one
};

/// A thread's memory for blocks.
struct pass_scratch {
  channel_workspace work;
  std::vector<std::byte> gathered;
  std::vector<std::byte> aligned;
  std::vector<std::byte> converted;
};

/// What the passes of a merge share.
struct merge_state {
  cpu const& be;
  tensor_merger const& merger;
  checkpoint const& base;
  std::vector<checkpoint> const& experts;
  std::vector<std::string> const& names;
  job_options const& options;
  residual_store residuals;
  merge_layout layout;
  std::vector<input_hash> hashes;  // base, experts
  checkpoint_writer* writer = nullptr;
  std::filesystem::path out = {};
  tbb::enumerable_thread_specific<pass_scratch> scratch = {};

  merge_state(cpu const& executor, tensor_merger const& m, checkpoint const& b, std::vector<checkpoint> const& e,
              std::vector<std::string> const& n, merge_plan const& plan, job_options const& o)
      : be(executor), merger(m), base(b), experts(e), names(n), options(o), residuals(m.residuals(), e.size()),
        layout(plan, e.size(), m.groups(), residuals), hashes(e.size() + 1) {}
};

/// One tensor on its way through a `block_stream`, together with others. `begin`, `place` and `end` are called for one block
/// after the other, in the order of the tensors and their channels; `work`, `collect` and `finish` from many threads.
class tensor_pass {
 public:
  /// @param rows  channels a block
  tensor_pass(merge_state& shared, planned_tensor const& p, index_t rows, std::size_t row_bytes)
      : shared_(shared), planned_(p), rows_(std::max<index_t>(rows, 1)), used_(p.channels, row_bytes),
        index_(static_cast<std::size_t>(p.channels) * shared.experts.size(), 0) {}
  tensor_pass(tensor_pass const&) = delete;
  tensor_pass& operator=(tensor_pass const&) = delete;
  virtual ~tensor_pass() = default;

  [[nodiscard]] planned_tensor const& planned() const noexcept { return planned_; }

  /// The next block. A tensor without channels has one without rows, so that it too begins and ends.
  /// @return false where there is none
  [[nodiscard]] bool next(block_slot& s) {
    if (begun_ >= planned_.channels && any_) { return false; }
    any_ = true;
    s.first = begun_;
    s.rows = std::min(rows_, planned_.channels - begun_);
    s.zero_rows = 0;
    s.zero_written = false;
    begun_ += s.rows;
    return true;
  }

  /// Merges a block, or lets it be merged.
  virtual void work(block_slot& s) = 0;

  /// Behind `work`, and what it has begun. Writes group 0 if its place is known by now.
  virtual void collect(block_slot& s) {
    if (placed_.load(std::memory_order_acquire)) { write_zero(s); }
  }

  void begin() {
    bool const from_base = planned_.what == action::from_base;
    if (planned_.in_first || from_base) { own_ = shared_.writer->begin(planned_.name); }
    if (shared_.layout.extra_bound(planned_) > 0) { extra_ = shared_.writer->begin(extra_name(planned_.name)); }
    begin_inputs();
    placed_.store(true, std::memory_order_release);
  }

  virtual void place(block_slot& s) = 0;

  /// @param index  what becomes of it: groups [experts, channels], or nothing where all experts share every row
  [[nodiscard]] report::tensor end(std::vector<std::uint8_t>& index) {
    report::tensor stats;
    stats.name = planned_.name;
    stats.action = std::string(name_of(planned_.what));
    stats.channels = planned_.channels;
    stats.residual_bytes = end_residuals();
    index_t const first = planned_.in_first || planned_.what == action::from_base ? planned_.expert_channels[0] : 0;
    stats.stored_rows = first + extra_rows_;
    int most = 0;
    for (std::uint8_t const g : index_) { most = g != no_group && g > most ? g : most; }
    stats.groups = most + 1;
    if (compared_ > 0) {
      double const mean = static_cast<double>(similarity_) / merged_block::similarity_unit / static_cast<double>(compared_);
      stats.similarity = std::round(mean * 1e6) / 1e6;
    }
    if (std::any_of(index_.begin(), index_.end(), [](std::uint8_t g) { return g != 0; })) { index = std::move(index_); }
    return stats;
  }

  /// Writes what wasn't, and lets pages of inputs go.
  virtual void finish(block_slot& s) {
    write_zero(s);
    if (s.merged.extra_rows > 0) {
      stream_timeline::timed const timed(shared_.options.timeline, stream_timeline::write);
      shared_.writer->write(extra_, s.extra_at, s.extra.first(static_cast<std::size_t>(s.merged.extra_rows) * row_bytes()));
    }
  }

 protected:
  /// At the turn of the tensor.
  virtual void begin_inputs() = 0;
  [[nodiscard]] virtual std::uint64_t end_residuals() { return 0; }

  [[nodiscard]] std::size_t row_bytes() const noexcept { return static_cast<std::size_t>(planned_.cols) * size_of(planned_.out); }
  [[nodiscard]] bool checks_results() const { return !shared_.merger.allow_nonfinite() && may_overflow(planned_.out); }

  /// A tensor of a model, for hashing: which model (0: the base), which bytes.
  void hash_model(std::size_t model, tensor_meta const* t) {
    if (shared_.options.hash_inputs && t != nullptr) { shared_.hashes[model].begin(*t); }
  }

  /// Further rows get their place in the file, labels go to the index [experts, channels].
  void place_rows(block_slot& s) {
    used_.add(s);
    if (s.merged.extra_rows > 0) {
      s.extra_at = shared_.writer->extend(extra_, static_cast<std::uint64_t>(s.merged.extra_rows) * row_bytes());
      extra_rows_ += s.merged.extra_rows;
    }
    std::size_t const experts = shared_.experts.size();
    for (std::size_t e = 0; e < experts; ++e) {
      std::uint8_t* const to = index_.data() + e * static_cast<std::size_t>(planned_.channels) + static_cast<std::size_t>(s.first);
      for (std::size_t r = 0; r < static_cast<std::size_t>(s.rows); ++r) { to[r] = s.label[r * experts + e]; }
    }
  }

  /// Mapped pages that are done with go, so that resident memory doesn't grow with the model.
  void release(checkpoint const& model, tensor_meta const* t, block_slot const& s) const {
    if (t == nullptr || s.done_rows == 0) { return; }
    stream_timeline::timed const timed(shared_.options.timeline, stream_timeline::release);
    if (planned_.transposed != 0) {
      if (s.done_first + s.done_rows == planned_.channels) { model.release(*t, 0, t->bytes); }
      return;
    }
    std::uint64_t const row = static_cast<std::uint64_t>(planned_.cols) * size_of(t->type);
    std::uint64_t const begin = static_cast<std::uint64_t>(s.done_first) * row;
    if (begin < t->bytes) { model.release(*t, begin, std::min(static_cast<std::uint64_t>(s.done_rows) * row, t->bytes - begin)); }
  }

  merge_state& shared_;
  planned_tensor const& planned_;
  index_t rows_;
  used_inputs used_;
  std::vector<std::uint8_t> index_;  // groups [experts, channels]
  index_t extra_rows_ = 0;
  std::int64_t similarity_ = 0;
  index_t compared_ = 0;

 private:
  void write_zero(block_slot& s) {
    if (s.zero_written || s.zero_rows == 0) { return; }
    s.zero_written = true;
    stream_timeline::timed const timed(shared_.options.timeline, stream_timeline::write);
    if (planned_.transposed != 0 && planned_.what == action::merge) {
      write_transposed(s);
      return;
    }
    shared_.writer->write(own_, static_cast<std::uint64_t>(s.first) * row_bytes(), s.group_zero.first(s.zero_rows * row_bytes()));
  }

  /// Group 0 of a [..., cols, width] tensor, from contiguous rows.
  void write_transposed(block_slot const& s) {
    planned_tensor const& p = planned_;
    std::vector<std::byte>& line = shared_.scratch.local().gathered;
    std::size_t const element = size_of(p.out);
    for (index_t r = 0; r < s.rows;) {
      index_t const leading = (s.first + r) / p.transposed;
      index_t const column = (s.first + r) % p.transposed;
      index_t const run = std::min(s.rows - r, p.transposed - column);
      fit(line, static_cast<std::size_t>(run) * element);
      for (index_t c = 0; c < p.cols; ++c) {
        for (index_t i = 0; i < run; ++i) {
          std::memcpy(line.data() + static_cast<std::size_t>(i) * element,
                      s.group_zero.data() + static_cast<std::size_t>((r + i) * p.cols + c) * element, element);
        }
        auto const at = static_cast<std::uint64_t>((leading * p.cols + c) * p.transposed + column) * element;
        shared_.writer->write(own_, at, std::span(line).first(static_cast<std::size_t>(run) * element));
      }
      r += run;
    }
  }

  index_t begun_ = 0;
  bool any_ = false;
  std::size_t own_ = 0;    // slots of the writer
  std::size_t extra_ = 0;
  std::atomic<bool> placed_{false};  // both are known
};

}  // namespace detail
BRAID_NAMESPACE_END
