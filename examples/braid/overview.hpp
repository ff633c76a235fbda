#pragma once

/// What `braid inspect` shows: tensors, summed up by layer or by kind.

#include <braid/io/grouped_checkpoint.hpp>

#include <map>

namespace program {

/// Where a tensor stands in a model: the first number in its dotted name and all before it, "model.layers.3".
struct layer_key {
  std::string prefix;  ///< "model.layers."; empty with an empty number: in no layer
  std::string number;

  /// By prefix, then by number; tensors in no layer come last.
  friend bool operator<(layer_key const& a, layer_key const& b) {
    if (a.number.empty() != b.number.empty()) { return b.number.empty(); }
    if (a.prefix != b.prefix) { return a.prefix < b.prefix; }
    return a.number.size() != b.number.size() ? a.number.size() < b.number.size() : a.number < b.number;
  }
  [[nodiscard]] std::string name() const { return number.empty() ? "other" : prefix + number; }
};

[[nodiscard]] layer_key layer_of(std::string_view tensor);

/// The name with `*` for each of its numbers: "model.layers.*.mlp.experts.*.w1.weight".
[[nodiscard]] std::string pattern_of(std::string_view tensor);

/// A tensor of a grouped checkpoint with what it costs.
struct grouped_share {
  braid::grouped_checkpoint::tensor const* tensor = nullptr;
  std::uint64_t expert_bytes = 0;  ///< of this tensor in all experts that have it

  [[nodiscard]] bool merged() const { return tensor->action == "merge"; }
  [[nodiscard]] braid::index_t stored_rows() const { return tensor->first_channels + tensor->extra_rows; }
};

[[nodiscard]] std::vector<grouped_share> shares_of(braid::grouped_checkpoint const& g);

/// Tensors of a grouped checkpoint, summed up. Rows, groups and similarity are those of merged tensors.
struct grouped_total {
  std::size_t tensors = 0;
  std::size_t merged = 0;
  int groups = 0;  ///< most groups of a channel
  std::uint64_t stored_bytes = 0;
  std::uint64_t residual_bytes = 0;  ///< of these
  std::uint64_t expert_bytes = 0;

  void add(grouped_share const& s);
  [[nodiscard]] double rows_per_channel() const;  ///< NaN where nothing is merged
  [[nodiscard]] double similarity() const;        ///< mean over channels; NaN where none was measured
  [[nodiscard]] double stored_fraction() const;

 private:
  braid::index_t channels_ = 0;
  braid::index_t rows_ = 0;
  double similarity_ = 0.0;
  braid::index_t compared_ = 0;
};

/// "ternary", or "sign1, ternary" where rows differ; "-" without residuals.
[[nodiscard]] std::string residual_text(std::vector<braid::residual_code> const& codes);

using layer_totals = std::map<layer_key, grouped_total>;
[[nodiscard]] layer_totals totals_by_layer(std::vector<grouped_share> const& shares);

/// Files of weights, in order, and the bytes of tensors in each.
[[nodiscard]] std::vector<std::pair<std::string, std::uint64_t>> weight_files(braid::checkpoint const& c);

/// Everything, for programs; docs/cli.md names the fields.
[[nodiscard]] nlohmann::ordered_json to_json(braid::checkpoint const& c);
[[nodiscard]] nlohmann::ordered_json to_json(braid::grouped_checkpoint const& g);

}  // namespace program
