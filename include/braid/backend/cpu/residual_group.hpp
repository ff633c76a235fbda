#pragma once

/// The residuals of one group of one channel, and the shared row that suits them best.

#include <braid/backend/cpu/channel_workspace.hpp>
#include <braid/backend/cpu/convert.hpp>
#include <braid/backend/cpu/residual_kernels.hpp>
#include <braid/residual/decode.hpp>
#include <braid/residual/policy.hpp>

#include <algorithm>
#include <array>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// What encoding the residuals of a tensor needs of its columns. A residual is the column's scale times what is coded, so
/// an error in what is coded counts by the scale's square.
struct residual_columns {
  float const* scale = nullptr;          // [cols], or null: all one
  float const* coded_weight = nullptr;   // [cols], or null: what an error in what is coded counts
  float const* column_weight = nullptr;  // [cols], or null: what an error in the residual counts

  residual_columns(tensor_context const& context, channel_workspace& work) : column_weight(context.column_weight) {
    coded_weight = column_weight;
    if (context.column.empty()) { return; }
    auto const cols = static_cast<std::size_t>(context.cols);
    float* const wide_scale = work.column_scale.fit(cols);
    float* const weight = work.column_weight.fit(cols);
    for (std::size_t c = 0; c < cols; ++c) {
      wide_scale[c] = static_cast<float>(context.column[c]);
      float const square = wide_scale[c] * wide_scale[c];
      weight[c] = column_weight == nullptr ? square : column_weight[c] * square;
    }
    scale = wide_scale;
    coded_weight = weight;
  }
};

/// Codes the members' residuals jointly. The squared error that the best shared row m leaves is that of the numbers
/// W_k - q_k round their mean, so m needn't be known while the codes q are searched: each member in turn codes its
/// distance from the mean of what the *others* leave, which no member's own code can blur. A few sweeps of that, then m
/// is that mean, rounded, and everyone codes what is left against it once more. Against coding the distance from the
/// plain mean, the error falls to a third for two members, to 0.7 for four, at the same bytes.
///
/// Every distinct row counts as often as experts have it.
template <class Residual>
class residual_group {
 public:
  residual_group(Residual const& residual, residual_columns const& columns, channel_block const& block, index_t row,
                 index_t cols, channel_workspace& work)
      : residual_(residual), columns_(columns), block_(block), row_(row), cols_(cols), work_(work),
        plane_bytes_(static_cast<std::size_t>(residual_bytes(residual.code, cols))),
        scales_(static_cast<std::size_t>(residual_scales(residual.code))), spare_plane_(work.spare_plane) {}

  /// @param expert [n]: an expert of each distinct row
  /// @param weight [n]: how many have it
  /// @param shared in: the group's row as it was merged; out: the row that is stored
  /// @param planes [n, residual_bytes(code, cols)]
  /// @param scales [n, residual_scales(code)]
  void code(int const* expert, int const* weight, int n, std::byte* shared, std::byte* planes, bfloat16* scales) {
    auto const cols = static_cast<std::size_t>(cols_);
    rows_ = work_.member_rows.fit(static_cast<std::size_t>(n) * cols);
    coded_ = work_.member_codes.fit(static_cast<std::size_t>(n) * cols);
    target_ = work_.target.fit(cols);
    sum_ = work_.row.fit(cols);
    planes_ = planes;
    scale_ = scales;
    if (work_.residual.left.size() < cols) { work_.residual.left.resize(cols); }
    spare_plane_.resize(plane_bytes_);
    for (int i = 0; i < n; ++i) {
      channel_rows const& from = block_.experts[static_cast<std::size_t>(expert[i])];
      widen_row(from.row(row_), from.type, row_of(rows_, i));
    }
    if (residual_.sweeps > 0) {
      if (n == 2) {
        // From the mean, both would code the same distance with opposite signs, and stay there.
        std::fill_n(coded_, 2 * cols, 0.0f);
      } else {
        code_against(shared, n);
      }
      float const total = sum_left(weight, n);
      for (int s = 0; s < residual_.sweeps; ++s) { sweep(weight, total, n); }
      sum_left(weight, n);
      dispatch<divide_body>(static_cast<float const*>(sum_), total, cols_, sum_);
      visit_dtype(block_.out, [&]<class T>(T*) {
        dispatch<narrow_body<T>>(static_cast<float const*>(sum_), cols_, reinterpret_cast<T*>(shared));
      });
      code_better(shared, n);
    } else {
      code_against(shared, n);
    }
  }

