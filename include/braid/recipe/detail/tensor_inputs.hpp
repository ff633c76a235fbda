#pragma once

/// The inputs of one planned tensor as rows: as they are stored, or rounded, changed by an adapter, brought to another
/// vocabulary, when they are needed.

#include <braid/method/tensor_method.hpp>
#include <braid/recipe/detail/read_rows.hpp>
#include <braid/recipe/run_plan.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

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
  [[nodiscard]] std::unique_ptr<read_rows> reader_of(run_source const& s, index_t cols) const {
    opened_model const& m = plan_.models[s.model];
    return std::make_unique<read_rows>(m.files, *s.tensor, m.lora ? &*m.lora : nullptr, s.lora, plan_.recipe.input_type, cols);
  }

  channel_rows rows_of(run_source const& s) {
    index_t const cols = tensor_.cols();
    auto read = reader_of(s, cols);
    dtype const type = read->type();
    channel_rows rows{read->data(), type, cols * static_cast<index_t>(size_of(type)), nullptr};
    if (!tensor_.owners.empty()) {
      bool const vector = tensor_.shape.size() == 1;
      index_t const width = vector ? 1 : cols;
      std::vector<std::unique_ptr<read_rows>> owners;
      std::size_t self = 0;
      for (std::size_t o = 0; o < tensor_.owners.size(); ++o) {
        run_source const& from = tensor_.owners[o];
        owners.push_back(reader_of(from, width));
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
