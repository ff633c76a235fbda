#pragma once

#include <braid/method/detail/make_delta_method.hpp>
#include <braid/method/linear.hpp>

#include <span>

BRAID_NAMESPACE_BEGIN

/// The names that `make_tensor_method` knows, which are mergekit's.
inline constexpr std::string_view tensor_method_names[] = {
    "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear",
};

/// A single-model method by name, as recipes have it; its `info()` says which parameters it knows and needs.
/// @throws argument_error for names that no method has, and for options that a method can't follow
template <backend Exec>
[[nodiscard]] std::unique_ptr<tensor_method<Exec>> make_tensor_method(std::string_view name, method_options const& options = {}) {
  if (auto method = detail::make_delta_method<Exec>(name, options)) { return method; }
  bool const required = options.style == method_style::mergekit;
  if (name == "linear") { return std::make_unique<linear<Exec>>(typename linear<Exec>::options{}, required); }
  std::string names;
  for (std::string_view const n : tensor_method_names) { names += (names.empty() ? "" : ", ") + std::string(n); }
  throw argument_error("no merge method is called '" + std::string(name) + "'; there are " + names);
}

BRAID_NAMESPACE_END
