#pragma once

#include <braid/backend/channel_block.hpp>
#include <braid/backend/cpu/gram.hpp>
#include <braid/backend/cpu/row_select.hpp>
#include <braid/cluster/budget.hpp>
#include <braid/residual/policy.hpp>

#include <cstring>
#include <memory>
#include <new>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Floats on cache-line boundaries. Grows, never shrinks.
class aligned_floats {
 public:
  float* fit(std::size_t n) {
    if (n > size_) {
      data_.reset(static_cast<float*>(::operator new(n * sizeof(float), std::align_val_t{64})));
      size_ = n;
    }
    return data_.get();
  }

 private:
  struct release {
    void operator()(float* p) const noexcept { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<float, release> data_;
  std::size_t size_ = 0;
};

/// One thread's memory for merging channels: a segment of every delta, and little else.
struct channel_workspace {
  aligned_floats base;     // [segment]
  aligned_floats merged;   // [segment]
  aligned_floats deltas;   // [experts, segment]
  aligned_floats row;      // [cols], for policies that rank inside a row
  aligned_floats target;   // [cols], what a residual has to encode
  aligned_floats member_rows;   // [members, cols]
  aligned_floats member_codes;  // [members + 1, cols], decoded residuals
  std::vector<float*> coded_rows;
  aligned_floats divided;       // [cols], a target less the columns' scales
  aligned_floats spread;        // [cols], weights of a coarse code
  aligned_floats column_scale;   // [cols]
  aligned_floats column_weight;  // [cols]
  residual_workspace residual;
  std::vector<std::byte> planes;  // [experts, plane]: one channel's residuals
  std::vector<bfloat16> scales;   // [experts, scales]
  std::vector<std::byte> spare_plane;
  std::vector<float> dots; // lower triangle
  std::vector<double> gram;
  std::vector<double> delta_gram;  // beside `gram`, which a similarity has normalised
  std::vector<double> importance;  // [distinct rows]
  braid::cluster::curve_workspace curve;
  std::vector<std::vector<std::uint32_t>> ranks;  // per expert, [cols]
  row_workspace select;
};

/// Walks a row in segments: `f(first column, columns)`.
template <class F>
void for_each_segment(index_t cols, F const& f) {
  for (index_t c = 0; c < cols; c += sum_order::segment) {
    f(c, static_cast<int>(cols - c < sum_order::segment ? cols - c : sum_order::segment));
  }
}

/// Address of a column in a row.
inline std::byte const* at_column(std::byte const* row, dtype t, index_t col) noexcept {
  return row + static_cast<std::size_t>(col) * size_of(t);
}

/// The whole delta of one channel of one expert, in float32.
inline void row_delta(std::byte const* expert, dtype expert_type, std::byte const* base, dtype base_type, index_t cols,
                      channel_workspace& work, float* out) {
  float* const wide_base = work.base.fit(sum_order::segment);
  for_each_segment(cols, [&](index_t c, int n) {
    widen(base_type, at_column(base, base_type, c), wide_base, n);
    subtract_base(expert_type, at_column(expert, expert_type, c), wide_base, out + c, n);
  });
}

/// Looks at exponents as they are stored, eight bytes at a time, as fast as memory is.
/// @return false where it doesn't know
inline bool surely_finite(std::byte const* row, dtype type, index_t cols) noexcept {
  std::uint64_t exponent = 0;  // all ones in infinity and NaN
  std::uint64_t one = 0;       // added to them, gives the sign's bit
  switch (type) {
    case dtype::bf16: exponent = 0x7F807F807F807F80u, one = 0x0080008000800080u; break;
    case dtype::f16: exponent = 0x7C007C007C007C00u, one = 0x0400040004000400u; break;
    case dtype::f32: exponent = 0x7F8000007F800000u, one = 0x0080000000800000u; break;
    default: return false;
  }
  std::uint64_t const sign = exponent + one;
  std::size_t const bytes = static_cast<std::size_t>(cols) * size_of(type);
  std::uint64_t any = 0;
  std::size_t i = 0;
  for (; i + 32 <= bytes; i += 32) {
    std::uint64_t w[4];
    std::memcpy(w, row + i, sizeof w);
    any |= ((w[0] & exponent) + one) | ((w[1] & exponent) + one) | ((w[2] & exponent) + one) | ((w[3] & exponent) + one);
  }
  for (; i < bytes; i += 8) {
    std::uint64_t w = 0;
    std::memcpy(&w, row + i, bytes - i < 8 ? bytes - i : 8);
    any |= (w & exponent) + one;
  }
  return (any & sign) == 0;
}

/// Throws where a row holds NaN or infinity.
inline void check_finite_row(std::byte const* row, dtype type, index_t cols, int model, index_t channel,
                             channel_workspace& work) {
  if (surely_finite(row, type, cols)) { return; }
  float* const x = work.merged.fit(sum_order::segment);
  for_each_segment(cols, [&](index_t c, int n) {
    widen(type, at_column(row, type, c), x, n);
    bool found = false;
    dispatch<nonfinite_body>(static_cast<float const*>(x), n, &found);
    if (!found) { return; }
    for (int i = 0; i < n; ++i) {
      if ((bits_as<std::uint32_t>(x[i]) & 0x7F800000u) == 0x7F800000u) {
        throw nonfinite_found{{model, channel, c + i, x[i]}};
      }
    }
  });
}

}  // namespace detail
BRAID_NAMESPACE_END
