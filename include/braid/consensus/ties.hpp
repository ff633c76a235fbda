#pragma once

#include <braid/consensus/sum.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace consensus {

/// How the members that agree with the elected sign are joined.
enum class disjoint : unsigned char { mean, sum };

/// Sign election and disjoint merge of TIES: the sign of the members' sum is elected (a zero sum elects plus), and the
/// result is the mean (`ties`) or the sum (`ties_sum`, the authors' "dis-sum") of those members whose sign agrees.
/// Zeros never agree; where nobody does, the result is 0.
///
/// Yadav et al., "TIES-Merging" (NeurIPS 2023, arXiv 2306.01708), section 4, steps 2 and 3. Trimming, step 1, is
/// `prune::magnitude`.
template <disjoint Join>
struct basic_ties {
  static constexpr std::string_view name = Join == disjoint::mean ? "ties" : "ties_sum";

  BRAID_HD constexpr float operator()(float const* member, int n) const noexcept {
    bool const plus = sum{}(member, n) >= 0.0f;
    float total = 0.0f;
    float agreeing = 0.0f;
    for (int i = 0; i < n; ++i) {
      bool const agrees = plus ? member[i] > 0.0f : member[i] < 0.0f;
      total = total + (agrees ? member[i] : 0.0f);
      agreeing = agreeing + (agrees ? 1.0f : 0.0f);
    }
    return join(total, agreeing);
  }

  BRAID_ALWAYS_INLINE void combine(float* member, index_t stride, int n, int count, float* out) const noexcept {
    constexpr int tile = 64;  // columns whose vote fits in registers and L1
    for (int first = 0; first < count; first += tile) {
      int const width = count - first < tile ? count - first : tile;
      float vote[tile];
      float total[tile];
      float agreeing[tile];
      for (int c = 0; c < width; ++c) {
        vote[c] = member[first + c];
        total[c] = 0.0f;
        agreeing[c] = 0.0f;
      }
      for (int i = 1; i < n; ++i) {
        float const* const row = member + i * stride + first;
        for (int c = 0; c < width; ++c) { vote[c] = vote[c] + row[c]; }
      }
      for (int i = 0; i < n; ++i) {
        float const* const row = member + i * stride + first;
        for (int c = 0; c < width; ++c) {
          float const along = vote[c] >= 0.0f ? row[c] : -row[c];
          total[c] = total[c] + (along > 0.0f ? row[c] : 0.0f);
          agreeing[c] = agreeing[c] + (along > 0.0f ? 1.0f : 0.0f);
        }
      }
      for (int c = 0; c < width; ++c) { out[first + c] = join(total[c], agreeing[c]); }
    }
  }

 private:
  BRAID_HD static constexpr float join(float total, float agreeing) noexcept {
    return Join == disjoint::mean ? total / (agreeing > 0.0f ? agreeing : 1.0f) : total;
  }
};

using ties = basic_ties<disjoint::mean>;
using ties_sum = basic_ties<disjoint::sum>;

static_assert(consensus_policy<ties> && consensus_policy<ties_sum>);

}  // namespace consensus
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
