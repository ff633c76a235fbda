#pragma once

/// Rows of an expert with their residuals, rebuilt in place of `extract`'s gather. For any execution policy of Thrust; the bits
/// are those of residual/apply.hpp.

#include <braid/backend/cpu/residual_kernels.hpp>
#include <braid/backend/cuda/algorithms/gather_rows.cuh>
#include <braid/backend/cuda/algorithms/place_residuals.cuh>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN
namespace detail {

/// Columns that an item rebuilds: whole bytes of every code but the ternary one.
inline constexpr int rebuilt_columns = 8;

/// Residuals of a tensor, one row's behind the other's.
struct residual_index {
  residual_code const* code = nullptr;     // [channels, experts]
  index_t const* plane_begin = nullptr;    // [channels, experts]
  index_t const* scale_begin = nullptr;    // [channels, experts]
  std::byte const* planes = nullptr;
  bfloat16 const* scales = nullptr;
  bfloat16 const* column = nullptr;        // [cols], or null: nothing to multiply by
  residual_numbers const* numbers = nullptr;
};

/// With bit `sign` of `bits` set, minus `x`.
BRAID_HD inline float with_sign(float x, std::uint32_t bits, int sign) noexcept {
  return bits_as<float>(bits_as<std::uint32_t>(x) ^ (bits >> sign & 1u) << 31);
}

/// A byte's groups of `Bits` bits in reverse order.
template <int Bits>
BRAID_HD constexpr std::uint32_t reversed_groups(std::uint32_t b) noexcept {
  b = (b >> 4 | b << 4) & 255u;
  b = (b >> 2 & 0x33u) | (b << 2 & 0xCCu);
  return Bits == 2 ? b : (b >> 1 & 0x55u) | (b << 1 & 0xAAu);
}

/// The residual of `count` columns from `first` on, a multiple of eight.
struct residual_decoder {
  residual_numbers const* numbers;
  index_t cols;
  index_t first;
  int count;
  float out[rebuilt_columns];

  BRAID_HD void decode(residual_code code, std::byte const* plane, bfloat16 const* scale) noexcept {
    switch (code) {
      case residual_code::sign1: signs(1, plane, scale); break;
      case residual_code::sign2: signs(2, plane, scale); break;
      case residual_code::sign3: signs(3, plane, scale); break;
      case residual_code::ternary: ternary(plane, static_cast<float>(scale[0])); break;
      case residual_code::trellis1: trellis<1>(plane, static_cast<float>(scale[0])); break;
      case residual_code::trellis2: trellis<2>(plane, static_cast<float>(scale[0])); break;
      default: break;
    }
  }

 private:
  BRAID_HD static std::uint32_t byte_of(std::byte const* p) noexcept { return static_cast<std::uint32_t>(*p); }

  BRAID_HD void signs(int planes, std::byte const* plane, bfloat16 const* scale) noexcept {
    index_t const stride = (cols + 7) / 8;
    for (int p = 0; p < planes; ++p) {
      std::uint32_t const bits = byte_of(plane + p * stride + first / 8);
      float const size = 0.0f + static_cast<float>(scale[p]);
      for (int c = 0; c < rebuilt_columns; ++c) {
        float const term = with_sign(size, bits, c);
        out[c] = p == 0 ? term : out[c] + term;
      }
    }
  }

  BRAID_HD void ternary(std::byte const* plane, float scale) noexcept {
    float const size = 0.0f + scale;
    std::uint32_t rest = 0;
    for (int c = 0; c < count; ++c) {
      auto const digit = static_cast<int>((first + c) % 5);
      if (c == 0 || digit == 0) {
        rest = byte_of(plane + (first + c) / 5);
        for (int d = 0; d < digit; ++d) { rest /= 3u; }
      }
      std::uint32_t const value = rest % 3u;
      rest /= 3u;
      out[c] = value == 1u ? 0.0f : with_sign(size, value == 0u ? 1u : 0u, 0);
    }
  }

