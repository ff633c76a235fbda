#pragma once

#include <braid/engine/detail/budget_pass.hpp>
#include <braid/engine/detail/check_options.hpp>
#include <braid/engine/detail/keep_pass.hpp>
#include <braid/engine/detail/merge_pass.hpp>
#include <braid/engine/detail/side_files.hpp>
#include <braid/io/grouped_description.hpp>

#include <chrono>
#include <cmath>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Runs a planned merge: every tensor through blocks of channels into a checkpoint_writer.
class merge_job {
 public:
  merge_job(cpu const& be, tensor_merger const& merger, checkpoint const& base, std::vector<checkpoint> const& experts,
            std::vector<std::string> const& names, merge_plan const& plan, job_options const& options)
      : shared_(be, merger, base, experts, names, plan, options), plan_(plan), budget_(be, merger, base, experts, plan),
        stream_(be, merger.memory()) {}

  report run(std::filesystem::path const& out, grouped_description description) {
    name_models(description);
    shared_.layout.describe(description);
    std::vector<std::vector<std::string>> side;
    for (auto const& e : shared_.experts) { side.push_back(e.side_files()); }
    checkpoint_writer writer(out, shared_.layout.tensors(), shared_.layout.metadata_room(description, side),
                             {shared_.options.max_shard_bytes, shared_.options.overwrite, "model"});
    shared_.writer = &writer;
    shared_.out = out;
    struct closing {
      residual_store& store;
      ~closing() { store.close(); }
    } const before_writer{shared_.residuals};
    auto const files = copy_side_files(writer, shared_.experts, shared_.names);  // what is small and may fail comes first
    report_.notes = plan_.notes;
    for (auto const& p : plan_.tensors) { report_.bytes_read += p.input_bytes(); }
    for (auto const& e : shared_.experts) {
      for (auto const& t : e.tensors()) { report_.expert_bytes += t.bytes; }
    }
    if (shared_.options.weights != nullptr) { check_weights(*shared_.options.weights, plan_, report_.notes); }
    check_adapters(shared_.options.adapters, plan_);
    if (shared_.merger.budget().stored > 0.0) { measure(out); }
    indices_.reserve(plan_.tensors.size());
    reached(stream_timeline::begun);
    for (std::size_t first = 0; first < plan_.tensors.size();) {
      stages leg(*this, description, first, leg_end(first));
      stream_.run(leg.tokens(), leg);
      first = leg.end();
    }
    reached(stream_timeline::streamed);
    if (before_bytes_) { shared_.residuals.write_scales(writer, false); }
    shared_.residuals.write_scales(writer, true);
    for (std::size_t i = 0; i < indices_.size(); ++i) {
      std::size_t const slot = writer.begin(group_name(plan_.tensors[i].name));
      writer.append(slot, std::as_bytes(std::span(indices_[i])));
    }
    shared_.residuals.write_rest(writer, description);
    if (shared_.residuals.any()) {
      description.format = residual_format_version;
      writer.rename_stem("braid");  // the rows alone are no model
    }
    for (std::size_t e = 0; e < shared_.experts.size(); ++e) {
      description.experts[e].files = files[e];
      if (shared_.options.hash_inputs) { description.experts[e].hash = shared_.hashes[e + 1].text(); }
    }
    if (shared_.options.hash_inputs) { description.base.hash = shared_.hashes[0].text(); }
    report_.stored_bytes = writer.bytes_written();
    report_.stored_fraction = report_.expert_bytes == 0 ? 0.0
                                                        : static_cast<double>(report_.stored_bytes) /
                                                              static_cast<double>(report_.expert_bytes);
    writer.commit({{std::string(grouped_metadata_key), description.to_text()}});
    report_.seconds = seconds();
    reached(stream_timeline::committed);
    return std::move(report_);
  }

 private:
  using clock = std::chrono::steady_clock;

  [[nodiscard]] double seconds() const { return std::chrono::duration<double>(clock::now() - start_).count(); }

  void reached(stream_timeline::milestone m) const {
    if (shared_.options.timeline != nullptr) { shared_.options.timeline->reached(m); }
  }

