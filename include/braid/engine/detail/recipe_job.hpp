#pragma once

/// Runs a planned recipe: every tensor through blocks of channels into a checkpoint_writer.

#include <braid/engine/detail/block_stream.hpp>
#include <braid/engine/detail/input_hash.hpp>
#include <braid/engine/detail/model_files.hpp>
#include <braid/engine/detail/nonfinite.hpp>
#include <braid/engine/detail/tensor_runner.hpp>
#include <braid/engine/report.hpp>
#include <braid/method/global_magnitude_cuts.hpp>
#include <braid/recipe/detail/tensor_inputs.hpp>

#include <tbb/enumerable_thread_specific.h>
#include <tbb/task_arena.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// How a recipe runs; what it computes is in the plan.
struct run_options {
  std::uint64_t max_shard_bytes = 5'000'000'000;  // tensor bytes a file; a larger tensor has its own file
  bool overwrite = false;                         // replace a checkpoint at the output path
  bool hash_inputs = true;                        // name what was read in the model card; costs a hash of every input byte
  bool allow_nonfinite = false;                   // NaN and infinity in inputs are merged as they are
  index_t block_rows = 0;                         // channels a block; 0: chosen. Never changes a result
  progress_callback on_progress{};
  device_options device{};                        // of backends that are no braid::cpu
};

namespace detail {

class recipe_job {
 public:
  /// @param runners  each takes the next tensor as soon as it is free
  recipe_job(cpu const& be, std::vector<tensor_runner*> const& runners, run_plan const& plan, run_options const& options)
      : be_(be), plan_(plan), options_(options), methods_(plan.recipe), hashes_(plan.models.size()),
        adapter_hashes_(plan.models.size()) {
    for (tensor_runner* const r : runners) { lines_.push_back(std::make_unique<line>(*r, be)); }
  }

  report run(std::filesystem::path const& out) {
    std::vector<std::filesystem::path> inputs;
    for (opened_model const& m : plan_.models) {
      inputs.push_back(m.files.path());
      if (m.lora) { inputs.push_back(m.lora_path); }
    }
    check_output(out, inputs, options_.overwrite);
    std::vector<tensor_plan> tensors;
    for (run_tensor const& t : plan_.tensors) { tensors.push_back({t.name, t.out, t.shape}); }
    checkpoint_writer writer(out, std::move(tensors), 0, {options_.max_shard_bytes, options_.overwrite, "model"});
    writer_ = &writer;
    report_.notes = plan_.notes;
    report_.bytes_read = plan_.bytes_read();
    model_files(plan_).write(writer);  // what is small and may fail comes first
    measure_cuts();
    all_tensors();
    hash_adapters();
    writer.add_file("README.md", model_card(plan_, hash_texts(hashes_), hash_texts(adapter_hashes_)));
    report_.stored_bytes = writer.bytes_written();
    for (run_tensor const& t : plan_.tensors) { report_.expert_bytes += t.input_bytes(); }
    report_.stored_fraction =
        report_.expert_bytes == 0 ? 0.0 : static_cast<double>(report_.stored_bytes) / static_cast<double>(report_.expert_bytes);
    writer.commit({});
    report_.seconds = seconds();
    return std::move(report_);
  }

 private:
  using clock = std::chrono::steady_clock;

  /// One tensor at a time.
  struct line {
    tensor_runner& runner;
    braid::detail::block_stream stream;
    line(tensor_runner& r, cpu const& be) : runner(r), stream(be, r.memory()) {}
  };
  using row_hashes = std::vector<std::vector<std::uint64_t>>;  // of a tensor's sources

