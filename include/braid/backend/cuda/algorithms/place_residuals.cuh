#pragma once

/// Where the residuals of rows begin when rows have different codes, and how they are moved together: a scan and a gather. For any
/// execution policy of Thrust.

#include <braid/backend/cuda/algorithms/gather_rows.cuh>
#include <braid/residual/code.hpp>
#include <braid/residual/detail/trellis_table.hpp>

#include <thrust/scan.h>
#include <thrust/tabulate.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Bytes and scales of a row with each code, and the values of the trellises' states.
struct residual_numbers {
  index_t bytes[residual_codes];
  index_t scales[residual_codes];
  std::int8_t trellis[2][256];

  static residual_numbers of(index_t cols) noexcept {
    residual_numbers n{};
    for (int c = 0; c < residual_codes; ++c) {
      n.bytes[c] = residual_bytes(static_cast<residual_code>(c), cols);
      n.scales[c] = residual_scales(static_cast<residual_code>(c));
    }
    for (int s = 0; s < 256; ++s) {
      n.trellis[0][s] = trellis_table<1>[s];
      n.trellis[1][s] = trellis_table<2>[s];
    }
    return n;
  }
};

/// What a row takes by its code; nothing behind the last row.
struct bytes_of_row {
  residual_code const* code;
  index_t rows;
  residual_numbers const* numbers;
  BRAID_HD index_t operator()(index_t row) const noexcept { return row < rows ? numbers->bytes[static_cast<int>(code[row])] : 0; }
};
struct scales_of_row {
  residual_code const* code;
  index_t rows;
  residual_numbers const* numbers;
  BRAID_HD index_t operator()(index_t row) const noexcept { return row < rows ? numbers->scales[static_cast<int>(code[row])] : 0; }
};

/// Where each row's planes and scales begin, for rows one behind the other; the last numbers are those of all.
/// @param code         [rows]
/// @param plane_begin  [rows + 1]
/// @param scale_begin  [rows + 1]
template <class Policy>
void place_residuals(Policy const& policy, residual_code const* code, index_t rows, residual_numbers const* numbers, index_t* plane_begin,
                     index_t* scale_begin) {
  thrust::tabulate(policy, plane_begin, plane_begin + rows + 1, bytes_of_row{code, rows, numbers});
  thrust::exclusive_scan(policy, plane_begin, plane_begin + rows + 1, plane_begin);
  thrust::tabulate(policy, scale_begin, scale_begin + rows + 1, scales_of_row{code, rows, numbers});
  thrust::exclusive_scan(policy, scale_begin, scale_begin + rows + 1, scale_begin);
}

/// A byte or a scale of a slot.
template <class T>
struct pack_slot {
  T const* from;
  index_t of_slot;
  index_t const* begin;
  T* to;

  BRAID_HD void operator()(index_t i) const noexcept {
    item_place const p(i, of_slot);
    if (begin[p.row] + p.at < begin[p.row + 1]) { to[begin[p.row] + p.at] = from[i]; }
  }
};

/// Moves what has been written to slots of one size to where `place_residuals` has it.
/// @param from   [rows, of_slot]
/// @param begin  [rows + 1]
/// @param to     [begin[rows]]: apart from `from`
template <class Policy, class T>
void pack_slots(Policy const& policy, T const* from, index_t rows, index_t of_slot, index_t const* begin, T* to) {
  if (of_slot > 0) { thrust::for_each_n(policy, thrust::counting_iterator<index_t>(0), rows * of_slot, pack_slot<T>{from, of_slot, begin, to}); }
}

}  // namespace detail
BRAID_NAMESPACE_END
