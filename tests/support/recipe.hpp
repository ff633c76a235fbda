#pragma once

/// A channel merge as plain data: what tests hand both to the library (support/pipelines.hpp) and to the naive
/// implementation (support/reference.hpp).

#include <braid/core/types.hpp>

#include <cstdint>

namespace braid_test {

/// Pruning and consensus, in the pairs that the tests compile.
enum class pipeline : int {
  none_mean,
  none_sum,
  dare_sum,
  magnitude_ties,
  magnitude_rows_ties_sum,
  magprune_mean,
};
inline constexpr pipeline all_pipelines[] = {pipeline::none_mean,
                                             pipeline::none_sum,
                                             pipeline::dare_sum,
                                             pipeline::magnitude_ties,
                                             pipeline::magnitude_rows_ties_sum,
                                             pipeline::magprune_mean};

enum class metric : int { cosine, euclidean, balanced, sign };
inline constexpr metric all_metrics[] = {metric::cosine, metric::euclidean, metric::balanced, metric::sign};

enum class clustering : int { exact, kmeans, agglomerative, random };
inline constexpr clustering all_clusterings[] = {clustering::exact, clustering::kmeans, clustering::agglomerative,
                                                 clustering::random};

struct recipe {
  pipeline method = pipeline::none_mean;
  double density = 0.7;   // where something is pruned
  double epsilon = 0.15;  // magprune's
  std::uint64_t seed = 0;
  metric similarity = metric::cosine;
  clustering cluster = clustering::exact;
  int groups = 2;
  float lambda = 1.0f;
  bool allow_nonfinite = false;
};

}  // namespace braid_test
