#pragma once

/// The arithmetic that whoever writes a grouped checkpoint shares with whoever reads it: which elements of a tensor are
/// a channel, what the tensors are called, which pool row belongs to an expert. docs/format.md is the specification.

#include <braid/core/error.hpp>
#include <braid/core/expert_name.hpp>
#include <braid/core/types.hpp>
#include <braid/io/format_code.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// `format_error::code()` of a grouped checkpoint. The numbers are stable across versions; those of safetensors files
/// and of checkpoint directories are in `format_code`.
enum class grouped_code : int {
  not_grouped = 301,        ///< no description in the metadata: an ordinary checkpoint
  newer_format = 302,       ///< a format version that this version of braid can't read
  description_json = 303,   ///< the description isn't JSON, nests too deep or has a key twice
  description_field = 304,  ///< a field of the description is missing or can't be meant
  unsafe_path = 305,        ///< a side file whose name leaves the directory or would replace weights
  unknown_tensor = 306,     ///< the description speaks of a tensor that isn't there
  unknown_kind = 307,       ///< a tensor named "braid.", but not by this version of the format
  orphan = 308,             ///< extra rows or an index of a tensor that doesn't exist
  shape_mismatch = 309,     ///< the description's shape or channel axis doesn't fit the stored tensor
  extra_mismatch = 310,     ///< the extra rows have another dtype, rank or length than the tensor's rows
  missing_extra = 311,      ///< the index names further rows, and there are none
  extra_too_short = 312,    ///< the index points past the last extra row
  extra_too_long = 313,     ///< extra rows that the index never names
  missing_index = 314,      ///< extra rows, or experts with fewer channels, without an index
  index_mismatch = 315,     ///< the index isn't U8 [experts, channels]
  first_expert = 316,       ///< the first expert isn't in group 0, or not where the tensor itself has rows
  label_order = 317,        ///< labels that aren't numbered by first appearance over the experts
  channel_gap = 318,        ///< an expert's channels aren't the first so many, or break the tensor's shape
  unused_channel = 319,     ///< a channel that no expert has
  too_many_rows = 320,      ///< more than 2^31 - 1 rows in one pool
  code_mismatch = 321,      ///< residual codes that aren't U8 [experts, channels], or that the description gives as well
  unknown_code = 322,       ///< a residual code that this version of braid doesn't have
  misplaced_code = 323,     ///< a residual where none can be: a row alone in its group, a channel that isn't there
  missing_code = 324,       ///< residuals, their scales or column scales, but no code says how to read them
  residual_mismatch = 325,  ///< the residuals aren't the U8 [bytes] that the codes need
  scale_mismatch = 326,     ///< their scales aren't the BF16 [scales] that the codes need
  column_mismatch = 327,    ///< the columns' scales aren't BF16 [elements of a row]
  scale_value = 328,        ///< a scale that is NaN or infinite
};

/// The newest version of the format that this version of braid reads.
inline constexpr int grouped_format_version = 2;

/// The version that it writes: the second only where rows have residuals, which a reader of the first would lose.
inline constexpr int plain_format_version = 1;
inline constexpr int residual_format_version = 2;

/// The metadata key whose value is the description, a JSON text (`grouped_description`).
inline constexpr std::string_view grouped_metadata_key = "braid";

/// In `braid.group.T`: the expert has no such channel. Groups are therefore numbered 0 to 254.
inline constexpr std::uint8_t no_group = 255;

/// Most groups that a channel can have.
inline constexpr int max_groups = 255;

namespace detail {
inline constexpr std::string_view reserved_prefix = "braid.";
inline constexpr std::string_view extra_prefix = "braid.extra.";
inline constexpr std::string_view group_prefix = "braid.group.";

[[noreturn]] inline void refuse(grouped_code code, std::filesystem::path const& where, std::string_view what) {
  refuse(static_cast<format_code>(code), where, what);
}
}  // namespace detail

/// Name of the tensor that holds the further rows of `tensor`.
[[nodiscard]] inline std::string extra_name(std::string_view tensor) {
  return std::string(detail::extra_prefix).append(tensor);
}

/// Name of the tensor that holds the index of `tensor`.
[[nodiscard]] inline std::string group_name(std::string_view tensor) {
  return std::string(detail::group_prefix).append(tensor);
}

/// Whether a model's own tensor can't have that name, because the format needs it.
[[nodiscard]] constexpr bool is_reserved_name(std::string_view tensor) noexcept {
  return tensor.starts_with(detail::reserved_prefix);
}

/// The dimension that counts a tensor's channels unless something else is said: the last but one. -1 for vectors and
/// scalars, which are one row.
[[nodiscard]] constexpr int default_channel_axis(std::size_t rank) noexcept {
  return rank < 2 ? -1 : static_cast<int>(rank) - 2;
}

/// Any dimension of the tensor, or the default.
[[nodiscard]] constexpr bool is_channel_axis(int axis, std::size_t rank) noexcept {
  return (axis >= 0 && static_cast<std::size_t>(axis) < rank) || axis == default_channel_axis(rank);
}

/// Where the channels of a tensor in row-major order are. With the channel axis `a`,
///
///   a < rank - 1, or a vector: a channel is one index of the dimensions 0 to `a`; its row is all that follows,
///                              contiguous. The default, a = rank - 2: one row of the last dimension.
///   a = rank - 1:              "transposed", such as GPT-2's [in, out]: a channel is one index of the leading
///                              dimensions and of the last; its row runs along the last but one, in strides.
struct channel_layout {
  index_t channels = 1;
  index_t row_elements = 1;
  index_t stride = 1;  ///< elements from one element of a row to the next; 1: rows are contiguous

