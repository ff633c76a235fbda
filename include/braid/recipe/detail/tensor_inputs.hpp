#pragma once

/// The inputs of one planned tensor as rows: as they are stored, or rounded, changed by an adapter, brought to another
/// vocabulary, when they are needed.

#include <braid/backend/channel_block.hpp>
#include <braid/method/tensor_method.hpp>
#include <braid/recipe/run_plan.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

/// Rows of a model's tensor as they are read: stored, plus the adapter's delta, rounded to the type of reading.
class read_rows final : public computed_rows {
 public:
  /// @param type  what is read; nothing: the stored type
  read_rows(opened_model const& model, run_source const& source, std::optional<dtype> type, index_t cols)
      : model_(model), source_(source), type_(type.value_or(source.tensor->type)), cols_(cols),
        data_(model.files.bytes(*source.tensor).data()) {
    if (!is_computable(source.tensor->type)) { type_ = source.tensor->type; }
  }

  [[nodiscard]] dtype type() const noexcept { return type_; }
  [[nodiscard]] std::byte const* data() const noexcept { return data_; }
  [[nodiscard]] run_source const& source() const noexcept { return source_; }
  /// Whether rows are what is stored.
  [[nodiscard]] bool plain() const noexcept { return source_.lora == nullptr && type_ == source_.tensor->type; }

  void rows(index_t first, index_t count, std::byte* to) const override {
    dtype const stored = source_.tensor->type;
    std::size_t const row_bytes = static_cast<std::size_t>(cols_) * size_of(stored);
    std::byte const* from = data_ + static_cast<std::size_t>(first) * row_bytes;
    if (plain()) {
      std::memcpy(to, from, static_cast<std::size_t>(count) * row_bytes);
      return;
    }
    thread_local std::vector<std::byte> aligned;
    bool const lies_well = reinterpret_cast<std::uintptr_t>(from) % size_of(stored) == 0;
    auto const fetch = [&](index_t r) {
      std::byte const* const row = from + static_cast<std::size_t>(r) * row_bytes;
      if (lies_well) { return row; }
      aligned.assign(row, row + row_bytes);
      return static_cast<std::byte const*>(aligned.data());
    };
    std::size_t const out_bytes = static_cast<std::size_t>(cols_) * size_of(type_);
    if (source_.lora == nullptr) {
      for (index_t r = 0; r < count; ++r) {
        braid::detail::convert(stored, fetch(r), type_, to + static_cast<std::size_t>(r) * out_bytes, cols_);
      }
      return;
    }
    std::vector<float> sum(static_cast<std::size_t>(count * cols_));
    model_.lora->rows(*source_.lora, first, count, sum.data());
    std::vector<float> wide(sum_order::segment);
    for (index_t r = 0; r < count; ++r) {
      std::byte const* const row = fetch(r);
      braid::detail::for_each_segment(cols_, [&](index_t c, int n) {
        float* const delta = sum.data() + r * cols_ + c;
        braid::detail::widen(stored, braid::detail::at_column(row, stored, c), wide.data(), n);
        for (int i = 0; i < n; ++i) { delta[i] = wide[static_cast<std::size_t>(i)] + delta[i]; }
        braid::detail::store_rounded(type_, delta, braid::detail::out_column(to, type_, cols_, r, c), n);
      });
    }
  }

  /// One row in float32.
  void widened(index_t row, float* to) const {
    thread_local std::vector<std::byte> one;
    one.resize(static_cast<std::size_t>(cols_) * size_of(type_));
    rows(row, 1, one.data());
    braid::detail::for_each_segment(cols_, [&](index_t c, int n) {
      braid::detail::widen(type_, braid::detail::at_column(one.data(), type_, c), to + c, n);
    });
  }

 private:
  opened_model const& model_;
  run_source source_;
  dtype type_;
  index_t cols_;
  std::byte const* data_;
};

/// A model's matrix brought to the output's vocabulary. Means are sums in float64 in the order of the models, rounded
/// once; padding gets the mean of the rows with a token, added in their order.
class vocabulary_rows final : public computed_rows {
 public:
  /// @param owners  the matrix of each owner of the vocabulary
  /// @param cols    elements a token: 1 for a vector, which is one channel of all tokens
  vocabulary_rows(std::vector<std::unique_ptr<read_rows>> owners, std::vector<row_rule> const& rules, dtype type, index_t cols,
                  bool vector)
      : owners_(std::move(owners)), rules_(rules), type_(type), cols_(cols), vector_(vector) {
    using kind_type = row_rule::kind_type;
    auto const is_filling = [](row_rule const& r) { return r.kind == kind_type::filling; };
    if (std::none_of(rules_.begin(), rules_.end(), is_filling)) { return; }
    std::vector<double> sum(static_cast<std::size_t>(cols_), 0.0);
    std::vector<float> row(sum.size());
    double tokens = 0.0;
    for (std::size_t r = 0; r < rules_.size(); ++r) {
      if (is_filling(rules_[r])) { continue; }
      one(r, row.data());
      for (std::size_t c = 0; c < sum.size(); ++c) { sum[c] += static_cast<double>(row[c]); }
      tokens += 1.0;
    }
    for (double const s : sum) { filling_.push_back(tokens > 0.0 ? static_cast<float>(s / tokens) : 0.0f); }
  }

