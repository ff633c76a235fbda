#pragma once

/// What a recipe does to every tensor, decided before anything is computed.

#include <braid/method/method_options.hpp>
#include <braid/recipe/open_models.hpp>
#include <braid/recipe/vocabulary.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// What happens to a tensor of the output.
enum class tensor_step : unsigned char {
  merge,
  copy  // of one model; `run_tensor::note` says why
};

constexpr std::string_view name_of(tensor_step s) noexcept { return s == tensor_step::merge ? "merge" : "copy"; }

/// A tensor of a model that is read.
struct run_source {
  std::size_t model = 0;  // of `run_plan::models`
  tensor_meta const* tensor = nullptr;
  lora_delta const* lora = nullptr;  // added to it
};

/// One tensor of the output.
struct run_tensor {
  std::string name;
  tensor_step what = tensor_step::merge;
  std::string note{};  // what isn't as usual: why it is copied, which models lack it
  dtype out = dtype::f32;
  std::vector<index_t> shape{};
  std::vector<run_source> sources{};  // the models in the order of the recipe, without the base; of a copy: one
  std::optional<run_source> base{};
  method_parameters parameters{};      // of the sources
  std::optional<rescale> rescaling{};  // what `rescale` was said to be, if it was
  double position = 0.0;               // where gradients stood

  /// Where rows are brought to one vocabulary: the tensor of each of its owners. Else empty.
  std::vector<run_source> owners{};

  /// All that is read: base, then sources.
  [[nodiscard]] std::vector<run_source> inputs() const {
    std::vector<run_source> all;
    if (base) { all.push_back(*base); }
    all.insert(all.end(), sources.begin(), sources.end());
    return all;
  }
  [[nodiscard]] index_t elements() const noexcept {
    index_t n = 1;
    for (index_t const d : shape) { n *= d; }
    return n;
  }
  /// Elements of a row; a vector is one row.
  [[nodiscard]] index_t cols() const noexcept { return shape.empty() ? 1 : shape.back(); }
  [[nodiscard]] index_t channels() const noexcept { return cols() == 0 ? 0 : elements() / cols(); }
  [[nodiscard]] std::uint64_t input_bytes() const noexcept {
    std::uint64_t n = base ? base->tensor->bytes : 0;
    for (run_source const& s : sources) { n += s.tensor->bytes; }
    return n;
  }
  [[nodiscard]] std::uint64_t output_bytes() const noexcept {
    return static_cast<std::uint64_t>(elements()) * size_of(out);
  }
};

/// A tensor of an input that isn't in the output.
struct dropped_tensor {
  std::size_t model;
  std::string name;
  std::string reason;
};

/// What a whole recipe does. Holds the opened models, so it is valid by itself.
struct run_plan {
  merge_recipe recipe;
  std::vector<opened_model> models;
  std::vector<run_tensor> tensors;  // by falling element size, then by name
  std::vector<dropped_tensor> dropped;
  std::vector<std::string> notes;
  std::size_t config_model = 0;                // whose config and side files the output gets
  std::optional<std::size_t> tokenizer_model;  // whose tokenizer; nothing: that of `config_model`
  nlohmann::json config;                       // of the output; empty where `config_model` has none
  std::optional<vocabulary_plan> vocabulary;
  std::vector<std::size_t> owners;  // models, in the order of `vocabulary_plan::of_model`

  [[nodiscard]] std::uint64_t bytes_read() const noexcept {
    std::uint64_t n = 0;
    for (run_tensor const& t : tensors) { n += t.input_bytes(); }
    return n;
  }
  [[nodiscard]] std::uint64_t bytes_written() const noexcept {
    std::uint64_t n = 0;
    for (run_tensor const& t : tensors) { n += t.output_bytes(); }
    return n;
  }
};

}  // namespace recipe
BRAID_NAMESPACE_END
