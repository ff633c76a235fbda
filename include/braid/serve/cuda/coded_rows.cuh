#pragma once

/// Rows of a pool with their residuals, 16 bytes at a time: the bits of residual/apply.hpp.

#include <braid/backend/cuda/lane_codec.cuh>
#include <braid/serve/detail/device_planes.hpp>
#include <braid/serve/detail/row_tasks.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

struct alignas(16) four_floats {
  float value[4];
};

/// What residuals of all rows are read from.
struct coded_pool {
  std::uint32_t const* planes = nullptr;  // on 16 bytes
  bfloat16 const* scales = nullptr;
  bfloat16 const* columns = nullptr;      // whole pieces of 16; or none
  bfloat16 const* trellis = nullptr;      // device_trellis()
};

/// The residual of a row, in a thread's registers.
struct row_residual {
  residual_code code = residual_code::none;
  std::uint32_t const* planes = nullptr;
  float scale[3]{};

  row_residual() = default;
  __device__ row_residual(coded_pool const& pool, residual_code c, std::int64_t plane, std::uint32_t first_scale)
      : code(c), planes(pool.planes + plane) {
    int const scales = code > residual_code::sign3 ? 1 : static_cast<int>(code);
#pragma unroll
    for (int s = 0; s < 3; ++s) {
      if (s < scales) { scale[s] = 0.0f + static_cast<float>(pool.scales[first_scale + static_cast<std::uint32_t>(s)]); }
    }
  }

  [[nodiscard]] __device__ bool is_trellis() const noexcept { return code > residual_code::ternary; }
  /// device_planes(code)
  [[nodiscard]] __device__ int planes_of_code() const noexcept {
    return code == residual_code::trellis1 ? 1 : code >= residual_code::ternary ? 2 : static_cast<int>(code);
  }
};

/// The words of some columns that lie in one word of each plane.
struct coded_columns {
  std::uint32_t word[3]{};  // of a trellis: the word, and the one before
  int at = 0;               // the first column's place in it: bits of a plane, or of what a trellis takes in
};

/// Reads the words of up to 16 columns from `c` on, a multiple of their number.
__device__ inline coded_columns columns_of(row_residual const& r, index_t c) noexcept {
  coded_columns in;
  if (r.is_trellis()) {
    index_t const bit = r.code == residual_code::trellis1 ? c : 2 * c;
    in.word[0] = r.planes[bit / 32];
    in.word[1] = bit < 32 ? 0u : r.planes[bit / 32 - 1];
    in.at = static_cast<int>(bit % 32);
    return in;
  }
  int const planes = r.planes_of_code();
  std::uint32_t const* const from = r.planes + c / coded_piece * (planes * plane_words) + c % coded_piece / 32;
#pragma unroll
  for (int p = 0; p < 3; ++p) {
    if (p < planes) { in.word[p] = from[p * plane_words]; }
  }
  in.at = static_cast<int>(c % 32);
  return in;
}

/// The words of a piece of 128 columns.
struct coded_words {
  four_words plane[3]{};
  std::uint32_t before = 0;  // the last word of the piece before

  coded_words() = default;
  __device__ coded_words(row_residual const& r, index_t first) noexcept {
    int const planes = r.planes_of_code();
    std::uint32_t const* const from = r.planes + first / coded_piece * (planes * plane_words);
#pragma unroll
    for (int p = 0; p < 3; ++p) {
      if (p < planes) { plane[p] = *reinterpret_cast<four_words const*>(from + p * plane_words); }
    }
    if (r.is_trellis() && first != 0) { before = from[-1]; }
  }

  /// Of columns 16 k + `within` and what follows, k a constant.
  __device__ coded_columns columns(residual_code code, int k, int within) const noexcept {
    coded_columns in;
    if (code == residual_code::trellis2) {
      in.word[0] = plane[k / 4].word[k % 4];
      in.word[1] = k == 0 ? before : plane[(k == 0 ? 0 : k - 1) / 4].word[(k + 3) % 4];
      in.at = 2 * within;
    } else if (code == residual_code::trellis1) {
      in.word[0] = plane[0].word[k / 2];
      in.word[1] = k < 2 ? before : plane[0].word[(k / 2 + 3) % 4];
      in.at = k % 2 * 16 + within;
    } else {
#pragma unroll
      for (int p = 0; p < 3; ++p) { in.word[p] = plane[p].word[k / 2]; }
      in.at = k % 2 * 16 + within;
    }
    return in;
  }
};

