#pragma once

#include <braid/residual/detail/magnitude_sums.hpp>
#include <braid/residual/detail/trellis_search.hpp>
#include <braid/residual/policy.hpp>

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
  bool rank_one = false;

  /// @throws argument_error for a number of sweeps that can't be meant
  void validate() const { detail::check_sweeps(name, sweeps); }

  void encode(float const* x, float const* weight, index_t cols, std::byte* plane, bfloat16* scale,
              residual_workspace& work) const {
    scale[0] = bfloat16(0.0f);
    for (index_t i = 0; i < residual_bytes(code, cols); ++i) { plane[i] = std::byte{0}; }
    float sums[2];
    braid::detail::dispatch<braid::detail::product_sum_body>(x, x, weight, cols, static_cast<float*>(sums));
    float const total = braid::detail::magnitude_sum(x, weight, cols).weight;
    float const s = total > 0.0f ? std::sqrt(sums[0] / total) : 0.0f;
    if (!(s > 0.0f) || !std::isfinite(s)) { return; }

    auto const room = static_cast<std::size_t>(cols * braid::detail::trellis_decision_bytes);
    if (work.decisions.size() < room) { work.decisions.resize(room); }
    float* const value = work.left.data();
    braid::detail::dispatch<braid::detail::divide_body>(x, s, cols, value);
    float const* unit = nullptr;  // weights whose mean is 1
    if (weight != nullptr) {
      if (work.weight.size() < static_cast<std::size_t>(cols)) { work.weight.resize(static_cast<std::size_t>(cols)); }
      braid::detail::dispatch<braid::detail::divide_body>(weight, total / static_cast<float>(cols), cols, work.weight.data());
      unit = work.weight.data();
    }
    float last[braid::detail::trellis_states];
    braid::detail::dispatch<path_body>(static_cast<float const*>(value), unit, cols, work.decisions.data(),
                                       static_cast<float*>(last), plane, value);
    // The scale that is best for this path.
    braid::detail::dispatch<braid::detail::product_sum_body>(x, static_cast<float const*>(value), weight, cols,
                                                             static_cast<float*>(sums));
    scale[0] = braid::detail::stored_scale(sums[1] > 0.0f ? sums[0] / sums[1] : 0.0f);
  }

 private:
  /// There and back with one instruction set: the layout of the decisions is its own.
  struct path_body {
    template <int W>
    BRAID_ALWAYS_INLINE static void run(float const* x, float const* weight, index_t cols, std::uint8_t* decision,
                                        float* last, std::byte* plane, float* value) noexcept {
      braid::detail::trellis_forward_body<B>::template run<W>(x, weight, cols, decision, last);
      braid::detail::trellis_backward_body<B>::template run<W>(last, decision, cols, plane, value);
    }
  };
};
static_assert(residual_policy<trellis<1>> && residual_policy<trellis<2>>);

}  // namespace residual
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