  void rows(index_t first, index_t count, std::byte* to) const override {
    std::vector<float> row(static_cast<std::size_t>(cols_));
    if (vector_) {
      first = 0;
      count = static_cast<index_t>(rules_.size());
    }
    for (index_t r = 0; r < count; ++r) {
      one(static_cast<std::size_t>(first + r), row.data());
      braid::detail::for_each_segment(cols_, [&](index_t c, int n) {
        braid::detail::store_rounded(type_, row.data() + c, braid::detail::out_column(to, type_, cols_, r, c), n);
      });
    }
  }

 private:
  void one(std::size_t number, float* to) const {
    row_rule const& rule = rules_[number];
    auto const cols = static_cast<std::size_t>(cols_);
    if (rule.kind == row_rule::kind_type::filling) {
      std::copy(filling_.begin(), filling_.end(), to);
      return;
    }
    if (rule.kind == row_rule::kind_type::row) {
      owners_[static_cast<std::size_t>(rule.rows[0].model)]->widened(rule.rows[0].row, to);
      return;
    }
    std::vector<double> sum(cols, 0.0);
    for (auto const& from : rule.rows) {
      owners_[static_cast<std::size_t>(from.model)]->widened(from.row, to);
      for (std::size_t c = 0; c < cols; ++c) { sum[c] += static_cast<double>(to[c]); }
    }
    double const n = rule.rows.empty() ? 1.0 : static_cast<double>(rule.rows.size());
    for (std::size_t c = 0; c < cols; ++c) { to[c] = static_cast<float>(sum[c] / n); }
  }

  std::vector<std::unique_ptr<read_rows>> owners_;
  std::vector<row_rule> const& rules_;  // [tokens]
  dtype type_;
  index_t cols_;
  bool vector_;
  std::vector<float> filling_;
};

/// All inputs of one tensor. The plan must outlive it.
class tensor_inputs {
 public:
  tensor_inputs(run_plan const& plan, run_tensor const& tensor) : plan_(plan), tensor_(tensor) {
    channels_.channels = tensor.channels();
    channels_.cols = tensor.cols();
    channels_.out = tensor.out;
    if (tensor.base) { channels_.base = rows_of(*tensor.base); }
    for (run_source const& s : tensor.sources) { channels_.experts.push_back(rows_of(s)); }
  }

  [[nodiscard]] tensor_channels const& channels() const noexcept { return channels_; }

  /// What a method is asked. Views into the plan.
  [[nodiscard]] tensor_request request(bool allow_nonfinite) const {
    tensor_request r;
    r.tensor = tensor_.name;
    r.inputs = channels_;
    r.parameters = tensor_.parameters;
    r.allow_nonfinite = allow_nonfinite;
    for (run_source const& s : tensor_.sources) { r.models.push_back(to_text(plan_.models[s.model].reference)); }
    return r;
  }

 private:
  channel_rows rows_of(run_source const& s) {
    index_t const cols = tensor_.cols();
    auto read = std::make_unique<read_rows>(plan_.models[s.model], s, plan_.recipe.input_type, cols);
    dtype const type = read->type();
    channel_rows rows{read->data(), type, cols * static_cast<index_t>(size_of(type)), nullptr};
    if (!tensor_.owners.empty()) {
      bool const vector = tensor_.shape.size() == 1;
      index_t const width = vector ? 1 : cols;
      std::vector<std::unique_ptr<read_rows>> owners;
      std::size_t self = 0;
      for (std::size_t o = 0; o < tensor_.owners.size(); ++o) {
        run_source const& from = tensor_.owners[o];
        owners.push_back(std::make_unique<read_rows>(plan_.models[from.model], from, plan_.recipe.input_type, width));
        self = from.model == s.model ? o : self;
      }
      keep_.push_back(std::make_unique<vocabulary_rows>(std::move(owners), plan_.vocabulary->of_model[self], type, width, vector));
      rows.computed = keep_.back().get();
    } else if (!read->plain()) {
      keep_.push_back(std::move(read));
      rows.computed = keep_.back().get();
    }
    return rows;
  }

  run_plan const& plan_;
  run_tensor const& tensor_;
  tensor_channels channels_;
  std::vector<std::unique_ptr<computed_rows>> keep_;
};

}  // namespace recipe::detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
