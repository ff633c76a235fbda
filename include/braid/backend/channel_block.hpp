#pragma once

/// What a backend's merge_channels reads and writes: a block of consecutive channels of one tensor.

#include <braid/core/concepts.hpp>
#include <braid/residual/code.hpp>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// Rows that are made when they are needed instead of lying somewhere: a weight with an adapter's delta, an embedding
/// brought to another vocabulary.
class computed_rows {
 public:
  virtual ~computed_rows() = default;
  /// Writes channels [first, first + count) to `to`, packed, in the type of the `channel_rows`. Called from many threads.
  virtual void rows(index_t first, index_t count, std::byte* to) const = 0;
};

/// One model's channels of a tensor. The element type is a run-time value, since it comes from a file.
struct channel_rows {
  std::byte const* data = nullptr;
  dtype type = dtype::f32;
  index_t stride = 0;  ///< bytes from one row to the next
  /// Where set, rows come from it, by way of `tensor_channels::block`; `data` is then what they are made from
  computed_rows const* computed = nullptr;

  [[nodiscard]] std::byte const* row(index_t r) const noexcept { return data + r * stride; }
};

/// Channels `first .. first + rows` of base and experts. Experts are in the order of their names.
struct channel_block {
  index_t first = 0;
  index_t rows = 0;
  channel_rows base;
  std::vector<channel_rows> experts;
  dtype out = dtype::f32;
};

/// A whole tensor in base and experts, wherever it lies: the source of blocks.
struct tensor_channels {
  index_t channels = 0;
  index_t first_channel = 0;  ///< number of the first: a part of a tensor makes the random choices that the tensor makes there
  index_t cols = 0;
  index_t transposed = 0;  ///< 0: a channel is a contiguous row. Else the tensor is [..., cols, transposed] and a
                           ///< channel a column of it; then strides are not used
  channel_rows base;  ///< without memory where a method has no base
  std::vector<channel_rows> experts;
  dtype out = dtype::f32;
  float const* column_weight = nullptr;  ///< [cols], >= 0: what an error in a column counts; null: all one

  /// Channels `first .. first + rows`. Transposed ones, computed ones, and rows that a file has put between the addresses
  /// that their elements need, are gathered into `scratch`, which the block then refers to.
  [[nodiscard]] channel_block block(index_t first, index_t rows, std::vector<std::byte>& scratch) const;
};

struct tensor_budget;  // cluster/budget.hpp

/// What is the same for all blocks of a tensor.
struct tensor_context {
  index_t channels = 0;
  index_t cols = 0;                 ///< elements of a channel
  std::uint64_t stream = 0;         ///< hash of the tensor's name: keys random clustering
  std::vector<tensor_key> keys;     ///< one an expert: keys random pruning
  std::vector<double> norms;        ///< lengths of the deltas over the tensor; empty unless the similarity needs them
  std::vector<magnitude_cut> cuts;  ///< one an expert; empty unless pruning cuts over the tensor
  std::vector<bfloat16> column;     ///< [cols] scales of the residuals' columns; empty: ones
  bool allow_nonfinite = false;
  std::shared_ptr<tensor_budget const> budget;  ///< chooses groups and codes for each channel; null: the method's own
  float const* column_weight = nullptr;  ///< [cols], of the tensor: what an error in a column counts; null: all one
  std::vector<float> root_weight;        ///< square roots of the weights; empty: all one
};

/// A block's residuals: channel by channel, in a channel expert by expert, nothing for rows without one.
struct residual_block {
  std::vector<std::byte> planes;
  std::vector<bfloat16> scales;
  std::vector<residual_code> code;  ///< [rows, experts]

  void clear() noexcept {
    planes.clear();
    scales.clear();
    code.clear();
  }
};

/// The merged block. The caller provides the room.
struct merged_block {
  std::byte* group_zero = nullptr;      ///< [rows, cols] of `out`: group 0 of each channel
  std::byte* extra = nullptr;           ///< [rows * (groups - 1), cols]: the other groups, channel by channel
  std::uint8_t* label = nullptr;        ///< [rows, experts]
  index_t extra_rows = 0;               ///< rows written to `extra`
  residual_block* residual = nullptr;   ///< needed where the method codes residuals; appended to
  /// Sum over the `compared` rows (those of experts in channels that were clustered) of the cosine between a delta and
  /// the sum of its group, in the similarity's own space. In fixed point, so that it doesn't depend on blocks.
  std::int64_t similarity = 0;
  index_t compared = 0;

  static constexpr double similarity_unit = 0x1p32;
};

