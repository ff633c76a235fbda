#pragma once

#include <braid/core/concepts.hpp>
#include <braid/core/hash.hpp>

#include <map>

BRAID_NAMESPACE_BEGIN
namespace prune {

/// Keeps what a mask of the caller's keeps, unchanged: for masks from elsewhere (another program's random choices, an
/// importance measured on data). Deltas without a mask are kept whole.
class mask {
 public:
  static constexpr std::string_view name = "mask";
  static constexpr statistic measures = statistic::none;

  /// @param kept [rows, cols] of the tensor, row by row: 0 drops an element. Must outlive the merge
  void set(std::string_view tensor, std::string_view model, std::uint8_t const* kept) { kept_[stream_hash(tensor, model)] = kept; }

  struct plan_type {
    std::uint8_t const* kept;
    index_t cols;

    BRAID_HD constexpr float operator()(float x, index_t row, index_t col) const noexcept {
      return kept == nullptr || kept[row * cols + col] != 0 ? x : 0.0f;
    }
  };

  [[nodiscard]] plan_type plan(tensor_key const& key) const noexcept {
    auto const at = kept_.find(key.stream);
    return {at == kept_.end() ? nullptr : at->second, key.cols};
  }

 private:
  std::map<std::uint64_t, std::uint8_t const*> kept_;  // by stream
};
static_assert(pruning_policy<mask>);

}  // namespace prune
BRAID_NAMESPACE_END
