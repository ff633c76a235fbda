#pragma once

/// The residuals of one group of one channel, and the shared row that suits them best.

#include <braid/backend/cpu/channel_workspace.hpp>
#include <braid/backend/cpu/convert.hpp>
#include <braid/backend/cpu/residual_kernels.hpp>
#include <braid/residual/decode.hpp>
#include <braid/residual/policy.hpp>

#include <algorithm>
#include <array>
#include <utility>

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
/// A member keeps its code where a new one isn't better, so that the error never rises. Of a pair, the first member begins
/// and the second fills up: the first one's code is then a coarse one, whose levels leave room for others between them.
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
    float* const coded = work_.member_codes.fit((static_cast<std::size_t>(n) + 1) * cols);
    work_.coded_rows.clear();
    for (int i = 0; i <= n; ++i) { work_.coded_rows.push_back(row_of(coded, i)); }
    coded_ = work_.coded_rows.data();
    spare_coded_ = coded_[n];
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
      // From the mean, both of a pair would code the same distance with opposite signs, and stay there.
      bool const pair = n == 2;
      if (pair) {
        std::fill_n(coded_[0], cols, 0.0f);
        std::fill_n(coded_[1], cols, 0.0f);
      } else {
        code_against(shared, n);
      }
      float const total = sum_left(weight, n);
      if (pair) { member(0, weight, total, coding::first_of_pair); }
      for (int s = 0; s < residual_.sweeps; ++s) {
        if (pair && s == 0) {
          member(1, weight, total, coding::first);
        } else {
          for (int i = 0; i < n; ++i) { member(i, weight, total, coding::again); }
        }
      }
      sum_left(weight, n);
      dispatch<divide_body>(static_cast<float const*>(sum_), total, cols_, sum_);
      visit_dtype(block_.out, [&]<class T>(T*) {
        dispatch<narrow_body<T>>(static_cast<float const*>(sum_), cols_, reinterpret_cast<T*>(shared));
      });
      code_against(shared, n, coding::again);
    } else {
      code_against(shared, n);
    }
  }

 private:
  [[nodiscard]] float* row_of(float* rows, int i) const noexcept { return rows + static_cast<index_t>(i) * cols_; }

  void widen_row(std::byte const* from, dtype type, float* to) const {
    for_each_segment(cols_, [&](index_t c, int n) { widen(type, at_column(from, type, c), to + c, n); });
  }

  enum class coding {
    first,          // there is no code yet
    first_of_pair,  // another one will fill the gaps between this one's levels
    again           // only a better one is taken
  };

  /// Codes `target_`, what member i lacks.
  void encode_target(int i, coding what) {
    float const* x = target_;
    if (columns_.scale != nullptr) {
      float* const divided = work_.divided.fit(static_cast<std::size_t>(cols_));
      dispatch<divide_columns_body>(x, columns_.scale, cols_, divided);
      x = divided;
    }
    float const* weight = columns_.coded_weight;
    if (what == coding::first_of_pair && has_gaps()) {
      // An error counts as much more as its element is large: then levels lie more evenly than a Gaussian's best.
      float* const spread = work_.spread.fit(static_cast<std::size_t>(cols_));
      dispatch<spread_weight_body>(x, weight, cols_, spread);
      weight = spread;
    }
    residual_.encode(x, weight, cols_, spare_plane_.data(), spare_scale_.data(), work_.residual);
    decode_residual(residual_.code, spare_plane_.data(), spare_scale_.data(), cols_, spare_coded_);
    if (columns_.scale != nullptr) { dispatch<multiply_columns_body>(columns_.scale, cols_, spare_coded_); }
    if (what == coding::again && !spare_is_better(i)) { return; }
    std::copy_n(spare_plane_.data(), plane_bytes_, planes_ + static_cast<std::size_t>(i) * plane_bytes_);
    std::copy_n(spare_scale_.data(), scales_, scale_ + static_cast<std::size_t>(i) * scales_);
    std::swap(coded_[i], spare_coded_);
  }

  /// Whether a code has few levels, but more than two: measured, these gain from a coarse start.
  [[nodiscard]] bool has_gaps() const noexcept {
    return residual_.code == residual_code::ternary || residual_.code == residual_code::sign2 ||
           residual_.code == residual_code::sign3;
  }

  [[nodiscard]] bool spare_is_better(int i) const noexcept {
    float error[2];
    dispatch<two_errors_body>(static_cast<float const*>(target_), static_cast<float const*>(spare_coded_),
                              static_cast<float const*>(coded_[i]), columns_.column_weight, cols_, static_cast<float*>(error));
    return error[0] < error[1];
  }

  /// Every member codes what it lacks against the shared row, in its storage type.
  void code_against(std::byte const* shared, int n, coding what = coding::first) {
    widen_row(shared, block_.out, sum_);
    for (int i = 0; i < n; ++i) {
      dispatch<distance_body>(static_cast<float const*>(row_of(rows_, i)), static_cast<float const*>(sum_), cols_, target_);
      encode_target(i, what);
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
    dispatch<add_left_body>(static_cast<float const*>(row_of(rows_, i)), static_cast<float const*>(coded_[i]), times, cols_, sum_);
  }

  /// A member codes its distance from the mean of what the others leave.
  void member(int i, int const* weight, float total, coding what) {
    auto const times = static_cast<float>(weight[i]);
    dispatch<aim_body>(static_cast<float const*>(row_of(rows_, i)), static_cast<float const*>(coded_[i]), times,
                       1.0f / (total - times), cols_, sum_, target_);
    encode_target(i, what);
    add_left(i, times);
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
  float** coded_ = nullptr;  // [n] rows, decoded
  float* spare_coded_ = nullptr;
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