namespace detail {

/// Copies channels `first .. first + rows` of a [..., cols, width] tensor to contiguous rows at `to`.
inline void gather_columns(std::byte const* from, std::size_t element, index_t cols, index_t width, index_t first,
                           index_t rows, std::byte* to) noexcept {
  for (index_t r = 0; r < rows;) {
    index_t const leading = (first + r) / width;
    index_t const column = (first + r) % width;
    index_t const run = rows - r < width - column ? rows - r : width - column;
    std::byte const* const matrix = from + static_cast<std::size_t>(leading * cols * width) * element;
    for (index_t c = 0; c < cols; ++c) {
      std::byte const* const source = matrix + static_cast<std::size_t>(c * width + column) * element;
      for (index_t i = 0; i < run; ++i) {
        std::memcpy(to + static_cast<std::size_t>((r + i) * cols + c) * element,
                    source + static_cast<std::size_t>(i) * element, element);
      }
    }
    r += run;
  }
}

}  // namespace detail

inline channel_block tensor_channels::block(index_t first, index_t rows, std::vector<std::byte>& scratch) const {
  channel_block b{first, rows, base, experts, out};
  auto const elements = static_cast<std::size_t>(rows * cols);
  auto const lies_well = [&](channel_rows const& model) {
    return model.data == nullptr || (transposed == 0 && model.computed == nullptr &&
                                     reinterpret_cast<std::uintptr_t>(model.data) % size_of(model.type) == 0);
  };
  std::size_t need = lies_well(base) ? 0 : elements * size_of(base.type);
  for (auto const& e : experts) { need += lies_well(e) ? 0 : elements * size_of(e.type); }
  if (scratch.size() < need) { scratch.resize(need); }
  std::byte* to = scratch.data();
  auto const place = [&](channel_rows& model) {
    std::size_t const element = size_of(model.type);
    if (lies_well(model)) {
      if (model.data != nullptr) { model.data = model.row(first); }
      return;
    }
    if (model.computed != nullptr) {
      model.computed->rows(first, rows, to);
      model.computed = nullptr;
    } else if (transposed != 0) {
      detail::gather_columns(model.data, element, cols, transposed, first, rows, to);
    } else {
      for (index_t r = 0; r < rows; ++r) {
        std::memcpy(to + static_cast<std::size_t>(r * cols) * element, model.row(first + r),
                    static_cast<std::size_t>(cols) * element);
      }
    }
    model.data = to;
    model.stride = cols * static_cast<index_t>(element);
    to += elements * element;
  };
  // The widest elements first, so that each part of the scratch is aligned.
  for (std::size_t size = 4; size > 0; size /= 2) {
    if (size_of(b.base.type) == size) { place(b.base); }
    for (auto& e : b.experts) {
      if (size_of(e.type) == size) { place(e); }
    }
  }
  return b;
}

/// A NaN or an infinity in an input.
struct nonfinite_location {
  int model = -1;  ///< number of the expert, -1 for the base
  index_t channel = 0;
  index_t col = 0;
  float value = 0.0f;  ///< finite where only the delta's square overflows float32
};

namespace detail {
/// Thrown by kernels, which know no names; whoever does turns it into a `value_error`.
struct nonfinite_found {
  nonfinite_location where;
};

inline char const* describe_nonfinite(float value) noexcept {
  if (value != value) { return "NaN"; }
  if (value > 3.4028235e38f) { return "infinity"; }
  if (value < -3.4028235e38f) { return "-infinity"; }
  return "a delta whose square overflows float32";
}

/// Square roots of a tensor's column weights; empty: all one.
inline std::vector<float> root_weights(tensor_channels const& tensor) {
  std::vector<float> root;
  if (tensor.column_weight == nullptr) { return root; }
  for (index_t c = 0; c < tensor.cols; ++c) { root.push_back(std::sqrt(tensor.column_weight[c])); }
  return root;
}

/// Channels in a block of the merge: about a megabyte of inputs, at least one channel. No result depends on it.
inline index_t block_rows(tensor_channels const& t) noexcept {
  auto bytes = static_cast<index_t>(size_of(t.base.type)) * t.cols;
  for (auto const& e : t.experts) { bytes += static_cast<index_t>(size_of(e.type)) * t.cols; }
  index_t const rows = bytes > 0 ? (index_t{1} << 20) / bytes : t.channels;
  return rows < 1 ? 1 : (rows > t.channels && t.channels > 0 ? t.channels : rows);
}
}  // namespace detail

BRAID_NAMESPACE_END
