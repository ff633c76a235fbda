#pragma once

/// How task arithmetic joins weighted deltas: their sum, or the sum of those that agree with an elected sign.

#include <braid/core/concepts.hpp>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

/// Joins one element of the models' pruned deltas d_i with their weights w_i. With `normalize`, the result is divided by the
/// sum of the weights that took part.
template <class M>
concept weighted_consensus_policy = std::copyable<M> && requires(M const m, float const* delta, float const* weight, int n,
                                                                bool normalize) {
  { m.name } -> std::convertible_to<std::string_view>;
  { m(delta, weight, n, normalize) } noexcept -> std::same_as<float>;
};

namespace consensus {

/// The sum of w_i d_i, from +0 in the order of the models: task arithmetic (Ilharco et al., ICLR 2023, arXiv 2212.04089).
/// Normalised by the sum of the weights, unless that is below 1e-8 in magnitude.
struct weighted_sum {
  static constexpr std::string_view name = "weighted_sum";

  BRAID_HD constexpr float operator()(float const* delta, float const* weight, int n, bool normalize) const noexcept {
    float total = 0.0f;
    for (int i = 0; i < n; ++i) { total = total + delta[i] * weight[i]; }
    return normalize ? total / divisor(weight, n) : total;
  }

  /// The same for `count` columns; `delta + i * stride` is model i.
  BRAID_ALWAYS_INLINE void combine(float* delta, index_t stride, float const* weight, int n, bool normalize, int count,
                                   float* out) const noexcept {
    for (int c = 0; c < count; ++c) { out[c] = 0.0f; }
    for (int i = 0; i < n; ++i) {
      float const* const row = delta + i * stride;
      float const w = weight[i];
      for (int c = 0; c < count; ++c) { out[c] = out[c] + row[c] * w; }
    }
    if (!normalize) { return; }
    float const d = divisor(weight, n);
    for (int c = 0; c < count; ++c) { out[c] = out[c] / d; }
  }

 private:
  BRAID_HD static constexpr float divisor(float const* weight, int n) noexcept {
    float sum = 0.0f;
    for (int i = 0; i < n; ++i) { sum = sum + weight[i]; }
    return sum < 1e-8f && sum > -1e-8f ? 1.0f : sum;
  }
};
static_assert(weighted_consensus_policy<weighted_sum>);

/// Who elects the sign.
enum class ballot : unsigned char {
  weighted,  ///< the sign of the sum of w_i d_i, so that a negative weight votes the other way: mergekit
  plain      ///< the sign of the sum of d_i: TIES as published
};

/// Sign election and disjoint merge of TIES with weights: the sign of a sum is elected (a zero sum elects plus), and the
/// result is the sum of w_i d_i over the models that agree, normalised by the sum of their weights (unless that is 0). Who
/// agrees is asked of what voted: of w_i d_i in a weighted ballot, of d_i in a plain one. Zeros never agree.
///
/// Yadav et al., "TIES-Merging" (NeurIPS 2023, arXiv 2306.01708), section 4, steps 2 and 3. With equal weights and
/// `normalize` both ballots are the authors' "dis-mean"; with weights 1 and without it, their "dis-sum".
template <ballot Ballot>
struct elected_sum {
  static constexpr std::string_view name = Ballot == ballot::weighted ? "weighted_ties" : "plain_ties";

  BRAID_HD constexpr float operator()(float const* delta, float const* weight, int n, bool normalize) const noexcept {
    float vote = 0.0f;
    for (int i = 0; i < n; ++i) { vote = vote + voice(delta[i], weight[i]); }
    float const elected = vote >= 0.0f ? 1.0f : -1.0f;
    float total = 0.0f;
    float sum = 0.0f;
    for (int i = 0; i < n; ++i) {
      bool const agrees = voice(delta[i], weight[i]) * elected > 0.0f;
      // The same as adding 0: no sum from +0 on becomes -0.
      if (agrees) {
        total = total + delta[i] * weight[i];
        sum = sum + weight[i];
      }
    }
    return normalize ? total / (sum == 0.0f ? 1.0f : sum) : total;
  }

  BRAID_ALWAYS_INLINE void combine(float* delta, index_t stride, float const* weight, int n, bool normalize, int count,
                                   float* out) const noexcept {
    constexpr int tile = 64;  // columns whose election fits in registers and L1
    for (int first = 0; first < count; first += tile) {
      int const width = count - first < tile ? count - first : tile;
      float vote[tile];
      float total[tile];
      float sum[tile];
      for (int c = 0; c < width; ++c) {
        vote[c] = 0.0f;
        total[c] = 0.0f;
        sum[c] = 0.0f;
      }
      for (int i = 0; i < n; ++i) {
        float const* const row = delta + i * stride + first;
        float const w = weight[i];
        for (int c = 0; c < width; ++c) { vote[c] = vote[c] + voice(row[c], w); }
      }
      for (int i = 0; i < n; ++i) {
        float const* const row = delta + i * stride + first;
        float const w = weight[i];
        for (int c = 0; c < width; ++c) {
          float const x = voice(row[c], w);
          float const along = vote[c] >= 0.0f ? x : -x;
          float const y = row[c] * w;
          total[c] = total[c] + (along > 0.0f ? y : 0.0f);
          sum[c] = sum[c] + (along > 0.0f ? w : 0.0f);
        }
      }
      for (int c = 0; c < width; ++c) {
        float const d = sum[c] == 0.0f ? 1.0f : sum[c];
        out[first + c] = normalize ? total[c] / d : total[c];
      }
    }
  }

 private:
  BRAID_HD static constexpr float voice(float delta, float weight) noexcept {
    return Ballot == ballot::weighted ? delta * weight : delta;
  }
};

using weighted_ties = elected_sum<ballot::weighted>;
using plain_ties = elected_sum<ballot::plain>;
static_assert(weighted_consensus_policy<weighted_ties> && weighted_consensus_policy<plain_ties>);

}  // namespace consensus
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