  void name_models(grouped_description& d) const {
    d.experts.resize(shared_.experts.size());
    d.base.name = shared_.base.name();
    for (std::size_t e = 0; e < shared_.experts.size(); ++e) {
      d.experts[e].name = shared_.names[e];
      d.experts[e].absent = plan_.absent[e];
    }
  }

  /// The measuring pass of a budget.
  void measure(std::filesystem::path const& out) {
    for (auto const& p : plan_.tensors) { report_.bytes_read += p.what == action::from_base ? 0 : p.input_bytes(); }
    auto const one = [&](planned_tensor const& p, cluster::budget_histogram& curves) {
      current_ = &p;
      try {
        adapted_rows adapted;
        return shared_.merger.measure(p.name, shared_.names, source_of(shared_, p, adapted), curves);
      } catch (nonfinite_found const& found) {
        throw value_error(describe(p, found.where));
      }
    };
    auto const done = [&](planned_tensor const& p) {
      current_ = &p;
      bytes_done_ += p.input_bytes();
      tell();
    };
    budget_.run(one, done, report_.expert_bytes, out);
  }

  /// Whether nothing else may be under way when a tensor's pass is made.
  [[nodiscard]] bool stands_alone(planned_tensor const& p) const {
    return p.what == action::merge && shared_.merger.measures(shared_.experts.size());
  }

  /// One past the last tensor that streams together with the first.
  [[nodiscard]] std::size_t leg_end(std::size_t first) const {
    std::size_t end = first + 1;
    // A long row that lets few blocks be under way at once must not slow the others down.
    std::size_t const tokens = tokens_of(plan_.tensors[first]);
    auto const alike = [&](std::size_t other) { return other <= 2 * tokens && tokens <= 2 * other; };
    while (end < plan_.tensors.size() && !stands_alone(plan_.tensors[end]) && alike(tokens_of(plan_.tensors[end]))) { ++end; }
    return end;
  }

  /// Most blocks of a tensor that may be under way at once.
  [[nodiscard]] std::size_t tokens_of(planned_tensor const& p) const {
    std::size_t const bytes = p.what == action::merge ? merge_pass::block_bytes(shared_, p) : keep_pass::block_bytes(shared_, p);
    return std::min(shared_.merger.most_blocks(), blocks_on_their_way(shared_.be, bytes));
  }

  [[nodiscard]] std::shared_ptr<tensor_pass> make_pass(planned_tensor const& p) {
    if (p.what != action::merge) { return std::make_shared<keep_pass>(shared_, p); }
    try {
      return std::make_shared<merge_pass>(shared_, p, shared_.merger.budget().stored > 0.0 ? &budget_.of(p.name) : nullptr);
    } catch (nonfinite_found const& found) { throw value_error(describe(p, found.where)); }
  }

  /// Tensors first to end through the stream; see `block_stream` for the stages.
  class stages {
   public:
    stages(merge_job& job, grouped_description& description, std::size_t first, std::size_t end)
        : job_(job), description_(description), tensor_(first), end_(end), tokens_(job.shared_.merger.most_blocks()) {
      for (std::size_t t = first; t < end; ++t) { tokens_ = std::min(tokens_, job_.tokens_of(job_.plan_.tensors[t])); }
      current_ = job_.make_pass(job_.plan_.tensors[tensor_++]);  // here, where all threads may measure it
    }

