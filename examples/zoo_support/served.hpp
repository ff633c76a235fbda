#pragma once

/// A Llama that answers as any expert: rows are found through the index where they are stored, nothing is rebuilt.

#include "llama.hpp"
#include "rows.hpp"
#include "weights.hpp"

#include <braid/serve/row_linear.hpp>

#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace zoo {

/// braid::row_linear as a layer of the forward pass: each column has its own expert. Also an embedding, whose rows are
/// looked up the same way. A column has the same bits in every batch.
template <braid::row_source Source>
class served_linear {
 public:
  /// @param be whose threads a product may use; with one, callers on several threads don't wait for each other
  /// @throws braid::shape_error where experts differ in their number of channels
  served_linear(Source source, braid::cpu be) : rows_(std::move(source)), be_(std::move(be)) {
    for (std::size_t e = 1; e < rows_.experts(); ++e) {
      if (rows_.channels(e) != rows_.channels(0)) {
        throw braid::shape_error("experts differ in their number of channels: " + std::to_string(rows_.channels(0)) +
                                 " and " + std::to_string(rows_.channels(e)));
      }
    }
  }

  [[nodiscard]] index rows() const { return rows_.channels(0); }
  [[nodiscard]] index cols() const noexcept { return rows_.cols(); }

  void apply(experts_of_columns expert, const_columns const& x, columns y) const {
    rows_.apply(be_, expert, braid::tensor_view<float const>(x.data(), x.cols(), x.rows(), x.outerStride()),
                braid::tensor_view<float>(y.data(), y.cols(), y.rows(), y.outerStride()));
  }
  void row(std::size_t expert, index number, std::span<float> out) const { rows_.row(expert, number, out); }

 private:
  braid::row_linear<Source> rows_;
  braid::cpu be_;
};
static_assert(embedding_layer<served_linear<any_rows>> && expert_layer<served_linear<any_rows>>);

using served_llama = llama<served_linear<any_rows>, served_linear<any_rows>>;

/// The weights of several experts: matrices by rows, where they are; vectors (norms and biases) copied, expert by expert.
struct expert_weights {
  std::function<any_rows(std::string const& name)> rows;
  std::vector<weight_source> vectors;
};

/// A model of those experts. The weights need not outlive it, only what they borrow.
/// @throws braid::shape_error, naming the weight, where one isn't what `config` says
inline served_llama served_model(llama_config config, expert_weights const& weights, braid::cpu const& be) {
  auto const layer = [&](std::string const& name) {
    try {
      return served_linear<any_rows>(weights.rows(name), be);
    } catch (braid::shape_error const& e) { throw braid::shape_error(name + ": " + e.what()); }
  };
  return {std::move(config), weights.vectors, layer, layer};
}

/// Experts that share nothing, as they are. A weight must be of one type in all of them.
/// @param experts share their number of columns
inline expert_weights weights_of(std::vector<braid::checkpoint> const& experts) {
  expert_weights all;
  for (auto const& e : experts) { all.vectors.push_back(weights_of(e)); }
  all.rows = [experts](std::string const& name) -> any_rows {
    std::vector<std::span<std::byte const>> bytes;
    braid::tensor_meta const& first = experts.at(0).at(name);
    for (auto const& e : experts) {
      braid::tensor_meta const& t = e.at(name);
      if (t.type != first.type || t.shape.size() != 2 || t.shape[1] != first.shape[1]) {
        throw braid::shape_error("not a matrix of one type and number of columns in all experts");
      }
      bytes.push_back(e.bytes(t));
    }
    return whole_rows(first.type, first.shape[1], std::move(bytes), experts);
  };
  return all;
}

/// All experts of a merged checkpoint, from its mapped pool. Keeps a reference to `merged`.
inline expert_weights weights_of(braid::grouped_checkpoint const& merged) {
  expert_weights all;
  for (std::size_t e = 0; e < merged.experts().size(); ++e) { all.vectors.push_back(weights_of(merged, e)); }
  all.rows = [&merged](std::string const& name) -> any_rows { return braid::pool_rows(merged, name); };
  return all;
}

/// The configuration that all experts of a merged checkpoint share.
/// @throws braid::argument_error where one has another, or none that says it is a Llama
inline llama_config shared_config(braid::grouped_checkpoint const& merged) {
  auto const& dir = merged.files().path();
  auto const config_of = [&](std::filesystem::path const& file) {
    std::ifstream in(file, std::ios::binary);
    if (!in) { throw braid::io_error(file.string() + ": can't be read"); }
    auto const json = nlohmann::json::parse(in, nullptr, false);
    if (json.is_discarded()) { throw braid::argument_error(file.string() + ": isn't JSON"); }
    return llama_config::from_json(json, file.string());
  };
  llama_config const first = config_of(dir / "config.json");
  for (auto const& e : merged.description().at("experts")) {
    auto const files = e.value("files", nlohmann::json::object());
    if (!files.contains("config.json")) { continue; }
    auto const own = dir / files.at("config.json").get<std::string>();
    if (!(config_of(own) == first)) {
      throw braid::argument_error(own.string() + ": another shape of model than config.json's; experts of one shape can be "
                                  "served together: extract this one");
    }
  }
  return first;
}

/// A model of all experts of a merged checkpoint, from its mapped pool, which it keeps mapped.
inline served_llama served_model(braid::grouped_checkpoint const& merged, braid::cpu const& be) {
  return served_model(shared_config(merged), weights_of(merged), be);
}

}  // namespace zoo