  channel_layout() = default;

  /// @throws argument_error if the tensor has no such axis
  channel_layout(std::span<index_t const> shape, int axis) {
    if (!is_channel_axis(axis, shape.size())) {
      throw argument_error("channel axis " + std::to_string(axis) + " of a tensor with " +
                           std::to_string(shape.size()) + " dimensions; choose one of its dimensions, counted from 0");
    }
    transposed_ = shape.size() >= 2 && static_cast<std::size_t>(axis) == shape.size() - 1;
    for (std::size_t d = 0; d < shape.size(); ++d) {
      bool const in_row = transposed_ ? d + 2 == shape.size() : static_cast<int>(d) > axis;
      (in_row ? row_elements : channels) *= shape[d];
    }
    if (transposed_) { stride = shape.back(); }
  }

  /// Whether the row of a channel is not the contiguous piece [channel * row_elements, ...).
  [[nodiscard]] bool transposed() const noexcept { return transposed_; }

  /// Position of the first element of a channel's row in the tensor.
  [[nodiscard]] index_t offset(index_t channel) const noexcept {
    return transposed_ ? channel / stride * stride * row_elements + channel % stride : channel * row_elements;
  }

 private:
  bool transposed_ = false;
};

/// The dimension in which experts' tensors may differ: the first, or the last of a transposed matrix. -1: none.
[[nodiscard]] constexpr int growing_dimension(std::size_t rank, int axis) noexcept {
  return axis < 0 ? -1 : rank == 2 && axis == 1 ? 1 : 0;
}

/// Gives a tensor's shape more or fewer channels: an expert's own where vocabularies differ. An expert's channels are
/// the first so many, thus only one dimension changes.
/// @return false, and `shape` untouched, where no such shape has that many channels
[[nodiscard]] inline bool resize_channels(std::vector<index_t>& shape, int axis, index_t channels) {
  channel_layout const now(shape, axis);
  if (now.channels == channels) { return true; }
  int const g = growing_dimension(shape.size(), axis);
  if (g < 0) { return false; }
  auto& d = shape[static_cast<std::size_t>(g)];
  index_t const before = d;
  d = 1;
  index_t const each = channel_layout(shape, axis).channels;
  if (each == 0 || channels % each != 0) {
    d = before;
    return false;
  }
  d = channels / each;
  return true;
}

/// Finds an expert's rows in the pool of one tensor, channel after channel. Row numbers follow from the index alone:
/// `c` is the row of group 0 of channel `c` that stands in the tensor itself; `first_channels + k` is the k-th extra
/// row, and extra rows are in order of their channels, then of their groups. Allocates nothing.
class pool_cursor {
 public:
  /// Channels per call of `next` that cost no more than one pass over the index.
  static constexpr std::size_t block = 1024;

  /// @param index           groups [experts, channels], row-major; empty: all experts share every row
  /// @param channels        largest number of channels that an expert has
  /// @param first_channels  number of channels of the first expert: how many rows the tensor itself holds
  pool_cursor(std::span<std::uint8_t const> index, index_t channels, index_t first_channels) noexcept
      : index_(index),
        channels_(static_cast<std::size_t>(channels)),
        first_(static_cast<std::size_t>(first_channels)) {}

  /// Pool rows of `expert` in the next `out.size()` channels; -1 where it has no such channel.
  void next(std::size_t expert, std::span<std::int32_t> out) noexcept {
    for (std::size_t done = 0; done < out.size();) {
      std::size_t const n = std::min(block, out.size() - done);
      next_block(expert, out.subspan(done, n));
      done += n;
    }
  }

  /// The channel that comes next, and the number of extra rows that belong to the channels before it.
  [[nodiscard]] index_t channel() const noexcept { return static_cast<index_t>(channel_); }
  [[nodiscard]] index_t extra_row() const noexcept { return static_cast<index_t>(extra_); }

 private:
  void next_block(std::size_t expert, std::span<std::int32_t> out) noexcept {
    if (index_.empty()) {
      for (auto& row : out) { row = static_cast<std::int32_t>(channel_++); }
      return;
    }
    std::array<std::uint8_t, block> groups{};  // of each channel
    for (std::size_t begin = channel_; begin < index_.size(); begin += channels_) {
      for (std::size_t c = 0; c < out.size(); ++c) {
        groups[c] = std::max(groups[c], static_cast<std::uint8_t>(index_[begin + c] + 1));  // no_group becomes 0
      }
    }
    std::uint8_t const* const own = index_.data() + expert * channels_ + channel_;
    for (std::size_t c = 0; c < out.size(); ++c, ++channel_) {
      std::size_t const in_tensor = channel_ < first_ ? 1 : 0;
      out[c] = own[c] == no_group   ? -1
               : own[c] < in_tensor ? static_cast<std::int32_t>(channel_)
                                    : static_cast<std::int32_t>(first_ + extra_ + own[c] - in_tensor);
      extra_ += groups[c] - in_tensor;
    }
  }

  std::span<std::uint8_t const> index_;
  std::size_t channels_;
  std::size_t first_;
  std::size_t channel_ = 0;
  std::size_t extra_ = 0;
};

BRAID_NAMESPACE_END