  /// Every tensor, in order, or by several lines at once. What fails is the failure of the first tensor that does, as it
  /// would be with one line.
  void all_tensors() {
    std::size_t const count = plan_.tensors.size();
    for (run_tensor const& t : plan_.tensors) {
      slots_.push_back(writer_->begin(t.name));
      cut_numbers_.push_back(t.what == tensor_step::merge && t.elements() > 0 ? merged_++ : 0);
    }
    report_.tensors.resize(count);
    pending_.resize(count);
    std::atomic<std::size_t> next{0};
    std::atomic<bool> failed{false};
    std::size_t failed_at = count;
    std::exception_ptr failure;
    auto const drive = [&](line& l) {
      while (!failed) {  // asked before a number is taken: the first tensor that fails has been tried
        std::size_t const i = next++;
        if (i >= count) { return; }
        try {
          tensor(i, l);
        } catch (...) {
          std::lock_guard const lock(mutex_);
          failed = true;
          if (i < failed_at) {
            failed_at = i;
            failure = std::current_exception();
          }
        }
      }
    };
    {
      struct joining {
        std::vector<std::thread> threads;
        ~joining() {
          for (std::thread& t : threads) { t.join(); }
        }
      } others;
      try {
        for (std::size_t i = 1; i < lines_.size(); ++i) { others.threads.emplace_back([&, i] { drive(*lines_[i]); }); }
      } catch (std::system_error const&) {  // fewer lines do as well
      }
      drive(*lines_.front());
    }
    if (failure) { std::rethrow_exception(failure); }
  }

  [[nodiscard]] double seconds() const { return std::chrono::duration<double>(clock::now() - start_).count(); }

  /// Trims over the whole model: two or three passes over everything that is merged.
  void measure_cuts() {
    std::vector<run_tensor const*> merged;
    for (run_tensor const& t : plan_.tensors) {
      if (t.what == tensor_step::merge && t.elements() > 0) { merged.push_back(&t); }
    }
    if (merged.empty() || !methods_.of(*merged.front()).info().needs_cuts) { return; }
    auto const densities = [](run_tensor const& t) {
      std::vector<double> all;
      auto const it = t.parameters.of_model.find("density");
      for (std::size_t i = 0; i < t.sources.size(); ++i) {
        all.push_back(it == t.parameters.of_model.end() ? 1.0 : it->second[i].value_or(1.0));
      }
      return all;
    };
    std::vector<double> const density = densities(*merged.front());
    for (run_tensor const* const t : merged) {
      if (densities(*t) != density) {
        throw argument_error(plan_.recipe.file + ": trimming over the whole model needs one density a model, and tensor " +
                             braid::detail::in_quotes(t->name) + " has others than " +
                             braid::detail::in_quotes(merged.front()->name) + "; write 'scope: tensor'");
      }
    }
    cuts_.emplace(density);
    while (cuts_->next_pass()) {
      for (run_tensor const* const t : merged) {
        tensor_inputs const inputs(plan_, *t);
        try {
          cuts_->add(be_, inputs.channels());
        } catch (braid::detail::nonfinite_found const& found) { throw value_error(describe(*t, found.where)); }
        release_all(*t);
        report_.bytes_read += t->input_bytes();
        tell(*t, t->input_bytes());
      }
    }
  }

  void tensor(std::size_t number, line& l) {
    run_tensor const& t = plan_.tensors[number];
    std::size_t const slot = slots_[number];
    row_hashes hashes;
    report::tensor stats;
    stats.name = t.name;
    stats.action = std::string(name_of(t.what));
    stats.channels = stats.stored_rows = t.channels();
    tensor_inputs const inputs(plan_, t);
    if (t.elements() > 0) {
      try {
        if (t.what == tensor_step::merge) {
          merge(number, inputs, l, hashes);
        } else {
          copy(t, inputs, slot, l, hashes);
        }
      } catch (braid::detail::nonfinite_found const& found) { throw value_error(describe(t, found.where)); }
      for (run_source const& s : t.inputs()) { release_all(s); }
    }
    std::lock_guard const lock(mutex_);
    report_.tensors[number] = std::move(stats);
    ++tensors_done_;
    pending_[number] = std::move(hashes);
    for (; hashed_ < pending_.size() && pending_[hashed_]; ++hashed_) {  // of models, in the order of the plan
      add_hashes(plan_.tensors[hashed_], *pending_[hashed_]);
      pending_[hashed_]->clear();
      for (run_source const& s : plan_.tensors[hashed_].owners) { release_all(s); }  // which hashing has read
    }
  }

