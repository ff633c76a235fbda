#pragma once

#include <braid/io/residual_layout.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Where the residual of any row is, in any order: a byte for each row and sixteen for each channel. What a
/// `residual_cursor` finds channel after channel.
class residual_table {
 public:
  residual_table() = default;

  /// @param code_of  the residual_code of (expert, channel); residuals lie channel by channel, in a channel expert by expert
  template <class CodeOf>
  residual_table(std::size_t experts, index_t channels, index_t cols, CodeOf const& code_of) : experts_(experts) {
    for (int c = 0; c < residual_codes; ++c) {
      auto const code = static_cast<residual_code>(c);
      bytes_[static_cast<std::size_t>(c)] = static_cast<std::uint64_t>(residual_bytes(code, cols));
      scales_[static_cast<std::size_t>(c)] = static_cast<std::uint64_t>(residual_scales(code));
    }
    std::uint64_t plane = 0;
    std::uint64_t scale = 0;
    for (index_t c = 0; c < channels; ++c) {
      plane_.push_back(plane);
      scale_.push_back(scale);
      for (std::size_t e = 0; e < experts; ++e) {
        auto const code = code_of(e, c);
        code_.push_back(code);
        plane += bytes_[static_cast<std::size_t>(code)];
        scale += scales_[static_cast<std::size_t>(code)];
      }
    }
  }

  /// No row has a residual.
  [[nodiscard]] bool empty() const noexcept { return code_.empty(); }

  [[nodiscard]] residual_place at(std::size_t expert, index_t channel) const noexcept {
    auto const c = static_cast<std::size_t>(channel);
    residual_code const* const code = code_.data() + c * experts_;
    residual_place place{code[expert], plane_[c], scale_[c]};
    for (std::size_t e = 0; e < expert; ++e) {
      place.plane += bytes_[static_cast<std::size_t>(code[e])];
      place.scale += scales_[static_cast<std::size_t>(code[e])];
    }
    return place;
  }

 private:
  std::size_t experts_ = 0;
  std::array<std::uint64_t, residual_codes> bytes_{};
  std::array<std::uint64_t, residual_codes> scales_{};
  std::vector<residual_code> code_;   // [channels, experts]
  std::vector<std::uint64_t> plane_;  // of the first expert of a channel
  std::vector<std::uint64_t> scale_;
};

}  // namespace detail
BRAID_NAMESPACE_END
