#pragma once

#include <braid/core/concepts.hpp>
#include <braid/core/error.hpp>
#include <braid/residual/code.hpp>

#include <string>
#include <string_view>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// One thread's memory for encoding.
struct residual_workspace {
  std::vector<float> left;              ///< [cols] at least
  std::vector<float> weight;
  std::vector<std::uint8_t> decisions;  ///< for a search that has to find its way back
};

namespace detail {
inline void check_sweeps(std::string_view name, int sweeps) {
  if (sweeps < 0 || sweeps > 1000) {
    throw argument_error("residual::" + std::string(name) + ": " + std::to_string(sweeps) + " sweeps: choose 0 to 1000, usually 1 to 3");
  }
}
}  // namespace detail

/// Encodes what a row lacks. The decoder is not part of a policy: `residual_code` says which one it is, and every
/// reader has them all.
template <class R>
concept residual_policy =
    std::copyable<R> && requires(R const r, float const* x, float const* weight, index_t cols, std::byte* plane,
                                 bfloat16* scale, residual_workspace& work) {
      { r.name } -> std::convertible_to<std::string_view>;
      { r.code } -> std::convertible_to<residual_code>;
      { r.sweeps } -> std::convertible_to<int>;   // refinements of the shared row; 0: it stays as it was merged
      { r.rank_one } -> std::convertible_to<bool>;  // the scale of an element: its row's times its column's
      // x [cols], finite; weight [cols], finite and >= 0, or null for all one: minimises sum weight[c] * error[c]^2
      r.encode(x, weight, cols, plane, scale, work);
    };

BRAID_NAMESPACE_END
