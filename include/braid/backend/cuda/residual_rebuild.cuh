#pragma once

/// Experts' rows from shared rows and residuals, element by element: what residual/apply.hpp does on the host.

#include <braid/backend/cuda/element_rows.cuh>
#include <braid/residual/code.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One row's residual in device memory.
struct coded_row {
  residual_code code = residual_code::none;
  std::int64_t plane = 0;  // its first byte
  std::int64_t scale = 0;  // number of its first scale
};

/// What rows are decoded with.
struct residual_memory {
  std::byte const* planes = nullptr;
  bfloat16 const* scales = nullptr;
  bfloat16 const* column = nullptr;  // [cols], or null
  float const* tables = nullptr;     // [2, 256]: values of the states of both trellises
};

/// The decoded residual of one column.
BRAID_HD inline float decode_element(residual_memory const& m, coded_row const& row, index_t cols, index_t c) noexcept {
  auto const byte = [&](index_t at) { return static_cast<unsigned>(m.planes[row.plane + at]); };
  auto const signs = [&](int planes) {
    float sum = 0.0f;
    for (int p = 0; p < planes; ++p) {
      auto const scale = static_cast<float>(m.scales[row.scale + p]);
      float const term = (byte(p * ((cols + 7) / 8) + c / 8) >> (c % 8) & 1u) != 0 ? -scale : scale;
      sum = p == 0 ? term : sum + term;
    }
    return sum;
  };
  auto const scale = [&] { return static_cast<float>(m.scales[row.scale]); };
  // The byte with the column, above the byte before: the newest of eight bits is the state's lowest, or pair of bits.
  auto const window = [&](index_t at, int newest) {
    unsigned const bits = byte(at) << 8 | (at > 0 ? byte(at - 1) : 0u);
    return bits >> (newest + 1) & 255u;
  };
  switch (row.code) {
    case residual_code::sign1: return signs(1);
    case residual_code::sign2: return signs(2);
    case residual_code::sign3: return signs(3);
    case residual_code::ternary: {
      unsigned digit = byte(c / 5);
      for (index_t i = 0; i < c % 5; ++i) { digit /= 3; }
      digit %= 3;
      return digit == 1 ? 0.0f : digit == 0 ? -scale() : scale();
    }
    case residual_code::trellis1: {
      unsigned const w = window(c / 8, static_cast<int>(c % 8));
      unsigned state = 0;
      for (unsigned i = 0; i < 8; ++i) { state |= (w >> i & 1u) << (7 - i); }
      return scale() * m.tables[state];
    }
    case residual_code::trellis2: {
      unsigned const w = window(c / 4, static_cast<int>(c % 4) * 2 + 1);
      unsigned state = 0;
      for (unsigned i = 0; i < 4; ++i) { state |= (w >> (2 * i) & 3u) << (6 - 2 * i); }
      return scale() * m.tables[256 + state];
    }
    case residual_code::none: break;
  }
  return 0.0f;
}

/// One element of a gather of rows with residuals.
template <class T>
struct rebuild_rows {
  T const* pool;
  std::int32_t const* row;  // [channels]
  coded_row const* coded;   // [channels]
  residual_memory memory;
  T* to;
  index_t cols;
  index_t to_stride;
  float most;  // the largest finite number

  BRAID_HD void operator()(index_t i) const noexcept {
    index_t const r = i / cols;
    index_t const c = i % cols;
    T const shared = pool[static_cast<index_t>(row[r]) * cols + c];
    T& out = to[r * to_stride + c];
    if (coded[r].code == residual_code::none) {
      out = shared;
      return;
    }
    float more = decode_element(memory, coded[r], cols, c);
    if (memory.column != nullptr) { more = static_cast<float>(memory.column[c]) * more; }
    auto const x = static_cast<float>(shared);
    float sum = x + more;
    if ((bits_as<std::uint32_t>(x) & 0x7F800000u) != 0x7F800000u) { sum = sum > most ? most : sum < -most ? -most : sum; }
    out = T(sum);
  }
};

/// A byte of the residuals of a tensor, or of their scales: from the places that coding leaves to where they follow each other.
struct gather_residuals {
  std::byte const* from;
  index_t place;  // bytes of a place
  std::int64_t const* slot;
  std::int64_t const* at;  // one more than rows
  std::byte* to;

  BRAID_HD void operator()(index_t i) const noexcept {
    index_t const r = i / place;
    index_t const b = i % place;
    if (at[r] + b < at[r + 1]) { to[at[r] + b] = from[slot[r] * place + b]; }
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