/// The residual of N columns, before it is multiplied by columns' scales.
template <int N>
__device__ void decode_columns(row_residual const& r, coded_columns const& in, bfloat16 const* trellis, float (&out)[N]) noexcept {
  if (r.is_trellis()) {
    int const bits = r.code == residual_code::trellis1 ? 1 : 2;
    bfloat16 const* const values = trellis + (bits - 1) * 256;
    std::uint64_t const window = std::uint64_t{in.word[1]} << 32 | in.word[0];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      auto const state = static_cast<std::uint32_t>(window >> (32 - in.at - bits * (i + 1))) & 255u;
      out[i] = r.scale[0] * __uint_as_float(std::uint32_t{values[state].bits} << 16);
    }
    return;
  }
  std::uint32_t const first = in.word[0] >> in.at;
  std::uint32_t const size = __float_as_uint(r.scale[0]);
  if (r.code == residual_code::ternary) {
    std::uint32_t const minus = in.word[1] >> in.at;
#pragma unroll
    for (int i = 0; i < N; ++i) { out[i] = __uint_as_float(((first >> i & 1u) != 0 ? size : 0u) ^ (minus << (31 - i) & 0x80000000u)); }
    return;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) { out[i] = __uint_as_float(size ^ (first << (31 - i) & 0x80000000u)); }
#pragma unroll
  for (int p = 1; p < 3; ++p) {
    if (p >= static_cast<int>(r.code)) { break; }
    std::uint32_t const more = in.word[p] >> in.at;
#pragma unroll
    for (int i = 0; i < N; ++i) { out[i] = out[i] + __uint_as_float(__float_as_uint(r.scale[p]) ^ (more << (31 - i) & 0x80000000u)); }
  }
}

template <class T>
inline constexpr float device_largest = 0x1.fffffep127f;
template <>
inline constexpr float device_largest<bfloat16> = 0x1.fep127f;
template <>
inline constexpr float device_largest<float16> = 65504.0f;
template <>
inline constexpr float device_largest<float8_e4m3> = 448.0f;
template <>
inline constexpr float device_largest<float8_e5m2> = 57344.0f;

/// Each element's highest bit, set where its exponent is all ones.
template <class T>
__device__ std::uint32_t nonfinite_bits(std::uint32_t word) noexcept {
  constexpr std::uint32_t exponent = sizeof(T) == 4 ? 0x7F800000u : std::is_same_v<T, float16> ? 0x7C007C00u : 0x7F807F80u;
  constexpr std::uint32_t one = sizeof(T) == 4 ? 0x00800000u : std::is_same_v<T, float16> ? 0x04000400u : 0x00800080u;
  constexpr std::uint32_t top = sizeof(T) == 4 ? 0x80000000u : 0x80008000u;
  return ((word & exponent) + one) & top;
}

/// 16 bytes of a row from column `c` on: round(row + column scale * residual), limited to what the type holds. What lies behind
/// the row stays as it is.
template <class T>
__device__ four_words with_residual(coded_pool const& pool, row_residual const& r, coded_columns const& in, index_t c, index_t cols,
                                    four_words const& words) noexcept {
  using codec = word_codec<T>;
  constexpr int elements = codec::elements;
  constexpr int count = 4 * elements;
  float more[count];
  decode_columns<count>(r, in, pool.trellis, more);
  if (pool.columns != nullptr) {
#pragma unroll
    for (int i = 0; i < count; i += 2) {
      std::uint32_t const pair = *reinterpret_cast<std::uint32_t const*>(pool.columns + c + i);
      more[i] = __uint_as_float(pair << 16) * more[i];
      more[i + 1] = __uint_as_float(pair & 0xFFFF0000u) * more[i + 1];
    }
  }
  four_words out;
  if constexpr (sizeof(T) != 1) {
    // A finite sum that fits is the rule; what doesn't fit shows in the rounded number as well.
    std::uint32_t beyond = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      float v[elements];
      codec::widen(words.word[w], v);
#pragma unroll
      for (int i = 0; i < elements; ++i) { v[i] = v[i] + more[w * elements + i]; }
      out.word[w] = codec::narrow(v);
      beyond |= nonfinite_bits<T>(out.word[w]);
    }
    if (beyond == 0 && c + count <= cols) { return out; }
  }
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    float v[elements];
    codec::widen(words.word[w], v);
#pragma unroll
    for (int i = 0; i < elements; ++i) {
      if (c + w * elements + i >= cols) { continue; }
      constexpr float top = device_largest<T>;
      float sum = v[i] + more[w * elements + i];
      if ((__float_as_uint(v[i]) & 0x7F800000u) != 0x7F800000u) { sum = sum > top ? top : sum < -top ? -top : sum; }
      v[i] = sum;
    }
    out.word[w] = codec::narrow(v);
  }
  return out;
}

/// The same in place, for a task that may have no residual and columns that may lie behind the row.
template <class T>
__device__ void add_residual(coded_pool const& pool, row_task const& t, index_t c, index_t cols, std::byte* at) noexcept {
  if (t.code == residual_code::none || c >= cols) { return; }
  row_residual const r(pool, t.code, t.plane, t.scale);
  auto* const words = reinterpret_cast<four_words*>(at);
  *words = with_residual<T>(pool, r, columns_of(r, c), c, cols, *words);
}

}  // namespace detail
BRAID_NAMESPACE_END
