#pragma once

#include <braid/core/error.hpp>
#include <braid/method/method_parameters.hpp>

#include <algorithm>
#include <cmath>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Looks parameters up for one tensor: first what was given for it, then what the method object was made with, then the
/// method's default. Every error names method, parameter and tensor, and the model where there is one.
class parameter_reader {
 public:
  /// @throws argument_error for parameters that the method doesn't know
  parameter_reader(std::string_view method, std::vector<parameter_info> const& known, method_parameters const& own,
                   method_parameters const& given, std::string_view tensor, std::vector<std::string> const& models)
      : method_(method), known_(known), own_(own), given_(given), tensor_(tensor), models_(models) {
    for (auto const& [name, value] : given.of_tensor) { require_known(name, false); }
    for (auto const& [name, value] : given.of_model) { require_known(name, true); }
  }

  /// A parameter of the tensor.
  [[nodiscard]] double number(std::string_view name) const {
    for (auto const* source : {&given_, &own_}) {
      if (auto const at = source->of_tensor.find(name); at != source->of_tensor.end()) { return finite(name, at->second, ""); }
    }
    return fallback(name, "");
  }

  [[nodiscard]] bool flag(std::string_view name) const { return number(name) != 0.0; }

  /// A parameter of each model, [models].
  [[nodiscard]] std::vector<double> each(std::string_view name) const {
    std::vector<double> values(models_.size());
    for (std::size_t i = 0; i < values.size(); ++i) { values[i] = of_model(name, i); }
    return values;
  }

  /// Refuses a value, naming everything.
  [[noreturn]] void refuse(std::string_view name, double value, std::string_view model, std::string_view why) const {
    throw argument_error(subject(name, model) + " is " + std::to_string(value) + ": " + std::string(why));
  }

  /// "merge method 'ties': tensor 'x'", for errors of the method's own.
  [[nodiscard]] std::string where() const {
    return "merge method '" + std::string(method_) + "': tensor '" + std::string(tensor_) + "'";
  }

  [[nodiscard]] std::vector<std::string> const& models() const noexcept { return models_; }

 private:
  [[nodiscard]] double of_model(std::string_view name, std::size_t model) const {
    for (auto const* source : {&given_, &own_}) {
      if (auto const at = source->of_model.find(name); at != source->of_model.end()) {
        if (at->second.size() != models_.size()) {
          throw argument_error(subject(name, "") + " has " + std::to_string(at->second.size()) + " values for " +
                               std::to_string(models_.size()) + " models: give one a model");
        }
        if (at->second[model]) { return finite(name, *at->second[model], models_[model]); }
      }
      if (auto const at = source->of_tensor.find(name); at != source->of_tensor.end()) {
        return finite(name, at->second, models_[model]);
      }
    }
    return fallback(name, models_[model]);
  }

  [[nodiscard]] double fallback(std::string_view name, std::string_view model) const {
    parameter_info const& p = *find(name);
    if (p.required) {
      throw argument_error(subject(name, model) + " is missing: set it for " +
                           (p.per_model ? "this model, or for all of them" : "the merge"));
    }
    return p.fallback;
  }

  [[nodiscard]] double finite(std::string_view name, double value, std::string_view model) const {
    if (!std::isfinite(value)) { refuse(name, value, model, "give a finite number"); }
    return value;
  }

  void require_known(std::string_view name, bool per_model) const {
    auto const at = find(name);
    if (at == known_.end()) {
      std::string names;
      for (auto const& p : known_) { names += (names.empty() ? "" : ", ") + std::string(p.name); }
      throw argument_error("merge method '" + std::string(method_) + "' has no parameter '" + std::string(name) +
                           "' (tensor '" + std::string(tensor_) + "'); it knows " + (names.empty() ? "none" : names));
    }
    if (per_model && !at->per_model) {
      throw argument_error(subject(name, "") + " has one value for the whole merge, not one a model");
    }
  }

  [[nodiscard]] std::vector<parameter_info>::const_iterator find(std::string_view name) const {
    return std::find_if(known_.begin(), known_.end(), [&](parameter_info const& p) { return p.name == name; });
  }

  [[nodiscard]] std::string subject(std::string_view name, std::string_view model) const {
    return "merge method '" + std::string(method_) + "': parameter '" + std::string(name) + "'" +
           (model.empty() ? "" : " of model '" + std::string(model) + "'") + " at tensor '" + std::string(tensor_) + "'";
  }

  std::string_view method_;
  std::vector<parameter_info> const& known_;
  method_parameters const& own_;
  method_parameters const& given_;
  std::string_view tensor_;
  std::vector<std::string> const& models_;
};

/// Values for every model, as a method object keeps them; none for an empty list, so that the default holds.
inline void keep_values(method_parameters& p, std::string_view name, std::vector<double> const& values) {
  if (!values.empty()) { p.of_model[std::string(name)] = method_parameters::per_model(values.begin(), values.end()); }
}

}  // namespace detail
BRAID_NAMESPACE_END
