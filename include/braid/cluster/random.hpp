#pragma once

#include <braid/cluster/detail/partition.hpp>
#include <braid/core/philox.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace cluster {

/// A control: a partition drawn uniformly from all partitions into exactly the wanted number of groups, a new one for
/// every channel, without a look at the deltas. What a real clustering gains, it gains over this one at equal bytes.
/// Keyed by seed, tensor and channel. Up to 255 experts.
struct random {
  static constexpr std::string_view name = "random";

  std::uint64_t seed = 0;

  template <similarity_policy Similarity>
  void partition(Similarity const&, cluster_problem const& p, int* label) const {
    // From the last row to the first: row m of m + 1 opens a group of its own with probability
    // S(m, k - 1) / S(m + 1, k) (Stirling numbers of the second kind), or joins one of the k groups of the others.
    int k = p.groups;
    for (int m = p.count - 1; m >= 0; --m) {
      std::uint64_t const block = static_cast<std::uint64_t>(p.channel) * 256u + static_cast<std::uint64_t>(m);
      philox_block const random_bits = philox4x32(seed, block, p.stream);
      double const u = static_cast<double>(random_bits.word[0]) * 0x1p-32;
      if (u < opens_group(m + 1, k)) {
        label[m] = k - 1;  // the others use 0 .. k - 2
        --k;
      } else {
        label[m] = static_cast<int>((static_cast<std::uint64_t>(random_bits.word[1]) * static_cast<std::uint64_t>(k)) >> 32);
      }
    }
  }

 private:
  /// S(n - 1, k - 1) / S(n, k) for 1 <= k <= n, from S(n, k) = k S(n - 1, k) + S(n - 1, k - 1). The numbers pass the
  /// range of float64 beyond n = 219, that of long double never.
  static double opens_group(int n, int k) {
    struct table {
      double open[max_experts + 1][max_experts + 1];
      table() {
        long double stirling[max_experts + 1] = {1.0L};
        for (int row = 1; row <= max_experts; ++row) {
          // In place, from the right: entry `col` still needs the old entry to its left.
          for (int col = row; col >= 1; --col) {
            long double const opened = stirling[col - 1];
            stirling[col] = static_cast<long double>(col) * stirling[col] + opened;
            open[row][col] = static_cast<double>(opened / stirling[col]);
          }
          stirling[0] = 0.0L;
        }
      }
    };
    static table const numbers;
    return numbers.open[n][k];
  }
};
static_assert(clustering_policy<random>);

}  // namespace cluster
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
