#pragma once

#include <braid/method/method_options.hpp>
#include <braid/method/task_arithmetic.hpp>
#include <braid/prune/dare.hpp>
#include <braid/prune/magnitude.hpp>
#include <braid/prune/magprune.hpp>
#include <braid/prune/outliers.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One method of the task-arithmetic family.
struct delta_method_row {
  std::string_view name;
  enum class pruning : unsigned char { none, magnitude, dare, outliers, magprune } prune;
  bool elects;        // a sign
  bool normalizes;    // by default, in mergekit
  bool mean_in_paper; // normalises by default as published
};
inline constexpr delta_method_row delta_method_table[] = {
    {"task_arithmetic", delta_method_row::pruning::none, false, false, false},
    {"ties", delta_method_row::pruning::magnitude, true, true, true},
    {"dare_linear", delta_method_row::pruning::dare, false, false, false},
    {"dare_ties", delta_method_row::pruning::dare, true, false, true},
    {"breadcrumbs", delta_method_row::pruning::outliers, false, false, false},
    {"breadcrumbs_ties", delta_method_row::pruning::outliers, true, false, false},
    {"della_linear", delta_method_row::pruning::magprune, false, false, false},
    {"della", delta_method_row::pruning::magprune, true, true, true},
};

template <backend Exec, class Prune, rescale Rescale>
std::unique_ptr<tensor_method<Exec>> make_delta_method(Prune const& prune, delta_method_row const& row, method_options const& o,
                                                       delta_method_settings const& settings) {
  bool const paper = o.style == method_style::paper;
  bool const normalize = paper ? row.mean_in_paper : row.normalizes;
  auto const make = [&]<class Consensus>(Consensus) -> std::unique_ptr<tensor_method<Exec>> {
    using method = task_arithmetic<Exec, Prune, Consensus, Rescale>;
    return std::make_unique<method>(typename method::options{.prune = prune, .normalize = normalize}, settings);
  };
  // Each pruning is compiled with the consensuses that it is ever used with.
  if constexpr (std::same_as<Prune, prune::none>) {
    return make(consensus::weighted_sum{});
  } else if constexpr (Prune::measures == statistic::tensor_cut || Prune::measures == statistic::row_cut) {
    return paper ? make(consensus::plain_ties{}) : make(consensus::weighted_ties{});
  } else if (!row.elects) {
    return make(consensus::weighted_sum{});
  } else {
    return paper ? make(consensus::plain_ties{}) : make(consensus::weighted_ties{});
  }
}

/// @return null where the name is of no method of this family
template <backend Exec>
std::unique_ptr<tensor_method<Exec>> make_delta_method(std::string_view name, method_options const& o) {
  for (delta_method_row const& row : delta_method_table) {
    if (row.name != name) { continue; }
    using pruning = delta_method_row::pruning;
    bool const paper = o.style == method_style::paper;
    bool const trims = row.prune == pruning::magnitude;
    trim_scope const scope = o.scope.value_or(paper && trims ? trim_scope::model : trim_scope::tensor);
    if (!trims && scope != trim_scope::tensor) {
      throw argument_error("merge method '" + std::string(name) + "' has no scope to choose: only ties trims over a row, a tensor "
                           "or the whole model");
    }
    delta_method_settings settings{.name = row.name, .weight_required = !paper, .needs_cuts = scope == trim_scope::model};
    settings.rescaling = o.rescaling.value_or(paper ? rescale::inverse_keep : rescale::l1);
    switch (row.prune) {
      case pruning::none: return make_delta_method<Exec, prune::none, rescale::none>({}, row, o, settings);
      case pruning::magnitude:
        if (scope == trim_scope::row) {
          return make_delta_method<Exec, prune::magnitude_rows, rescale::none>({.density = 1.0, .at_least_one = !paper}, row, o,
                                                                                  settings);
        }
        return make_delta_method<Exec, prune::magnitude, rescale::none>({.density = 1.0, .at_least_one = !paper}, row, o, settings);
      case pruning::dare:
        return make_delta_method<Exec, prune::dare, rescale::l1>({.density = 1.0, .seed = o.seed}, row, o, settings);
      case pruning::outliers:
        return make_delta_method<Exec, prune::outliers, rescale::none>({.density = 1.0, .gamma = 0.01}, row, o, settings);
      case pruning::magprune:
        return make_delta_method<Exec, prune::magprune, rescale::l1>({.density = 1.0, .epsilon = 0.15, .seed = o.seed}, row, o,
                                                                     settings);
    }
  }
  return nullptr;
}

}  // namespace detail
BRAID_NAMESPACE_END
