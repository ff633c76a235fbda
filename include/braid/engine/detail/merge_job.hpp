#pragma once

#include <braid/engine/column_weights.hpp>
#include <braid/engine/detail/block_stream.hpp>
#include <braid/engine/detail/budget_pass.hpp>
#include <braid/engine/detail/check_options.hpp>
#include <braid/engine/detail/input_hash.hpp>
#include <braid/engine/detail/merge_layout.hpp>
#include <braid/engine/detail/nonfinite.hpp>
#include <braid/engine/detail/side_files.hpp>
#include <braid/engine/detail/tensor_merger.hpp>
#include <braid/engine/merge_plan.hpp>
#include <braid/engine/report.hpp>
#include <braid/io/grouped_description.hpp>
#include <braid/recipe/detail/read_rows.hpp>

#include <chrono>
#include <cmath>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What the caller wants, without the method.
struct job_options {
  std::uint64_t max_shard_bytes = 0;
  bool overwrite = false;
  bool hash_inputs = true;
  index_t block_rows = 0;  // 0: chosen; for tests
  progress_callback on_progress;
  column_weights const* weights = nullptr;
  std::vector<recipe::adapter const*> adapters;  // of each expert, null where it has none; empty: nobody has one
};

/// Runs a planned merge: every tensor through blocks of channels into a checkpoint_writer.
class merge_job {
 public:
  merge_job(cpu const& be, tensor_merger const& merger, checkpoint const& base, std::vector<checkpoint> const& experts,
            std::vector<std::string> const& names, merge_plan const& plan, job_options const& options)
      : be_(be), merger_(merger), base_(base), experts_(experts), names_(names), plan_(plan), options_(options),
        residuals_(merger.residuals(), experts.size()), layout_(plan, experts.size(), merger.groups(), residuals_),
        budget_(be, merger, base, experts, plan), stream_(be, merger.memory()), hashes_(experts.size() + 1) {}

