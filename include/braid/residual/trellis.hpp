#pragma once

#include <braid/residual/detail/row_sum.hpp>
#include <braid/residual/policy.hpp>

#include <algorithm>
#include <cmath>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace residual {

/// Trellis-coded: each element adds B bits to a shift register of 8, whose 256 states name the values of a fixed
/// table. A path of bits thus has many more values to choose from than B bits an element alone, and the Viterbi
/// algorithm finds the best path: squared error 0.29 of a Gaussian row's with one bit (signs: 0.36; no code can do
/// better than 0.25), 0.08 with two (signs: 0.12; 0.06). The register is what eight bits of the stream say, so that
/// elements can be decoded in any order. B bits an element, two bytes a row; encoding searches 256 states an element.
///
/// Marcellin and Fischer, "Trellis coded quantization" (IEEE Trans. Commun. 1990); the shift register as in QTIP (Tseng
/// et al., NeurIPS 2024, arXiv 2406.11235), section 3.
template <int B>
  requires(B == 1 || B == 2)
struct trellis {
  static constexpr std::string_view name = B == 1 ? "trellis1" : "trellis2";
  static constexpr residual_code code = B == 1 ? residual_code::trellis1 : residual_code::trellis2;
  int sweeps = 2;

  void encode(float const* x, float const* weight, index_t cols, std::byte* plane, bfloat16* scale,
              residual_workspace& work) const {
    auto const room = static_cast<std::size_t>(cols) * predecessors;
    if (work.decisions.size() < room) { work.decisions.resize(room); }
    index_t const bytes = residual_bytes(code, cols);
    for (index_t i = 0; i < bytes; ++i) { plane[i] = std::byte{0}; }
    scale[0] = bfloat16(0.0f);
    float const square = detail::row_sum(weight, cols, [&](index_t c) { return x[c] * x[c]; });
    float const total = detail::total_weight(weight, cols);
    float const s = total > 0.0f ? std::sqrt(square / total) : 0.0f;
    if (!(s > 0.0f) || !std::isfinite(s)) { return; }
    best_path(x, weight, s, cols, plane, work.decisions.data());
    // The scale that is best for this path.
    float* const value = work.left.data();
    bfloat16 const unit(1.0f);
    decode_residual(code, plane, &unit, cols, value);
    float const cross = detail::row_sum(weight, cols, [&](index_t c) { return x[c] * value[c]; });
    float const self = detail::row_sum(weight, cols, [&](index_t c) { return value[c] * value[c]; });
    scale[0] = bfloat16(cross > 0.0f && self > 0.0f ? cross / self : 0.0f);
  }

 private:
  static constexpr int states = 256;
  static constexpr int branches = 1 << B;
  static constexpr int predecessors = states >> B;  // states that share all bits but the oldest B

  /// Viterbi. State n = (older << B | new) & 255 is reached from the states n >> B | k << (8 - B). Costs are kept with
  /// the newest bits outermost, [branches, predecessors], so that all loops run over neighbours but one.
  static void best_path(float const* x, float const* weight, float scale, index_t cols, std::byte* plane,
                        std::uint8_t* decision) noexcept {
    constexpr auto b_count = static_cast<std::size_t>(branches);
    constexpr auto p_count = static_cast<std::size_t>(predecessors);
    alignas(64) float table[b_count][p_count];
    alignas(64) float cost[b_count][p_count];
    alignas(64) float plain[states];
    alignas(64) float best[p_count];
    alignas(64) std::uint32_t chosen[p_count];
    for (int b = 0; b < branches; ++b) {
      for (int p = 0; p < predecessors; ++p) {
        table[b][p] = scale * detail::trellis_value<B>(static_cast<unsigned>(p * branches + b));
        cost[b][p] = b == 0 && p == 0 ? 0.0f : 1e30f;  // the register starts empty; not infinity: differences are taken
      }
    }
    for (index_t c = 0; c < cols; ++c) {
      for (int p = 0; p < predecessors; ++p) {
        for (int b = 0; b < branches; ++b) { plain[p * branches + b] = cost[b][p]; }
      }
      for (int p = 0; p < predecessors; ++p) {
        best[p] = plain[p];
        chosen[p] = 0;
      }
      for (int k = 1; k < branches; ++k) {
        float const* const other = plain + k * predecessors;
        for (int p = 0; p < predecessors; ++p) {
          bool const less = other[p] < best[p];
          best[p] = less ? other[p] : best[p];
          chosen[p] = less ? static_cast<std::uint32_t>(k) : chosen[p];
        }
      }
      std::uint8_t* const kept = decision + c * predecessors;
      for (int p = 0; p < predecessors; ++p) { kept[p] = static_cast<std::uint8_t>(chosen[p]); }
      float const v = x[c];
      float const h = weight == nullptr ? 1.0f : weight[c];
      for (int b = 0; b < branches; ++b) {
        for (int p = 0; p < predecessors; ++p) {
          float const e = v - table[b][p];
          cost[b][p] = best[p] + h * (e * e);
        }
      }
      if ((c & 127) == 127) {  // costs stay small, so that sums keep their digits however long the row is
        float const floor = *std::min_element(best, best + predecessors);
        for (int b = 0; b < branches; ++b) {
          for (int p = 0; p < predecessors; ++p) { cost[b][p] = cost[b][p] - floor; }
        }
      }
    }
    unsigned state = 0;
    float least = cost[0][0];
    for (unsigned n = 1; n < states; ++n) {
      float const at = cost[n & (branches - 1u)][n >> B];
      state = at < least ? n : state;
      least = at < least ? at : least;
    }
    for (index_t c = cols; c-- > 0;) {
      index_t const at = c * B;
      plane[at >> 3] |= static_cast<std::byte>((state & (branches - 1u)) << (at & 7));
      unsigned const p = state >> B;
      state = p | static_cast<unsigned>(decision[c * predecessors + static_cast<index_t>(p)]) << (8 - B);
    }
  }
};
static_assert(residual_policy<trellis<1>> && residual_policy<trellis<2>>);

}  // namespace residual
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