 private:
  [[nodiscard]] float* row_of(float* rows, int i) const noexcept { return rows + static_cast<index_t>(i) * cols_; }

  void widen_row(std::byte const* from, dtype type, float* to) const {
    for_each_segment(cols_, [&](index_t c, int n) { widen(type, at_column(from, type, c), to + c, n); });
  }

  /// Codes `target_`, and decodes what that stores.
  void encode_target(std::byte* plane, bfloat16* scale, float* decoded) {
    float const* x = target_;
    if (columns_.scale != nullptr) {
      float* const divided = work_.divided.fit(static_cast<std::size_t>(cols_));
      dispatch<divide_columns_body>(x, columns_.scale, cols_, divided);
      x = divided;
    }
    residual_.encode(x, columns_.coded_weight, cols_, plane, scale, work_.residual);
    decode_residual(residual_.code, plane, scale, cols_, decoded);
    if (columns_.scale != nullptr) { dispatch<multiply_columns_body>(columns_.scale, cols_, decoded); }
  }
  void encode_target(int i) { encode_target(plane_of(i), scale_of(i), row_of(coded_, i)); }

  /// The target is what a member lacks against the shared row, which is in `sum_`.
  void aim(int i) {
    dispatch<distance_body>(static_cast<float const*>(row_of(rows_, i)), static_cast<float const*>(sum_), cols_, target_);
  }

  [[nodiscard]] std::byte* plane_of(int i) const noexcept { return planes_ + static_cast<std::size_t>(i) * plane_bytes_; }
  [[nodiscard]] bfloat16* scale_of(int i) const noexcept { return scale_ + static_cast<std::size_t>(i) * scales_; }

  /// Against the shared row as it was rounded, each member takes a new code if that is better than the one it has.
  void code_better(std::byte const* shared, int n) {
    widen_row(shared, block_.out, sum_);
    for (int i = 0; i < n; ++i) {
      aim(i);
      float* const decoded = row_of(rows_, i);  // the member's own row isn't needed once its target is known
      encode_target(spare_plane_.data(), spare_scale_.data(), decoded);
      float error[2];
      dispatch<two_errors_body>(static_cast<float const*>(target_), static_cast<float const*>(decoded),
                                static_cast<float const*>(row_of(coded_, i)), columns_.column_weight, cols_,
                                static_cast<float*>(error));
      if (error[0] < error[1]) {
        std::copy_n(spare_plane_.data(), plane_bytes_, plane_of(i));
        std::copy_n(spare_scale_.data(), scales_, scale_of(i));
      }
    }
  }

  void code_against(std::byte const* shared, int n) {
    widen_row(shared, block_.out, sum_);
    for (int i = 0; i < n; ++i) {
      aim(i);
      encode_target(i);
    }
  }

  /// What the members leave, added up in their order: into `sum_`. @return the number of experts
  float sum_left(int const* weight, int n) {
    float total = 0.0f;
    std::fill_n(sum_, cols_, 0.0f);
    for (int i = 0; i < n; ++i) {
      auto const times = static_cast<float>(weight[i]);
      total = total + times;
      add_left(i, times);
    }
    return total;
  }

  void add_left(int i, float times) {
    dispatch<add_left_body>(static_cast<float const*>(row_of(rows_, i)), static_cast<float const*>(row_of(coded_, i)), times,
                            cols_, sum_);
  }

  void sweep(int const* weight, float total, int n) {
    for (int i = 0; i < n; ++i) {
      auto const times = static_cast<float>(weight[i]);
      dispatch<aim_body>(static_cast<float const*>(row_of(rows_, i)), static_cast<float const*>(row_of(coded_, i)), times,
                         1.0f / (total - times), cols_, sum_, target_);
      encode_target(i);
      add_left(i, times);
    }
  }

  Residual const& residual_;
  residual_columns const& columns_;
  channel_block const& block_;
  index_t row_;
  index_t cols_;
  channel_workspace& work_;
  std::size_t plane_bytes_;
  std::size_t scales_;
  float* rows_ = nullptr;    // [n, cols]
  float* coded_ = nullptr;   // [n, cols]
  float* target_ = nullptr;  // [cols]
  float* sum_ = nullptr;     // [cols]
  std::byte* planes_ = nullptr;
  bfloat16* scale_ = nullptr;
  std::vector<std::byte>& spare_plane_;
  std::array<bfloat16, 4> spare_scale_;
};

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
