#pragma once

#include <braid/similarity/balanced.hpp>
#include <braid/similarity/cosine.hpp>
#include <braid/similarity/euclidean.hpp>
#include <braid/similarity/sign.hpp>

#include <variant>

BRAID_NAMESPACE_BEGIN
namespace similarity {

/// One of braid's similarities, chosen at run time. Costs a branch a channel.
struct any {
  std::variant<cosine, euclidean, balanced, sign> choice{};
  std::string_view name = cosine::name;
  gram_operand operand = cosine::operand;
  bool needs_norms = cosine::needs_norms;

  any() = default;
  template <class S>
    requires(std::constructible_from<decltype(choice), S> && !std::same_as<S, any>)
  any(S s) noexcept : choice(s), name(s.name), operand(s.operand), needs_norms(s.needs_norms) {}

  void normalise(double* gram, int n, double const* norms) const {
    std::visit([&](auto const& s) { s.normalise(gram, n, norms); }, choice);
  }
  [[nodiscard]] double group_score(double total, double trace, double size) const {
    return std::visit([&](auto const& s) { return s.group_score(total, trace, size); }, choice);
  }
  [[nodiscard]] double distance(double self, double cross, double total, double size) const {
    return std::visit([&](auto const& s) { return s.distance(self, cross, total, size); }, choice);
  }
};
static_assert(similarity_policy<any>);

}  // namespace similarity
BRAID_NAMESPACE_END
