#pragma once

/// The merge methods that recipes may name, what each takes, and its parameters: names, kinds, defaults. What they compute
/// is in docs/methods.md. The methods' own `info()` says the same; a test compares the two.

#include <braid/recipe/setting.hpp>

#include <array>
#include <string_view>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// Whose values a parameter has.
enum class parameter_scope : unsigned char {
  tensor,    // one a tensor
  model,     // one a model, the base included
  non_base   // one a model but for the base
};

/// A parameter of a method.
struct known_parameter {
  std::string_view name;
  value_kind kind = value_kind::number;
  parameter_scope scope = parameter_scope::tensor;
  std::string_view standard{};  // the default, as it would be written; "": it has to be set; "-": unset is a meaning of its own
  std::span<std::string_view const> choices{};
  bool has_effect = true;  // false: accepted for the sake of recipes that have it
  std::string_view in_paper{};  // the default in the papers' style, where it is another one

  [[nodiscard]] constexpr std::string_view fallback(bool paper) const noexcept {
    return paper && !in_paper.empty() ? in_paper : standard;
  }
  [[nodiscard]] constexpr bool required(bool paper = false) const noexcept { return fallback(paper).empty(); }
};

enum class base_use : unsigned char {
  ignored,   // a base model is one of the models
  optional,
  required
};

/// A method. Numbers of models don't count the base, except where it is ignored; `most` 0: any number.
struct known_method {
  std::string_view name;
  base_use base;
  int least;
  int most;
  std::span<known_parameter const> parameters;
};

