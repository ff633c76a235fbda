#pragma once

/// Recipes: what to merge and how, in YAML. The language is mergekit's, whose recipes are read as they are, with some
/// additions (docs/recipes.md). Unlike there, nothing that is written is silently ignored.

#include <braid/core/dtype.hpp>
#include <braid/recipe/model_reference.hpp>
#include <braid/recipe/setting.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// An input of a merge of whole models.
struct model_entry {
  model_reference model;
  parameters settings{};
  std::string name{};  // of an expert in a grouped checkpoint; empty: the last component of its path
  place at{};
};

/// Layers [first, last) of a model.
struct source {
  model_reference model;
  int first = 0;
  int last = 0;
  parameters settings{};
  place at{};
};

/// Some consecutive layers of the output, and the layers that are merged into them: as many from each source.
struct output_slice {
  std::vector<source> sources;
  std::optional<model_reference> base_model{};  // instead of the recipe's
  parameters settings{};
  place at{};

  [[nodiscard]] int layers() const noexcept {
    return sources.empty() ? 0 : sources.front().last - sources.front().first;
  }
};

/// A part of the output, such as a vision tower: from whole models or from slices.
struct output_module {
  std::string name{};  // empty: the whole model, whatever modules it has
  std::vector<model_entry> models{};
  std::vector<output_slice> slices{};
  parameters settings{};
  place at{};
};

/// Where a token's row comes from in the models that lack it.
struct token_source {
  enum class kind_type : unsigned char {
    unset,  // as for tokens that the recipe doesn't mention: the base's, a sole owner's, or the mean of all owners'
    zero,
    model,       // the same token of a model
    model_token  // another token of a model
  };
  std::string token;
  kind_type kind = kind_type::unset;
  std::optional<model_reference> model{};
  std::string other_token{};      // of `model_token`, by text
  std::optional<int> token_id{};  // or by number
  bool force = false;             // in the models that have the token as well
  place at{};
};

/// What the output's vocabulary is.
struct tokenizer_section {
  enum class source_type : unsigned char { union_of_all, base, model };
  source_type source = source_type::union_of_all;
  std::optional<model_reference> model{};
  std::vector<token_source> tokens{};
  std::optional<int> pad_to_multiple_of{};  // rows of the vocabulary; those without a token get the mean row
  place at{};
};

/// A parsed recipe: pure data, nothing in it was looked up on disk.
struct merge_recipe {
  std::string file;    // for messages
  std::string text{};  // as it was written; empty where a program made it
  std::string merge_method;
  std::optional<model_reference> base_model{};
  std::vector<output_module> modules{};  // of `models` and `slices` one, without a name
  parameters settings{};                 // the global ones
  std::optional<dtype> input_type{};     // `dtype`: what inputs are rounded to when they are read
  std::optional<dtype> output_type{};    // `out_dtype`: what is written
  std::optional<tokenizer_section> tokenizer{};
  std::string chat_template{};  // "auto", the name of a template, or a Jinja template

  // braid's additions
  std::uint64_t seed = 0;    // of random choices
  std::string style{};       // "mergekit" (as where it is empty) or "paper": whose formula where two are in use
  std::string trim_scope{};  // "row", "tensor", "model": over what magnitudes are ranked; empty: the method's own

  std::vector<warning> warnings{};
};

/// Every model that a recipe mentions, in the order of its text, each once.
[[nodiscard]] inline std::vector<model_reference> models_of(merge_recipe const& r) {
  std::vector<model_reference> all;
  auto const add = [&](model_reference const& m) {
    if (std::find(all.begin(), all.end(), m) == all.end()) { all.push_back(m); }
  };
  if (r.base_model) { add(*r.base_model); }
  for (output_module const& m : r.modules) {
    for (model_entry const& e : m.models) { add(e.model); }
    for (output_slice const& s : m.slices) {
      if (s.base_model) { add(*s.base_model); }
      for (source const& x : s.sources) { add(x.model); }
    }
  }
  if (r.tokenizer) {
    if (r.tokenizer->model) { add(*r.tokenizer->model); }
    for (token_source const& t : r.tokenizer->tokens) {
      if (t.model) { add(*t.model); }
    }
  }
  return all;
}

}  // namespace recipe
BRAID_NAMESPACE_END
