#pragma once

#include <braid/core/error.hpp>

#include <algorithm>
#include <concepts>
#include <span>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// What a greedy soup is made of.
struct soup {
  std::vector<std::size_t> members;  ///< numbers of the candidates, in the order in which they were taken
  double score = 0.0;                ///< of their average
  std::vector<double> alone;         ///< each candidate's own score
};

/// The greedy soup recipe on whole checkpoints: candidates in the order of their own scores, the best first (of equal ones the
/// lower number), each taken where the average of those taken so far and itself scores no worse than without it.
///
/// @param candidates  how many checkpoints there are, at least one
/// @param evaluate    `evaluate(std::span<std::size_t const> members) -> double`: the score of the average of these candidates
///                    (equal weights: `linear`) on held-out data; larger is better. Called 2 N - 1 times
/// @throws argument_error without candidates; value_error for a score that is NaN
///
/// Wortsman et al., "Model soups" (ICML 2022, arXiv 2203.05482), section 2, recipe 1.
template <class Evaluate>
  requires std::convertible_to<std::invoke_result_t<Evaluate&, std::span<std::size_t const>>, double>
[[nodiscard]] soup greedy_soup(std::size_t candidates, Evaluate&& evaluate) {
  if (candidates == 0) { throw argument_error("greedy_soup: there are no candidates: give at least one checkpoint"); }
  auto const score_of = [&](std::vector<std::size_t> const& members) {
    double const score = evaluate(std::span<std::size_t const>(members));
    if (score != score) {
      throw value_error("greedy_soup: the score of a soup of " + std::to_string(members.size()) + " candidates, the last of them number " +
                        std::to_string(members.back()) + ", is NaN: let the evaluation give a number");
    }
    return score;
  };
  soup best;
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < candidates; ++i) {
    order.push_back(i);
    best.alone.push_back(score_of({i}));
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return best.alone[a] > best.alone[b]; });
  best.members = {order[0]};
  best.score = best.alone[order[0]];
  for (std::size_t i = 1; i < candidates; ++i) {
    std::vector<std::size_t> tried = best.members;
    tried.push_back(order[i]);
    double const score = score_of(tried);
    if (score >= best.score) {
      best.members = std::move(tried);
      best.score = score;
    }
  }
  return best;
}

BRAID_NAMESPACE_END
