#pragma once

#include <braid/method/arcee_fusion.hpp>
#include <braid/method/detail/make_delta_method.hpp>
#include <braid/method/karcher_mean.hpp>
#include <braid/method/linear.hpp>
#include <braid/method/model_stock.hpp>
#include <braid/method/multislerp.hpp>
#include <braid/method/nearswap.hpp>
#include <braid/method/nuslerp.hpp>
#include <braid/method/passthrough.hpp>
#include <braid/method/ram.hpp>
#include <braid/method/sce.hpp>
#include <braid/method/slerp.hpp>

#include <span>

BRAID_NAMESPACE_BEGIN

/// The names that `make_tensor_method` knows, which are mergekit's.
inline constexpr std::string_view tensor_method_names[] = {
    "linear", "slerp",       "nuslerp",      "multislerp",  "karcher",          "model_stock", "task_arithmetic",
    "ties",   "dare_linear", "dare_ties",    "breadcrumbs", "breadcrumbs_ties", "della",       "della_linear",
    "sce",    "nearswap",    "arcee_fusion", "ram",         "ramplus_tl",       "passthrough",
};

/// A single-model method by name, as recipes have it; its `info()` says which parameters it knows and needs.
/// @throws argument_error for names that no method has, and for options that a method can't follow
template <backend Exec>
[[nodiscard]] std::unique_ptr<tensor_method<Exec>> make_tensor_method(std::string_view name,
                                                                      method_options const& options = {}) {
  if (auto method = detail::make_delta_method<Exec>(name, options)) { return method; }
  if (options.scope || options.rescaling) {
    bool const known = std::find(std::begin(tensor_method_names), std::end(tensor_method_names), name) !=
                       std::end(tensor_method_names);
    if (known) {
      throw argument_error("merge method '" + std::string(name) +
                           "' doesn't prune, so it has no scope or rescale to choose");
    }
  }
  bool const mergekit = options.style == method_style::mergekit;  // it requires what C++ programs have defaults for
  using E = Exec;
  if (name == "linear") {
    return std::make_unique<linear<E>>(typename linear<E>::options{.fused = mergekit}, mergekit);
  }
  if (name == "slerp") { return std::make_unique<slerp<E>>(typename slerp<E>::options{}, mergekit); }
  if (name == "nuslerp") { return std::make_unique<nuslerp<E>>(typename nuslerp<E>::options{}, mergekit); }
  if (name == "multislerp") { return std::make_unique<multislerp<E>>(typename multislerp<E>::options{}, mergekit); }
  if (name == "karcher") { return std::make_unique<karcher_mean<E>>(); }
  if (name == "model_stock") {
    return std::make_unique<model_stock<E>>(typename model_stock<E>::options{.style = options.style});
  }
  if (name == "sce") { return std::make_unique<sce<E>>(); }
  if (name == "nearswap") { return std::make_unique<nearswap<E>>(typename nearswap<E>::options{}, mergekit); }
  if (name == "arcee_fusion") { return std::make_unique<arcee_fusion<E>>(); }
  if (name == "ram") { return std::make_unique<ram<E>>(); }
  if (name == "ramplus_tl") { return std::make_unique<ram<E>>(typename ram<E>::options{.reinforce = true}); }
  if (name == "passthrough") { return std::make_unique<passthrough<E>>(); }
  std::string names;
  for (std::string_view const n : tensor_method_names) { names += (names.empty() ? "" : ", ") + std::string(n); }
  throw argument_error("no merge method is called '" + std::string(name) + "'; there are " + names);
}

BRAID_NAMESPACE_END