  /// A state is the bits of the last columns, the newest lowest; before the row they are zero.
  template <int Bits>
  BRAID_HD void trellis(std::byte const* plane, float scale) noexcept {
    index_t const at = first * Bits / 8;
    index_t const last = (cols * Bits + 7) / 8;
    std::uint32_t window = at == 0 ? 0u : byte_of(plane + at - 1);
    window |= byte_of(plane + at) << 8;
    if (Bits == 2 && at + 1 < last) { window |= byte_of(plane + at + 1) << 16; }
    for (int c = 0; c < rebuilt_columns; ++c) {
      std::uint32_t const state = reversed_groups<Bits>(window >> Bits * (c + 1) & 255u);
      out[c] = scale * (static_cast<float>(numbers->trellis[Bits - 1][state]) * 0.03125f);
    }
  }
};

/// round(shared + column * residual), limited to what the type holds; see `apply_residual`.
template <class T>
BRAID_HD T with_residual(T shared, float more) noexcept {
  constexpr float top = largest_finite<T>;
  float const x = static_cast<float>(shared);
  float sum = x + more;
  if ((bits_as<std::uint32_t>(x) & 0x7F800000u) != 0x7F800000u) { sum = sum > top ? top : sum < -top ? -top : sum; }
  return T(sum);
}

/// Eight columns of a channel.
template <class T, class RowOf>
struct rebuild_columns {
  T const* pool;  // [rows, cols]
  T* to;
  index_t cols;
  index_t to_stride;
  index_t expert;
  index_t experts;
  bool aligned;  // rows begin on an item's bytes, and are whole items
  RowOf row_of;
  residual_index coded;

  BRAID_HD void operator()(index_t i) const noexcept {
    using unit = row_unit<(sizeof(T) == 1 ? 8 : 16)>;
    constexpr int units = static_cast<int>(rebuilt_columns * sizeof(T) / sizeof(unit));
    item_place const p(i, (cols + rebuilt_columns - 1) / rebuilt_columns);
    index_t const first = p.at * rebuilt_columns;
    auto const count = static_cast<int>(cols - first < rebuilt_columns ? cols - first : rebuilt_columns);
    T const* const from = pool + row_of(p.row) * cols + first;
    T* const out = to + p.row * to_stride + first;
    alignas(unit) T x[rebuilt_columns] = {};
    if (aligned) {
      for (int u = 0; u < units; ++u) { reinterpret_cast<unit*>(x)[u] = reinterpret_cast<unit const*>(from)[u]; }
    } else {
      for (int c = 0; c < rebuilt_columns; ++c) {
        if (c < count) { x[c] = from[c]; }
      }
    }
    index_t const row = p.row * experts + expert;
    residual_code const code = coded.code[row];
    if (code != residual_code::none) {
      residual_decoder d{coded.numbers, cols, first, count, {}};
      d.decode(code, coded.planes + coded.plane_begin[row], coded.scales + coded.scale_begin[row]);
      for (int c = 0; c < rebuilt_columns; ++c) {
        float const factor = coded.column != nullptr && c < count ? static_cast<float>(coded.column[first + c]) : 1.0f;
        x[c] = with_residual(x[c], factor * d.out[c]);  // a factor of one changes no bit
      }
    }
    if (aligned) {
      for (int u = 0; u < units; ++u) { reinterpret_cast<unit*>(out)[u] = reinterpret_cast<unit const*>(x)[u]; }
    } else {
      for (int c = 0; c < rebuilt_columns; ++c) {
        if (c < count) { out[c] = x[c]; }
      }
    }
  }
};

/// Rebuilds an expert: to[channel] = round(pool[row_of(channel)] + residual).
/// @param pool       [rows, cols]
/// @param to         [channels, cols], `to_stride` elements from row to row
template <class Policy, class T, class RowOf>
void rebuild_expert(Policy const& policy, RowOf const& row_of, residual_index const& coded, index_t expert, index_t experts, T const* pool,
                  index_t channels, index_t cols, T* to, index_t to_stride) {
  if (channels == 0 || cols == 0) { return; }
  constexpr std::uintptr_t unit = sizeof(T) == 1 ? 8 : 16;
  auto const bits = reinterpret_cast<std::uintptr_t>(pool) | reinterpret_cast<std::uintptr_t>(to) |
                    static_cast<std::uintptr_t>(to_stride) * sizeof(T);
  bool const aligned = bits % unit == 0 && cols % rebuilt_columns == 0;
  thrust::for_each_n(policy, thrust::counting_iterator<index_t>(0), channels * ((cols + rebuilt_columns - 1) / rebuilt_columns),
                     rebuild_columns<T, RowOf>{pool, to, cols, to_stride, expert, experts, aligned, row_of, coded});
}

}  // namespace detail
BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