    [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
    [[nodiscard]] std::size_t end() const noexcept { return end_; }

    [[nodiscard]] bool next(block_slot& s) {
      while (!current_->next(s)) {
        if (tensor_ == end_) { return false; }
        try {
          current_ = job_.make_pass(job_.plan_.tensors[tensor_++]);
        } catch (...) {  // said when its turn comes, behind the blocks that are under way
          tensor_ = end_;
          s.pass.reset();
          s.rows = 0;
          s.misfit = nullptr;
          s.failure = std::current_exception();
          return true;
        }
      }
      s.pass = current_;
      s.misfit = nullptr;
      s.failure = nullptr;
      return true;
    }

    void work(block_slot& s) {
      guard(s, [&] { s.pass->work(s); });
      if (!s.under_way) {
        guard(s, [&] { s.pass->collect(s); });
      }
    }

    void await(block_slot& s) {
      if (s.under_way) {
        stream_timeline::timed const timed(job_.shared_.options.timeline, stream_timeline::wait);
        guard(s, [&] { s.under_way->wait(); });
      }
    }

    void collect(block_slot& s) {
      if (!s.under_way) { return; }
      {
        stream_timeline::timed const timed(job_.shared_.options.timeline, stream_timeline::collect);
        guard(s, [&] { s.under_way->collect(s.merged); });
      }
      s.under_way.reset();
      guard(s, [&] { s.pass->collect(s); });
    }

    void place(block_slot& s) {
      if (s.failure) { std::rethrow_exception(s.failure); }
      planned_tensor const& p = s.pass->planned();
      if (s.first == 0) { job_.begin(*s.pass); }
      if (s.rows > 0) {
        s.pass->place(s);
        job_.bytes_done_ += static_cast<std::uint64_t>(static_cast<double>(p.input_bytes()) * static_cast<double>(s.rows) /
                                                       static_cast<double>(p.channels));
        job_.tell();
      }
      if (s.first + s.rows == p.channels) { job_.end(*s.pass, description_); }
    }

    void finish(block_slot& s) {
      if (s.rows > 0) { s.pass->finish(s); }
      s.pass.reset();
    }

   private:
    /// What fails in one block is said when its turn comes, so that of several failures it is always the same.
    template <class F>
    void guard(block_slot& s, F const& f) const {
      if (s.failure || s.rows == 0) { return; }
      try {
        try {
          f();
        } catch (nonfinite_found const& found) { throw value_error(job_.describe(s.pass->planned(), found.where)); }
      } catch (...) { s.failure = std::current_exception(); }
    }

    merge_job& job_;
    grouped_description& description_;
    std::size_t tensor_;  // the next
    std::size_t end_;
    std::size_t tokens_;
    std::shared_ptr<tensor_pass> current_;
  };

  void begin(tensor_pass& pass) {
    current_ = &pass.planned();
    if (before_bytes_ && size_of(pass.planned().out) == 1) {
      shared_.residuals.write_scales(*shared_.writer, false);
      before_bytes_ = false;
    }
    pass.begin();
  }

  void end(tensor_pass& pass, grouped_description& description) {
    report::tensor stats = pass.end(indices_.emplace_back());
    report_.residual_bytes += stats.residual_bytes;
    description.tensors[stats.name] = {stats.action, stats.groups, stats.similarity};
    report_.tensors.push_back(std::move(stats));
    ++tensors_done_;
    tell();
  }

  void tell() {
    if (shared_.options.on_progress) {
      shared_.options.on_progress({current_->name, tensors_done_, plan_.tensors.size(), bytes_done_, report_.bytes_read, seconds()});
    }
  }

  [[nodiscard]] std::string describe(planned_tensor const& p, nonfinite_location const& at) const {
    bool const in_base = at.model < 0;
    checkpoint const& model = in_base ? shared_.base : shared_.experts[static_cast<std::size_t>(at.model)];
    tensor_meta const* const t = in_base ? p.base : p.experts[static_cast<std::size_t>(at.model)];
    return nonfinite_text(model, *t, p.axis,
                          in_base ? std::string("the base") : "expert '" + shared_.names[static_cast<std::size_t>(at.model)] + "'", at);
  }

  merge_state shared_;
  merge_plan const& plan_;
  clock::time_point start_ = clock::now();
  budget_pass budget_;
  block_stream stream_;
  bool before_bytes_ = true;  // no tensor of one byte an element has begun
  std::vector<std::vector<std::uint8_t>> indices_;  // per tensor, empty where none is needed
  planned_tensor const* current_ = nullptr;
  std::size_t tensors_done_ = 0;
  std::uint64_t bytes_done_ = 0;
  report report_;
};

}  // namespace detail
BRAID_NAMESPACE_END
