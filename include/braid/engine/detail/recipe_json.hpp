#pragma once

#include <braid/core/concepts.hpp>
#include <braid/cluster/budget.hpp>

#include <nlohmann/json.hpp>

#include <string>
#include <variant>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A policy's name and the numbers that braid's own policies have. A user's policy may offer `describe(json&)`.
template <class Policy>
nlohmann::json own_policy_json(Policy const& p) {
  nlohmann::json j = {{"name", std::string(p.name)}};
  if constexpr (requires { j["density"] = p.density; }) { j["density"] = p.density; }
  if constexpr (requires { j["epsilon"] = p.epsilon; }) { j["epsilon"] = p.epsilon; }
  if constexpr (requires { j["restarts"] = p.restarts; }) { j["restarts"] = p.restarts; }
  if constexpr (requires { j["seed"] = p.seed; }) { j["seed"] = p.seed; }
  if constexpr (requires { j["sweeps"] = p.sweeps; }) { j["sweeps"] = p.sweeps; }
  if constexpr (requires { p.rank_one; p.allowed; } || requires { p.rank_one; p.sweeps; }) {
    if (p.rank_one) { j["rank_one"] = true; }
  }
  if constexpr (requires { p.describe(j); }) { p.describe(j); }
  return j;
}

template <class Policy>
nlohmann::json policy_json(Policy const& p) {
  if constexpr (requires { p.choice; }) {  // chosen at run time
    return std::visit([](auto const& chosen) { return own_policy_json(chosen); }, p.choice);
  } else {
    return own_policy_json(p);
  }
}

/// The options of a channel merge, for the metadata of what it writes.
template <class Options>
nlohmann::json recipe_json(Options const& o) {
  nlohmann::json recipe = {{"prune", policy_json(o.prune)},     {"similarity", policy_json(o.similarity)},
                           {"cluster", policy_json(o.cluster)}, {"consensus", policy_json(o.consensus)},
                           {"groups", o.groups},                {"lambda", o.lambda}};
  if constexpr (requires { o.residual.code; }) {
    if (codes_anything(o.residual)) { recipe["residual"] = policy_json(o.residual); }
  }
  if constexpr (requires { o.budget.stored; }) {
    if (o.budget.stored > 0.0) {
      recipe["budget"] = {{"stored", o.budget.stored}, {"weighting", std::string(name_of(o.budget.weighting))}};
    }
  }
  return recipe;
}

/// The seed that a merge's random choices depend on; 0 where it has none.
template <class Options>
std::uint64_t recipe_seed(Options const& o) {
  if constexpr (requires { std::uint64_t{o.prune.seed}; }) {
    return o.prune.seed;
  } else if constexpr (requires { std::uint64_t{o.cluster.seed}; }) {
    return o.cluster.seed;
  } else if constexpr (requires { o.cluster.choice; }) {
    return std::visit(
        [](auto const& c) -> std::uint64_t {
          if constexpr (requires { std::uint64_t{c.seed}; }) { return c.seed; }
          return 0;
        },
        o.cluster.choice);
  } else {
    return 0;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