  void merge(std::size_t number, tensor_inputs const& inputs, line& l, row_hashes& hashes) {
    run_tensor const& t = plan_.tensors[number];
    std::size_t const slot = slots_[number];
    tensor_request request = inputs.request(options_.allow_nonfinite);
    if (cuts_) { request.cuts = cuts_->of_tensor(cut_numbers_[number]); }
    l.runner.prepare(t, request);
    std::size_t const row_bytes = static_cast<std::size_t>(t.cols()) * size_of(t.out);
    tbb::enumerable_thread_specific<workspace> locals;
    stream(t, l, hashes, l.runner.block_rows(inputs.channels()), [&](braid::detail::block_slot& s) {
      workspace& work = locals.local();
      auto const block = inputs.channels().block(s.first, s.rows, work.gathered);
      std::size_t const bytes = static_cast<std::size_t>(s.rows) * row_bytes;
      braid::detail::fit(s.group_zero, bytes);
      // Who waits for threads in there must not begin another block: it has this thread's memory, and perhaps a lane.
      tbb::this_task_arena::isolate([&] { l.runner.apply(block, s.group_zero.data(), work); });
      check_stored(t, s, work);
      writer_->write(slot, static_cast<std::uint64_t>(s.first) * row_bytes, s.group_zero.first(bytes));
    });
  }

  /// Of one model: bytes as they are, unless their type changes.
  void copy(run_tensor const& t, tensor_inputs const& inputs, std::size_t slot, line& l, row_hashes& hashes) {
    channel_rows const& rows = inputs.channels().experts.front();
    std::size_t const row_bytes = static_cast<std::size_t>(t.cols()) * size_of(t.out);
    bool const as_it_is = rows.computed == nullptr && rows.type == t.out;
    bool const checked = is_computable(rows.type) && !options_.allow_nonfinite;
    tbb::enumerable_thread_specific<workspace> locals;
    stream(t, l, hashes, braid::detail::block_rows(inputs.channels()), [&](braid::detail::block_slot& s) {
      workspace& work = locals.local();
      std::size_t const bytes = static_cast<std::size_t>(s.rows) * row_bytes;
      auto const at = static_cast<std::uint64_t>(s.first) * row_bytes;
      if (!is_computable(rows.type)) {
        writer_->write(slot, at, std::span(rows.data + at, bytes));
        return;
      }
      auto const block = inputs.channels().block(s.first, s.rows, work.gathered);
      channel_rows const& from = block.experts.front();
      if (checked) { check_rows(from.data, from.type, s, t.cols(), 0, work); }
      if (as_it_is) {
        writer_->write(slot, at, std::span(from.data, bytes));
        return;
      }
      braid::detail::fit(s.group_zero, bytes);
      for (index_t r = 0; r < s.rows; ++r) {
        braid::detail::convert(from.type, from.row(r), t.out, s.group_zero.data() + static_cast<std::size_t>(r) * row_bytes, t.cols());
      }
      check_stored(t, s, work);
      writer_->write(slot, at, s.group_zero.first(bytes));
    });
  }

  using workspace = tensor_runner::workspace;

