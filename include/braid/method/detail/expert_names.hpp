#pragma once

#include <braid/core/concepts.hpp>
#include <braid/core/error.hpp>
#include <braid/core/expert_name.hpp>

#include <algorithm>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The order in which experts are always handled: by name. Entry i is the position of the i-th expert in `names`.
/// @throws argument_error for no or too many experts, bad names, and two of one name
inline std::vector<std::size_t> order_by_name(std::vector<std::string> const& names) {
  if (names.empty()) { throw argument_error("a merge needs at least one expert"); }
  if (names.size() > static_cast<std::size_t>(max_experts)) {
    throw argument_error("a merge takes at most " + std::to_string(max_experts) + " experts, not " +
                         std::to_string(names.size()));
  }
  for (auto const& n : names) {
    if (!is_expert_name(n)) {
      throw argument_error("expert name '" + n + "': use letters, digits, '-' and '_' only; name it otherwise than its "
                           "directory (NAME=DIR on the command line, checkpoint{dir, name} in a program)");
    }
  }
  std::vector<std::size_t> order(names.size());
  for (std::size_t i = 0; i < order.size(); ++i) { order[i] = i; }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return names[a] < names[b]; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (names[order[i]] == names[order[i - 1]]) {
      throw argument_error("two experts are named '" + names[order[i]] + "': give each a name of its own");
    }
  }
  return order;
}

}  // namespace detail
BRAID_NAMESPACE_END