namespace detail {

inline constexpr auto rescale_choices = std::to_array<std::string_view>({"none", "l1", "inverse_keep"});
inline constexpr auto similarity_choices = std::to_array<std::string_view>({"cosine", "euclidean", "balanced", "sign"});
inline constexpr auto cluster_choices = std::to_array<std::string_view>({"exact", "kmeans", "agglomerative", "random"});
inline constexpr auto prune_choices =
    std::to_array<std::string_view>({"none", "dare", "magnitude", "magnitude_rows", "magprune"});
inline constexpr auto consensus_choices = std::to_array<std::string_view>({"mean", "sum", "ties", "ties_sum"});
inline constexpr auto residual_choices =
    std::to_array<std::string_view>({"none", "sign1", "sign2", "sign3", "ternary", "trellis1", "trellis2"});

inline constexpr value_kind number = value_kind::number;
inline constexpr value_kind integer = value_kind::integer;
inline constexpr value_kind boolean = value_kind::boolean;
inline constexpr value_kind text = value_kind::text;
inline constexpr parameter_scope per_tensor = parameter_scope::tensor;
inline constexpr parameter_scope per_model = parameter_scope::model;
inline constexpr parameter_scope non_base = parameter_scope::non_base;

inline constexpr known_parameter weight{"weight", number, non_base, {}, {}, true, "1"};
inline constexpr known_parameter density{"density", number, non_base, "1"};
inline constexpr known_parameter unused_density{"density", number, non_base, "1", {}, false};
inline constexpr known_parameter lambda{"lambda", number, per_tensor, "1"};
inline constexpr known_parameter int8_mask{"int8_mask", boolean, per_tensor, "false", {}, false};
inline constexpr known_parameter normalize_off{"normalize", boolean, per_tensor, "false"};
inline constexpr known_parameter normalize_in_paper{"normalize", boolean, per_tensor, "false", {}, true, "true"};
inline constexpr known_parameter normalize_on{"normalize", boolean, per_tensor, "true"};
inline constexpr known_parameter rescale_off{"rescale", value_kind::switch_or_text, per_tensor, "false", rescale_choices};
inline constexpr known_parameter rescale_on{"rescale", value_kind::switch_or_text, per_tensor, "true", rescale_choices};
inline constexpr known_parameter gamma{"gamma", number, non_base, "0.01"};
inline constexpr known_parameter window{"epsilon", number, non_base, "0.15"};
inline constexpr known_parameter threshold{"epsilon", number, per_tensor, "1e-5"};

inline constexpr auto linear_parameters = std::to_array<known_parameter>(
    {{"weight", number, per_model, {}, {}, true, "1"}, normalize_on});
inline constexpr auto task_parameters =
    std::to_array<known_parameter>({weight, unused_density, normalize_off, rescale_off, lambda, int8_mask});
inline constexpr auto ties_parameters =
    std::to_array<known_parameter>({weight, density, normalize_on, rescale_off, lambda, int8_mask});
inline constexpr auto dare_parameters =
    std::to_array<known_parameter>({weight, density, normalize_off, rescale_on, lambda, int8_mask});
inline constexpr auto dare_ties_parameters =
    std::to_array<known_parameter>({weight, density, normalize_in_paper, rescale_on, lambda, int8_mask});
inline constexpr auto breadcrumbs_parameters =
    std::to_array<known_parameter>({weight, density, gamma, normalize_off, rescale_off, lambda, int8_mask});
inline constexpr auto della_parameters =
    std::to_array<known_parameter>({weight, density, window, normalize_on, rescale_on, lambda, int8_mask});
inline constexpr auto della_linear_parameters =
    std::to_array<known_parameter>({weight, density, window, normalize_off, rescale_on, lambda, int8_mask});
inline constexpr auto slerp_parameters = std::to_array<known_parameter>({{"t", number, per_tensor, {}, {}, true, "0.5"}});
inline constexpr auto nearswap_parameters = std::to_array<known_parameter>({{"t", number, per_tensor, {}, {}, true, "0.001"}});
inline constexpr auto nuslerp_parameters = std::to_array<known_parameter>(
    {weight, {"nuslerp_row_wise", boolean, per_tensor, "false"}, {"nuslerp_flatten", boolean, per_tensor, "true"}});
inline constexpr auto multislerp_parameters = std::to_array<known_parameter>(
    {weight, {"normalize_weights", boolean, per_tensor, "true"}, {"eps", number, per_tensor, "1e-8"}});
inline constexpr auto karcher_parameters = std::to_array<known_parameter>(
    {{"max_iter", integer, per_tensor, "10"}, {"tol", number, per_tensor, "1e-5"}});
inline constexpr auto model_stock_parameters =
    std::to_array<known_parameter>({{"filter_wise", boolean, per_tensor, "false"}});
inline constexpr auto sce_parameters =
    std::to_array<known_parameter>({{"select_topk", number, per_tensor, "1"}, int8_mask});
inline constexpr auto ram_parameters = std::to_array<known_parameter>({threshold});
inline constexpr auto ramplus_parameters = std::to_array<known_parameter>(
    {threshold, {"r", number, per_tensor, "0.1"}, {"alpha", number, per_tensor, "0.2"}});
inline constexpr auto passthrough_parameters = std::to_array<known_parameter>({{"scale", number, per_model, "-"}});
inline constexpr auto channel_merge_parameters = std::to_array<known_parameter>({
    {"groups", integer, per_tensor, "2"},
    {"similarity", text, per_tensor, "cosine", similarity_choices},
    {"cluster", text, per_tensor, "exact", cluster_choices},
    {"restarts", integer, per_tensor, "-"},
    {"prune", text, per_tensor, "none", prune_choices},
    {"density", number, per_tensor, "0.7"},
    {"epsilon", number, per_tensor, "0.15"},
    {"consensus", text, per_tensor, "mean", consensus_choices},
    lambda,
    {"residual", text, per_tensor, "none", residual_choices},
    {"residual_sweeps", integer, per_tensor, "-"},
    {"budget", number, per_tensor, "-"},
});

inline constexpr auto methods = std::to_array<known_method>({
    {"linear", base_use::ignored, 1, 0, linear_parameters},
    {"slerp", base_use::required, 1, 1, slerp_parameters},
    {"nuslerp", base_use::optional, 2, 2, nuslerp_parameters},
    {"multislerp", base_use::optional, 1, 0, multislerp_parameters},
    {"karcher", base_use::ignored, 1, 0, karcher_parameters},
    {"model_stock", base_use::required, 2, 0, model_stock_parameters},
    {"task_arithmetic", base_use::required, 0, 0, task_parameters},
    {"ties", base_use::required, 0, 0, ties_parameters},
    {"dare_linear", base_use::required, 0, 0, dare_parameters},
    {"dare_ties", base_use::required, 0, 0, dare_ties_parameters},
    {"breadcrumbs", base_use::required, 0, 0, breadcrumbs_parameters},
    {"breadcrumbs_ties", base_use::required, 0, 0, breadcrumbs_parameters},
    {"della", base_use::required, 0, 0, della_parameters},
    {"della_linear", base_use::required, 0, 0, della_linear_parameters},
    {"sce", base_use::required, 0, 0, sce_parameters},
    {"nearswap", base_use::required, 1, 1, nearswap_parameters},
    {"arcee_fusion", base_use::required, 1, 1, {}},
    {"ram", base_use::required, 0, 0, ram_parameters},
    {"ramplus_tl", base_use::required, 0, 0, ramplus_parameters},
    {"passthrough", base_use::ignored, 1, 1, passthrough_parameters},
    {"channel_merge", base_use::required, 1, 0, channel_merge_parameters},
});

}  // namespace detail

/// Every method that a recipe may name.
[[nodiscard]] constexpr std::span<known_method const> known_methods() noexcept { return detail::methods; }

/// nullptr if no method is called that.
[[nodiscard]] constexpr known_method const* find_method(std::string_view name) noexcept {
  for (known_method const& m : detail::methods) {
    if (m.name == name) { return &m; }
  }
  return nullptr;
}

/// nullptr if the method has no parameter of that name.
[[nodiscard]] constexpr known_parameter const* find_parameter(known_method const& method, std::string_view name) noexcept {
  for (known_parameter const& p : method.parameters) {
    if (p.name == name) { return &p; }
  }
  return nullptr;
}

}  // namespace recipe
BRAID_NAMESPACE_END