  /// Blocks of a tensor through `work`, hashes and pages of its inputs taken care of.
  template <class Work>
  void stream(run_tensor const& t, line& l, row_hashes& hashes, index_t usual_rows, Work const& work) {
    auto const sources = t.inputs();
    bool const hashing = options_.hash_inputs && t.owners.empty();
    index_t const rows = options_.block_rows > 0 ? options_.block_rows : usual_rows;
    if (hashing) { hashes.resize(sources.size()); }
    std::size_t const block_bytes = static_cast<std::size_t>(rows * t.cols()) * size_of(t.out);
    auto const both = [&](braid::detail::block_slot& s) {
      work(s);
      if (!hashing) { return; }
      auto const n = static_cast<std::size_t>(s.rows);
      braid::detail::fit(s.hash, n * sources.size());
      for (std::size_t i = 0; i < sources.size(); ++i) {
        for (std::size_t r = 0; r < n; ++r) { s.hash[i * n + r] = stored_row_hash(sources[i], s.first + static_cast<index_t>(r)); }
      }
    };
    braid::detail::used_inputs used(t.channels(), static_cast<std::size_t>(t.cols()) * size_of(t.out));
    auto const place = [&](braid::detail::block_slot& s) {
      auto const n = static_cast<std::size_t>(s.rows);
      used.add(s);
      for (std::size_t i = 0; hashing && i < sources.size(); ++i) {
        auto const from = s.hash.begin() + static_cast<std::ptrdiff_t>(i * n);
        hashes[i].insert(hashes[i].end(), from, from + static_cast<std::ptrdiff_t>(n));
      }
      tell(t, static_cast<std::uint64_t>(static_cast<double>(t.input_bytes()) * static_cast<double>(s.rows) / static_cast<double>(t.channels())));
    };
    auto const finish = [&](braid::detail::block_slot& s) {
      for (std::size_t i = 0; t.owners.empty() && s.done_rows > 0 && i < sources.size(); ++i) {
        release(sources[i], s.done_first, s.done_rows);
      }
    };
    l.stream.run(t.channels(), rows, braid::detail::blocks_on_their_way(be_, block_bytes), both, place, finish);
  }

  void check_rows(std::byte const* data, dtype type, braid::detail::block_slot const& s, index_t cols, int model, workspace& work) const {
    try {
      ops::tensor_blocks<cpu>::check_rows(data, type, s.first, s.rows, cols, work);
    } catch (braid::detail::nonfinite_found& found) {
      found.where.model = model;
      throw;
    }
  }

  /// Finite inputs whose result doesn't fit.
  void check_stored(run_tensor const& t, braid::detail::block_slot const& s, workspace& work) const {
    if (options_.allow_nonfinite || !braid::detail::may_overflow(t.out)) { return; }
    try {
      ops::tensor_blocks<cpu>::check_rows(s.group_zero.data(), t.out, s.first, s.rows, t.cols(), work);
    } catch (braid::detail::nonfinite_found const& found) {
      throw value_error("tensor " + braid::detail::in_quotes(t.name) + " doesn't fit into " +
                        std::string(braid::name_of(t.out)) + " at channel " + std::to_string(found.where.channel) +
                        ", column " + std::to_string(found.where.col) + ": a result is too large; choose another out_dtype");
    }
  }

  // ---- pages, hashes, progress ----

  [[nodiscard]] static std::uint64_t row_bytes_of(run_source const& s) noexcept {
    auto const& shape = s.tensor->shape;
    return static_cast<std::uint64_t>(shape.empty() ? 1 : shape.back()) * size_of(s.tensor->type);
  }

  [[nodiscard]] std::uint64_t stored_row_hash(run_source const& s, index_t row) const {
    std::uint64_t const bytes = row_bytes_of(s);
    std::byte const* const data = plan_.models[s.model].files.bytes(*s.tensor).data();
    return braid::detail::row_hash(data + static_cast<std::uint64_t>(row) * bytes, static_cast<std::size_t>(bytes));
  }

  void release(run_source const& s, index_t first, index_t rows) const {
    std::uint64_t const bytes = row_bytes_of(s);
    std::uint64_t const begin = static_cast<std::uint64_t>(first) * bytes;
    if (begin >= s.tensor->bytes) { return; }
    plan_.models[s.model].files.release(*s.tensor, begin,
                                        std::min(static_cast<std::uint64_t>(rows) * bytes, s.tensor->bytes - begin));
  }

