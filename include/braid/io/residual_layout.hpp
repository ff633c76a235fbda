#pragma once

/// Where the residuals of a tensor's rows are in a grouped checkpoint. docs/format.md is the specification.

#include <braid/io/grouped_layout.hpp>
#include <braid/residual/code.hpp>

BRAID_NAMESPACE_BEGIN

namespace detail {
inline constexpr std::string_view residual_prefix = "braid.residual.";
inline constexpr std::string_view scale_prefix = "braid.scale.";
inline constexpr std::string_view code_prefix = "braid.code.";
inline constexpr std::string_view column_prefix = "braid.column.";
}  // namespace detail

/// Name of the tensor that holds the packed planes of the residuals of `tensor`.
[[nodiscard]] inline std::string residual_name(std::string_view tensor) {
  return std::string(detail::residual_prefix).append(tensor);
}

/// Name of the tensor that holds their scales.
[[nodiscard]] inline std::string scale_name(std::string_view tensor) {
  return std::string(detail::scale_prefix).append(tensor);
}

/// Name of the tensor that holds the `residual_code` of each expert's row in each channel.
[[nodiscard]] inline std::string code_name(std::string_view tensor) {
  return std::string(detail::code_prefix).append(tensor);
}

/// Name of the tensor that holds what each column of the residuals is multiplied by.
[[nodiscard]] inline std::string column_name(std::string_view tensor) {
  return std::string(detail::column_prefix).append(tensor);
}

/// The residual of one row.
struct residual_place {
  residual_code code = residual_code::none;
  std::uint64_t plane = 0;  ///< first byte of its planes in `braid.residual.T`
  std::uint64_t scale = 0;  ///< first of its scales in `braid.scale.T`, counted in scales
};

/// Finds the residuals of an expert's rows, channel after channel: they are stored channel by channel, in a channel
/// expert by expert, without gaps. Allocates nothing.
class residual_cursor {
 public:
  /// Channels per call of `next` that cost no more than one pass over the codes.
  static constexpr std::size_t block = 256;

  /// @param codes     [experts, channels], row-major, each below `residual_codes`; empty: no row has a residual
  /// @param channels  columns of `codes`
  /// @param cols      elements of a row
  residual_cursor(std::span<std::uint8_t const> codes, index_t channels, index_t cols) noexcept
      : codes_(codes), channels_(static_cast<std::size_t>(channels)) {
    for (int c = 0; c < residual_codes; ++c) {
      auto const code = static_cast<residual_code>(c);
      plane_bytes_[static_cast<std::size_t>(c)] = static_cast<std::uint64_t>(residual_bytes(code, cols));
      scales_[static_cast<std::size_t>(c)] = static_cast<std::uint64_t>(residual_scales(code));
    }
  }

  /// The residuals of `expert` in the next `out.size()` channels.
  void next(std::size_t expert, std::span<residual_place> out) noexcept {
    for (std::size_t done = 0; done < out.size();) {
      std::size_t const n = std::min(block, out.size() - done);
      next_block(expert, out.subspan(done, n));
      done += n;
    }
  }

  /// Bytes of planes, and scales, that belong to the channels before the one that comes next.
  [[nodiscard]] std::uint64_t plane() const noexcept { return plane_; }
  [[nodiscard]] std::uint64_t scale() const noexcept { return scale_; }

 private:
  void next_block(std::size_t expert, std::span<residual_place> out) noexcept {
    if (codes_.empty()) {
      for (auto& place : out) { place = {}; }
      return;
    }
    // What the experts before, and all of them, have in each channel.
    std::array<std::uint64_t, block> plane_before{};
    std::array<std::uint64_t, block> scale_before{};
    std::array<std::uint64_t, block> planes{};
    std::array<std::uint64_t, block> scales{};
    std::size_t number = 0;
    for (std::size_t begin = channel_; begin < codes_.size(); begin += channels_, ++number) {
      if (number == expert) {
        plane_before = planes;
        scale_before = scales;
      }
      for (std::size_t c = 0; c < out.size(); ++c) {
        planes[c] += plane_bytes_[codes_[begin + c]];
        scales[c] += scales_[codes_[begin + c]];
      }
    }
    std::uint8_t const* const own = codes_.data() + expert * channels_ + channel_;
    for (std::size_t c = 0; c < out.size(); ++c) {
      out[c] = {static_cast<residual_code>(own[c]), plane_ + plane_before[c], scale_ + scale_before[c]};
      plane_ += planes[c];
      scale_ += scales[c];
    }
    channel_ += out.size();
  }

  std::span<std::uint8_t const> codes_;
  std::size_t channels_;
  std::array<std::uint64_t, residual_codes> plane_bytes_{};
  std::array<std::uint64_t, residual_codes> scales_{};
  std::size_t channel_ = 0;
  std::uint64_t plane_ = 0;
  std::uint64_t scale_ = 0;
};

BRAID_NAMESPACE_END
