#pragma once

#include <braid/config.hpp>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// Whose formula a method follows where two are in use; docs/methods.md lists the differences.
enum class method_style : unsigned char {
  mergekit,  ///< as the program mergekit computes it: what recipes expect
  paper      ///< as the method's authors published it
};

enum class parameter_kind : unsigned char { real, integer, boolean };

/// A parameter that a method knows.
struct parameter_info {
  std::string_view name;
  parameter_kind kind = parameter_kind::real;
  bool per_model = false;   ///< one value a model; else one a tensor
  bool required = false;    ///< without a value the merge is refused
  double fallback = 0.0;    ///< the value where none is given; booleans: 0 or 1
  bool has_effect = true;   ///< false: accepted for the sake of recipes, and changes nothing
};

/// The numbers of one merged tensor, after gradients and filters have been resolved. Booleans are 0 and 1.
struct method_parameters {
  using per_model = std::vector<std::optional<double>>;  ///< [models], in the order of the models

  std::map<std::string, double, std::less<>> of_tensor;    ///< of a parameter per model: the value for every model
  std::map<std::string, per_model, std::less<>> of_model;  ///< comes before `of_tensor`; empty entries are not set
};

BRAID_NAMESPACE_END