  void release_all(run_source const& s) const { plan_.models[s.model].files.release(*s.tensor, 0, s.tensor->bytes); }
  void release_all(run_tensor const& t) const {
    for (run_source const& s : t.inputs()) { release_all(s); }
    for (run_source const& s : t.owners) { release_all(s); }
  }

  void add_hashes(run_tensor const& t, row_hashes const& rows) {
    if (!options_.hash_inputs || t.elements() == 0) { return; }
    std::size_t number = 0;
    for (run_source const& s : t.owners.empty() ? t.inputs() : t.owners) {
      hashes_[s.model].begin(*s.tensor);
      if (!t.owners.empty()) {
        hash_whole(hashes_[s.model], plan_.models[s.model].files, *s.tensor);
      } else {
        hashes_[s.model].rows(rows[number].data(), rows[number].size());
      }
      ++number;
    }
  }

  void hash_adapters() {
    if (!options_.hash_inputs) { return; }
    for (std::size_t m = 0; m < plan_.models.size(); ++m) {
      if (!plan_.models[m].lora) { continue; }
      checkpoint const files(plan_.models[m].lora_path);
      for (tensor_meta const& t : files.tensors()) {
        adapter_hashes_[m].begin(t);
        hash_whole(adapter_hashes_[m], files, t);
      }
    }
  }

  static void hash_whole(braid::detail::input_hash& hash, checkpoint const& files, tensor_meta const& t) {
    auto const data = files.bytes(t);
    std::size_t const row = static_cast<std::size_t>(t.shape.empty() ? 1 : t.shape.back()) * size_of(t.type);
    for (std::size_t at = 0; row > 0 && at < data.size(); at += row) {
      std::uint64_t const one = braid::detail::row_hash(data.data() + at, row);
      hash.rows(&one, 1);
    }
  }

  [[nodiscard]] std::vector<std::string> hash_texts(std::vector<braid::detail::input_hash> const& hashes) const {
    std::vector<std::string> all;
    for (auto const& h : hashes) { all.push_back(options_.hash_inputs ? h.text() : std::string()); }
    return all;
  }

  void tell(run_tensor const& t, std::uint64_t more) {
    std::lock_guard const lock(mutex_);
    bytes_done_ += more;
    if (options_.on_progress) {
      options_.on_progress({t.name, tensors_done_, plan_.tensors.size(), bytes_done_, report_.bytes_read, seconds()});
    }
  }

  [[nodiscard]] std::string describe(run_tensor const& t, nonfinite_location const& at) const {
    run_source const& s = at.model < 0 ? *t.base : t.sources[static_cast<std::size_t>(at.model)];
    opened_model const& model = plan_.models[s.model];
    return braid::detail::nonfinite_text(model.files, *s.tensor, default_channel_axis(s.tensor->shape.size()),
                                         "model '" + to_text(model.reference) + "'", at);
  }

  cpu const& be_;
  run_plan const& plan_;
  run_options const& options_;
  method_set<cpu> methods_;  // for what they are; the runner has its own
  std::vector<std::unique_ptr<line>> lines_;
  std::vector<std::size_t> slots_;        // of each tensor, in the writer
  std::vector<std::size_t> cut_numbers_;  // of each tensor that is merged, among these
  clock::time_point start_ = clock::now();
  checkpoint_writer* writer_ = nullptr;
  std::optional<global_magnitude_cuts<cpu>> cuts_;
  std::size_t merged_ = 0;
  std::mutex mutex_;                               // of all below, while lines run
  std::vector<std::optional<row_hashes>> pending_;  // of each tensor that is done
  std::size_t hashed_ = 0;                         // tensors whose hashes are in their models'
  std::vector<braid::detail::input_hash> hashes_;          // of each model
  std::vector<braid::detail::input_hash> adapter_hashes_;  // of each model's adapter
  std::size_t tensors_done_ = 0;
  std::uint64_t bytes_done_ = 0;
  report report_;
};

}  // namespace detail
}  // namespace recipe
BRAID_NAMESPACE_END
