#pragma once

#include <braid/serve/router.hpp>

#include <array>
#include <cmath>
#include <vector>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

/// How good a router is on queries whose experts are known.
struct router_quality {
  std::size_t queries = 0;
  std::size_t right = 0;         ///< queries whose most probable expert is theirs
  std::size_t unsure = 0;        ///< queries below the threshold
  std::size_t right_sure = 0;    ///< right ones that aren't unsure
  std::size_t served_right = 0;  ///< queries answered by their expert, by the default expert too
  double cross_entropy = 0.0;    ///< mean, in nats
  /// Expected calibration error over 15 equal bins of confidence: the mean distance of accuracy and mean confidence in a
  /// bin, each bin weighed by its queries (Guo et al., ICML 2017, section 2).
  double calibration_error = 0.0;
  std::vector<std::string> experts;
  std::vector<std::size_t> confusion;  ///< [experts, experts]: queries of the row's expert whose best is the column's

  struct bin {
    std::size_t queries = 0;
    std::size_t right = 0;
    double confidence = 0.0;  ///< sum over its queries
  };
  static constexpr std::size_t bin_count = 15;
  std::array<bin, bin_count> bins{};  ///< bin b: confidence in (b / 15, (b + 1) / 15]

  [[nodiscard]] double accuracy() const noexcept { return share(right, queries); }
  /// Of the queries that aren't unsure; NaN where all are.
  [[nodiscard]] double sure_accuracy() const noexcept { return share(right_sure, queries - unsure); }
  [[nodiscard]] double served_accuracy() const noexcept { return share(served_right, queries); }

 private:
  static double share(std::size_t part, std::size_t whole) noexcept {
    return whole == 0 ? std::nan("") : static_cast<double>(part) / static_cast<double>(whole);
  }
};

/// Routes every query and counts.
/// @throws argument_error for a query of an expert that the router doesn't know
template <query_embedding Embedding>
[[nodiscard]] router_quality evaluate(router<Embedding> const& r,
                                      std::vector<labelled_query<typename Embedding::query_type>> const& queries) {
  router_quality q;
  std::size_t const n = r.experts().size();
  q.experts = r.experts();
  q.confusion.assign(n * n, 0);
  q.queries = queries.size();
  for (auto const& asked : queries) {
    std::size_t const expected = r.expert_number(asked.expert);
    routing const to = r.route(asked.query);
    bool const right = to.best == expected;
    q.right += right ? 1u : 0u;
    q.unsure += to.unsure ? 1u : 0u;
    q.right_sure += right && !to.unsure ? 1u : 0u;
    q.served_right += to.expert == expected ? 1u : 0u;
    q.confusion[expected * n + to.best] += 1;
    q.cross_entropy -= std::log(std::max(to.probability[expected], 1e-300));
    double const place = std::ceil(to.confidence * static_cast<double>(router_quality::bin_count)) - 1.0;
    auto& bin = q.bins[static_cast<std::size_t>(std::clamp(place, 0.0, static_cast<double>(router_quality::bin_count - 1)))];
    bin.queries += 1;
    bin.right += right ? 1u : 0u;
    bin.confidence += to.confidence;
  }
  if (q.queries == 0) { return q; }
  for (auto const& bin : q.bins) { q.calibration_error += std::abs(static_cast<double>(bin.right) - bin.confidence); }
  q.calibration_error /= static_cast<double>(q.queries);
  q.cross_entropy /= static_cast<double>(q.queries);
  return q;
}

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