  report run(std::filesystem::path const& out, grouped_description description) {
    name_models(description);
    layout_.describe(description);
    std::vector<std::vector<std::string>> side;
    for (auto const& e : experts_) { side.push_back(e.side_files()); }
    checkpoint_writer writer(out, layout_.tensors(), layout_.metadata_room(description, side),
                             {options_.max_shard_bytes, options_.overwrite, "model"});
    writer_ = &writer;
    out_ = out;
    struct closing {
      residual_store& store;
      ~closing() { store.close(); }
    } const before_writer{residuals_};
    auto const files = copy_side_files(writer, experts_, names_);  // what is small and may fail comes first
    report_.notes = plan_.notes;
    for (auto const& p : plan_.tensors) { report_.bytes_read += p.input_bytes(); }
    for (auto const& e : experts_) {
      for (auto const& t : e.tensors()) { report_.expert_bytes += t.bytes; }
    }
    if (options_.weights != nullptr) { check_weights(*options_.weights, plan_, report_.notes); }
    check_adapters(options_.adapters, plan_);
    if (merger_.budget().stored > 0.0) { measure(out); }
    bool before_bytes = true;
    for (auto const& p : plan_.tensors) {
      if (before_bytes && size_of(p.out) == 1) {
        residuals_.write_scales(writer, false);
        before_bytes = false;
      }
      try {
        tensor(p, description);
      } catch (nonfinite_found const& found) {
        throw value_error(describe(p, found.where));
      }
      ++tensors_done_;
    }
    if (before_bytes) { residuals_.write_scales(writer, false); }
    residuals_.write_scales(writer, true);
    for (std::size_t i = 0; i < indices_.size(); ++i) {
      std::size_t const slot = writer.begin(group_name(plan_.tensors[i].name));
      writer.append(slot, std::as_bytes(std::span(indices_[i])));
    }
    residuals_.write_rest(writer, description);
    if (residuals_.any()) {
      description.format = residual_format_version;
      writer.rename_stem("braid");  // the rows alone are no model
    }
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      description.experts[e].files = files[e];
      if (options_.hash_inputs) { description.experts[e].hash = hashes_[e + 1].text(); }
    }
    if (options_.hash_inputs) { description.base.hash = hashes_[0].text(); }
    report_.stored_bytes = writer.bytes_written();
    report_.stored_fraction = report_.expert_bytes == 0 ? 0.0
                                                        : static_cast<double>(report_.stored_bytes) /
                                                              static_cast<double>(report_.expert_bytes);
    writer.commit({{std::string(grouped_metadata_key), description.to_text()}});
    report_.seconds = seconds();
    return std::move(report_);
  }

 private:
  using clock = std::chrono::steady_clock;

  [[nodiscard]] double seconds() const { return std::chrono::duration<double>(clock::now() - start_).count(); }

  void name_models(grouped_description& d) const {
    d.experts.resize(experts_.size());
    d.base.name = base_.name();
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      d.experts[e].name = names_[e];
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
        return merger_.measure(p.name, names_, source_of(p, adapted), curves);
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

  void tensor(planned_tensor const& p, grouped_description& description) {
    std::size_t own = 0;
    std::size_t extra = 0;
    bool const has_extra = layout_.extra_bound(p) > 0;
    if (p.in_first || p.what == action::from_base) { own = writer_->begin(p.name); }
    if (has_extra) { extra = writer_->begin(extra_name(p.name)); }
    current_ = &p;
    report::tensor stats;
    stats.name = p.name;
    stats.action = std::string(name_of(p.what));
    stats.channels = p.channels;
    std::vector<std::uint8_t> index(static_cast<std::size_t>(p.channels) * experts_.size(), 0);
    totals_ = {};
    if (p.what == action::merge) {
      merge_tensor(p, own, extra, index);
    } else {
      keep_tensor(p, own, extra, index);
    }
    if (p.what == action::merge) { stats.residual_bytes = residuals_.end(index); }
    report_.residual_bytes += stats.residual_bytes;
    index_t const first = p.in_first || p.what == action::from_base ? p.expert_channels[0] : 0;
    stats.stored_rows = first + totals_.extra_rows;
    int most = 0;
    for (std::uint8_t const g : index) { most = g != no_group && g > most ? g : most; }
    stats.groups = most + 1;
    if (totals_.compared > 0) {
      double const mean = static_cast<double>(totals_.similarity) / merged_block::similarity_unit / static_cast<double>(totals_.compared);
      stats.similarity = std::round(mean * 1e6) / 1e6;
    }
    description.tensors[p.name] = {stats.action, stats.groups, stats.similarity};
    report_.tensors.push_back(std::move(stats));
    // All experts share every row: no index.
    if (std::all_of(index.begin(), index.end(), [](std::uint8_t g) { return g == 0; })) { index.clear(); }
    indices_.push_back(std::move(index));
    tell();
  }

  /// A tensor of a model, for hashing: which model (0: the base), which bytes.
  void hash_model(std::size_t model, tensor_meta const* t) {
    if (options_.hash_inputs && t != nullptr) { hashes_[model].begin(*t); }
  }

  using adapted_rows = std::vector<std::unique_ptr<recipe::detail::read_rows>>;

  /// @param adapted  what the result refers to
  [[nodiscard]] tensor_channels source_of(planned_tensor const& p, adapted_rows& adapted) const {
    tensor_channels s;
    s.channels = p.channels;
    s.cols = p.cols;
    s.transposed = p.transposed;
    s.out = p.out;
    if (options_.weights != nullptr) {
      auto const weight = options_.weights->find(p.name, p.cols);
      s.column_weight = weight.empty() ? nullptr : weight.data();
    }
    auto const rows = [&](checkpoint const& model, tensor_meta const& t) {
      return channel_rows{model.bytes(t).data(), t.type, p.cols * static_cast<index_t>(size_of(t.type))};
    };
    s.base = rows(base_, *p.base);
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      s.experts.push_back(rows(experts_[e], *p.experts[e]));
      recipe::adapter const* const lora = options_.adapters.empty() ? nullptr : options_.adapters[e];
      recipe::lora_delta const* const delta = lora == nullptr ? nullptr : lora->find(p.experts[e]->name);
      if (delta == nullptr) { continue; }
      adapted.push_back(std::make_unique<recipe::detail::read_rows>(experts_[e], *p.experts[e], lora, delta, std::nullopt, p.cols));
      s.experts.back().computed = adapted.back().get();
    }
    return s;
  }

  void merge_tensor(planned_tensor const& p, std::size_t own, std::size_t extra, std::vector<std::uint8_t>& index) {
    adapted_rows adapted;
    tensor_channels const source = source_of(p, adapted);
    measured_tensor const* const measured = merger_.budget().stored > 0.0 ? &budget_.of(p.name) : nullptr;
    tensor_context const context = merger_.prepare(p.name, names_, source, measured);
    residuals_.begin(p, context.column, *writer_, out_);
    std::size_t const experts = experts_.size();
    auto const row_bytes = static_cast<std::size_t>(p.cols) * size_of(p.out);
    auto const rows = options_.block_rows > 0 ? options_.block_rows : merger_.block_rows(source);
    auto const room = static_cast<std::size_t>(layout_.most_extra(p));
    struct local {
      channel_workspace work;
      std::vector<std::byte> gathered;
    };
    tbb::enumerable_thread_specific<local> locals;
    hash_model(0, p.base);
    for (std::size_t e = 0; e < experts; ++e) { hash_model(e + 1, p.experts[e]); }
    auto const work = [&](block_slot& s) {
      local& mine = locals.local();
      channel_block const block = source.block(s.first, s.rows, mine.gathered);
      auto const n = static_cast<std::size_t>(s.rows);
      fit(s.group_zero, n * row_bytes);
      fit(s.extra, n * room * row_bytes);
      fit(s.label, n * experts);
      s.merged = {};
      s.merged.group_zero = s.group_zero.data();
      s.merged.extra = s.extra.data();
      s.merged.label = s.label.data();
      s.residual.clear();
      s.merged.residual = &s.residual;
      merger_.merge(context, block, s.merged, mine.work);
      if (!merger_.allow_nonfinite() && may_overflow(p.out)) {
        if (residuals_.active()) { check_inputs_fit(p, block, mine.work); }
        check_results(p, s, n, static_cast<std::size_t>(s.merged.extra_rows), row_bytes, mine.work);
      }
      if (options_.hash_inputs) {
        fit(s.hash, n * (experts + 1));
        for (std::size_t r = 0; r < n; ++r) {
          auto const row = static_cast<index_t>(r);
          s.hash[r] = row_hash(block.base.row(row), static_cast<std::size_t>(p.cols) * size_of(block.base.type));
          for (std::size_t e = 0; e < experts; ++e) {
            auto const& x = block.experts[e];
            s.hash[(e + 1) * n + r] = row_hash(x.row(row), static_cast<std::size_t>(p.cols) * size_of(x.type));
          }
        }
      }
      if (p.transposed == 0) {
        writer_->write(own, static_cast<std::uint64_t>(s.first) * row_bytes, s.group_zero.first(n * row_bytes));
      } else {
        write_transposed(p, own, s, mine.gathered);
      }
    };
    used_inputs used(p.channels, static_cast<std::size_t>(p.cols) * size_of(p.out));
    auto const place = [&](block_slot& s) {
      auto const n = static_cast<std::size_t>(s.rows);
      place_block(p, s, extra, row_bytes, index);
      used.add(s);
      residuals_.append(s.residual);
      totals_.similarity += s.merged.similarity;
      totals_.compared += s.merged.compared;
      if (options_.hash_inputs) {
        for (std::size_t m = 0; m <= experts; ++m) { hashes_[m].rows(s.hash.data() + m * n, n); }
      }
      bytes_done_ += static_cast<std::uint64_t>(static_cast<double>(p.input_bytes()) * static_cast<double>(s.rows) /
                                                static_cast<double>(p.channels));
      tell();
    };
    auto const finish = [&](block_slot& s) {
      write_extra(s, extra, row_bytes);
      release(p, base_, p.base, s);
      for (std::size_t e = 0; e < experts; ++e) { release(p, experts_[e], p.experts[e], s); }
    };
    std::size_t const channel_bytes = (1 + room) * row_bytes + residuals_.plane_bound(p.cols);
    stream_.run(p.channels, rows, blocks_on_their_way(be_, static_cast<std::size_t>(rows) * channel_bytes), work, place, finish);
  }

  /// Group 0 of a [..., cols, width] tensor, from contiguous rows.
  void write_transposed(planned_tensor const& p, std::size_t own, block_slot const& s, std::vector<std::byte>& line) {
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
        writer_->write(own, at, std::span(line).first(static_cast<std::size_t>(run) * element));
      }
      r += run;
    }
  }

  /// Kept tensors, and those of the base: rows as they are, equal ones once.
  void keep_tensor(planned_tensor const& p, std::size_t own, std::size_t extra, std::vector<std::uint8_t>& index) {
    bool const from_base = p.what == action::from_base;
    std::size_t const experts = from_base ? 1 : experts_.size();
    struct row_source {
      std::byte const* data = nullptr;
      dtype type = dtype::f32;
      index_t channels = 0;
      std::size_t row_bytes = 0;
    };
    std::vector<row_source> source(experts);
    for (std::size_t e = 0; e < experts; ++e) {
      tensor_meta const* const t = from_base ? p.base : p.experts[e];
      hash_model(from_base ? 0 : e + 1, t);
      if (t == nullptr) { continue; }
      checkpoint const& model = from_base ? base_ : experts_[e];
      source[e] = {model.bytes(*t).data(), t->type, p.expert_channels[e], static_cast<std::size_t>(p.cols) * size_of(t->type)};
    }
    auto const row_bytes = static_cast<std::size_t>(p.cols) * size_of(p.out);
    index_t const first_channels = p.in_first || from_base ? p.expert_channels[0] : 0;
    std::size_t widest = 1;
    for (auto const& x : source) { widest = std::max(widest, x.row_bytes * experts); }
    auto const fitting = static_cast<index_t>((std::size_t{1} << 20) / widest);
    index_t const rows = options_.block_rows > 0 ? options_.block_rows : std::max<index_t>(1, fitting);
    struct local {
      channel_workspace work;
      std::vector<std::byte> aligned;
      std::vector<std::byte> converted;
    };
    tbb::enumerable_thread_specific<local> locals;
    auto const work = [&](block_slot& s) {
      local& mine = locals.local();
      auto const n = static_cast<std::size_t>(s.rows);
      fit(s.group_zero, n * row_bytes);
      fit(s.extra, n * experts * row_bytes);
      fit(s.label, n * experts);
      fit(s.hash, n * experts);
      fit(mine.converted, row_bytes);
      s.merged = {};
      std::size_t zero_rows = 0;
      for (std::size_t r = 0; r < n; ++r) {
        index_t const channel = s.first + static_cast<index_t>(r);
        int groups = 0;
        std::array<std::byte const*, max_experts> stored;  // the row of each group, as it is written
        for (std::size_t e = 0; e < experts; ++e) {
          row_source const& x = source[e];
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
          if (!merger_.allow_nonfinite() && is_computable(x.type)) {
            check_finite_row(row, x.type, p.cols, from_base ? -1 : static_cast<int>(e), channel, mine.work);
          }
          if (options_.hash_inputs) { s.hash[e * n + r] = row_hash(row, x.row_bytes); }
          if (x.type != p.out) {
            convert(x.type, row, p.out, mine.converted.data(), p.cols);
            row = mine.converted.data();
          }
          int g = 0;
          while (g < groups && std::memcmp(row, stored[static_cast<std::size_t>(g)], row_bytes) != 0) { ++g; }
          s.label[r * experts + e] = static_cast<std::uint8_t>(g);
          if (g < groups) { continue; }
          bool const zero = g == 0 && channel < first_channels;
          std::byte* const to = zero ? s.group_zero.data() + zero_rows++ * row_bytes
                                     : s.extra.data() + static_cast<std::size_t>(s.merged.extra_rows++) * row_bytes;
          std::memcpy(to, row, row_bytes);
          stored[static_cast<std::size_t>(groups++)] = to;
        }
      }
      if (!merger_.allow_nonfinite() && may_overflow(p.out)) { check_results(p, s, zero_rows, static_cast<std::size_t>(s.merged.extra_rows), row_bytes, mine.work); }
      if (zero_rows > 0) {
        writer_->write(own, static_cast<std::uint64_t>(s.first) * row_bytes, s.group_zero.first(zero_rows * row_bytes));
      }
    };
    used_inputs used(p.channels, widest / std::max<std::size_t>(experts, 1));
    auto const place = [&](block_slot& s) {
      auto const n = static_cast<std::size_t>(s.rows);
      used.add(s);
      if (from_base) {
        if (options_.hash_inputs) { hashes_[0].rows(s.hash.data(), n); }
      } else {
        place_block(p, s, extra, row_bytes, index);
        for (std::size_t e = 0; e < experts; ++e) {
          index_t const own_rows = std::clamp<index_t>(source[e].channels - s.first, 0, s.rows);
          if (options_.hash_inputs) { hashes_[e + 1].rows(s.hash.data() + e * n, static_cast<std::size_t>(own_rows)); }
        }
      }
      bytes_done_ += static_cast<std::uint64_t>(static_cast<double>(p.input_bytes()) * static_cast<double>(s.rows) /
                                                static_cast<double>(p.channels));
      tell();
    };
    auto const finish = [&](block_slot& s) {
      write_extra(s, extra, row_bytes);
      if (from_base) { release(p, base_, p.base, s); }
      for (std::size_t e = 0; e < experts && !from_base; ++e) { release(p, experts_[e], p.experts[e], s); }
    };
    std::size_t const block_bytes = static_cast<std::size_t>(std::min(rows, p.channels)) * (1 + experts) * row_bytes;
    stream_.run(p.channels, rows, blocks_on_their_way(be_, block_bytes), work, place, finish);
  }

  /// In order: further rows get their place in the file, labels go to the index [experts, channels].
  void place_block(planned_tensor const& p, block_slot& s, std::size_t extra, std::size_t row_bytes, std::vector<std::uint8_t>& index) {
    if (s.merged.extra_rows > 0) {
      s.extra_at = writer_->extend(extra, static_cast<std::uint64_t>(s.merged.extra_rows) * row_bytes);
      totals_.extra_rows += s.merged.extra_rows;
    }
    std::size_t const experts = experts_.size();
    for (std::size_t e = 0; e < experts; ++e) {
      std::uint8_t* const to = index.data() + e * static_cast<std::size_t>(p.channels) + static_cast<std::size_t>(s.first);
      for (std::size_t r = 0; r < static_cast<std::size_t>(s.rows); ++r) { to[r] = s.label[r * experts + e]; }
    }
  }

  void write_extra(block_slot const& s, std::size_t extra, std::size_t row_bytes) {
    if (s.merged.extra_rows == 0) { return; }
    writer_->write(extra, s.extra_at, s.extra.first(static_cast<std::size_t>(s.merged.extra_rows) * row_bytes));
  }

  /// Mapped pages that are done with go, so that resident memory doesn't grow with the model.
  void release(planned_tensor const& p, checkpoint const& model, tensor_meta const* t, block_slot const& s) const {
    if (t == nullptr || s.done_rows == 0) { return; }
    if (p.transposed != 0) {
      if (s.done_first + s.done_rows == p.channels) { model.release(*t, 0, t->bytes); }
      return;
    }
    std::uint64_t const row = static_cast<std::uint64_t>(p.cols) * size_of(t->type);
    std::uint64_t const begin = static_cast<std::uint64_t>(s.done_first) * row;
    if (begin < t->bytes) { model.release(*t, begin, std::min(static_cast<std::uint64_t>(s.done_rows) * row, t->bytes - begin)); }
  }

  void tell() {
    if (options_.on_progress) {
      options_.on_progress({current_->name, tensors_done_, plan_.tensors.size(), bytes_done_, report_.bytes_read, seconds()});
    }
  }

  [[nodiscard]] std::string describe(planned_tensor const& p, nonfinite_location const& at) const {
    bool const in_base = at.model < 0;
    checkpoint const& model = in_base ? base_ : experts_[static_cast<std::size_t>(at.model)];
    tensor_meta const* const t = in_base ? p.base : p.experts[static_cast<std::size_t>(at.model)];
    return nonfinite_text(model, *t, p.axis,
                          in_base ? std::string("the base") : "expert '" + names_[static_cast<std::size_t>(at.model)] + "'", at);
  }

  struct tensor_totals {
    index_t extra_rows = 0;
    std::int64_t similarity = 0;
    index_t compared = 0;
  };

  cpu const& be_;
  tensor_merger const& merger_;
  checkpoint const& base_;
  std::vector<checkpoint> const& experts_;
  std::vector<std::string> const& names_;
  merge_plan const& plan_;
  job_options const& options_;
  clock::time_point start_ = clock::now();
  residual_store residuals_;
  merge_layout layout_;
  budget_pass budget_;
  block_stream stream_;
  checkpoint_writer* writer_ = nullptr;
  std::filesystem::path out_;
  std::vector<std::vector<std::uint8_t>> indices_;  // per tensor, empty where none is needed
  std::vector<input_hash> hashes_;                  // base, experts
  planned_tensor const* current_ = nullptr;
  tensor_totals totals_;
  std::size_t tensors_done_ = 0;
  std::uint64_t bytes_done_ = 0;
  report report_;
};

}  // namespace detail
BRAID_NAMESPACE_END
