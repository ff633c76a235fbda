#pragma once

/// Gathers of whole rows, 16 bytes at a time where addresses allow it. For any execution policy of Thrust.

#include <braid/core/types.hpp>

#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>

#include <cstddef>
#include <cstdint>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What one item of a gather moves. It may stand for elements of any type.
template <std::size_t Bytes>
struct alignas(Bytes) [[gnu::may_alias]] row_unit {
  std::uint32_t word[Bytes / 4];
};
template <>
struct alignas(2) [[gnu::may_alias]] row_unit<2> {
  std::uint16_t word;
};
template <>
struct [[gnu::may_alias]] row_unit<1> {
  std::uint8_t word;
};

/// Row and place in it of item `i`, with 32 bits where they are enough.
struct item_place {
  index_t row;
  index_t at;
  BRAID_HD item_place(index_t i, index_t of_row) noexcept {
    if ((static_cast<std::uint64_t>(i) | static_cast<std::uint64_t>(of_row)) >> 32 == 0) {
      row = static_cast<std::uint32_t>(i) / static_cast<std::uint32_t>(of_row);
    } else {
      row = i / of_row;
    }
    at = i - row * of_row;
  }
};

/// Rows of a list, from its `first` on.
struct listed_row {
  std::int32_t const* row;
  BRAID_HD index_t operator()(index_t i) const noexcept { return row[i]; }
};

template <class Unit, class RowOf>
struct move_unit {
  Unit const* from;
  Unit* to;
  index_t of_row;
  index_t from_stride;
  index_t to_stride;
  RowOf row_of;

  BRAID_HD void operator()(index_t i) const noexcept {
    item_place const p(i, of_row);
    to[p.row * to_stride + p.at] = from[row_of(p.row) * from_stride + p.at];
  }
};

template <std::size_t Bytes, class Policy, class RowOf>
void gather_units(Policy const& policy, RowOf const& row_of, std::byte const* from, index_t from_stride, index_t rows, index_t bytes,
                  std::byte* to, index_t to_stride) {
  constexpr auto size = static_cast<index_t>(Bytes);
  using unit = row_unit<Bytes>;
  index_t const of_row = bytes / size;
  thrust::for_each_n(policy, thrust::counting_iterator<index_t>(0), rows * of_row,
                     move_unit<unit, RowOf>{reinterpret_cast<unit const*>(from), reinterpret_cast<unit*>(to), of_row, from_stride / size,
                                            to_stride / size, row_of});
}

/// to[r] = from[row_of(r)] for r below `rows`. Strides and lengths of rows in bytes; the two may not overlap.
template <class Policy, class RowOf>
void gather_rows(Policy const& policy, RowOf const& row_of, std::byte const* from, index_t from_stride, index_t rows, index_t bytes,
                 std::byte* to, index_t to_stride) {
  if (rows == 0 || bytes == 0) { return; }
  auto const bits = reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to) |
                    static_cast<std::uintptr_t>(from_stride | bytes | to_stride);
  if (bits % 16 == 0) {
    gather_units<16>(policy, row_of, from, from_stride, rows, bytes, to, to_stride);
  } else if (bits % 4 == 0) {
    gather_units<4>(policy, row_of, from, from_stride, rows, bytes, to, to_stride);
  } else if (bits % 2 == 0) {
    gather_units<2>(policy, row_of, from, from_stride, rows, bytes, to, to_stride);
  } else {
    gather_units<1>(policy, row_of, from, from_stride, rows, bytes, to, to_stride);
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
