#pragma once

#include <braid/cluster/agglomerative.hpp>
#include <braid/cluster/exact.hpp>
#include <braid/cluster/kmeans.hpp>
#include <braid/cluster/random.hpp>

#include <variant>

BRAID_NAMESPACE_BEGIN
namespace cluster {

/// One of braid's clusterings, chosen at run time. Costs a branch a channel.
struct any {
  std::variant<exact, kmeans, agglomerative, random> choice{};
  std::string_view name = exact::name;

  any() = default;
  template <class C>
    requires(std::constructible_from<decltype(choice), C> && !std::same_as<C, any>)
  any(C c) noexcept : choice(c), name(c.name) {}

  void check_experts(int experts) const {
    if (std::holds_alternative<exact>(choice)) { exact::check_experts(experts); }
  }

  template <similarity_policy Similarity>
  void partition(Similarity const& similarity, cluster_problem const& p, int* label) const {
    std::visit([&](auto const& c) { c.partition(similarity, p, label); }, choice);
  }
};
static_assert(clustering_policy<any>);

}  // namespace cluster
BRAID_NAMESPACE_END
