#pragma once

#include <braid/io/detail/grouped_tensor.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Gives `sink` the bytes of an expert's tensor in order, as few contiguous pieces of the pool as there are: adjacent
/// channels whose rows are neighbours in the pool are one piece. Rows must be contiguous (`!layout.transposed()`).
/// @param sink  called as sink(std::span<std::byte const>)
/// @param done  called as done(channels, extra_rows) after each block: how far the pool won't be looked at again
template <class Sink, class Done>
void for_each_piece(grouped_tensor const& t, std::size_t expert, Sink const& sink, Done const& done) {
  auto const total = static_cast<std::size_t>(t.channels_of(expert));
  std::size_t const row_bytes = t.row_bytes();
  auto cursor = t.cursor();
  std::array<std::int32_t, pool_cursor::block> rows;
  for (std::size_t begin = 0; begin < total; begin += rows.size()) {
    std::size_t const n = std::min(rows.size(), total - begin);
    cursor.next(expert, std::span(rows).first(n));
    for (std::size_t c = 0; c < n;) {
      bool const in_tensor = rows[c] < t.first_channels;
      std::size_t end = c + 1;
      // The last row of the tensor and the first extra row have neighbouring numbers, but not neighbouring bytes.
      while (end < n && rows[end] == rows[end - 1] + 1 && (rows[end] < t.first_channels) == in_tensor) { ++end; }
      auto const row = static_cast<std::size_t>(rows[c] - (in_tensor ? 0 : t.first_channels));
      sink((in_tensor ? t.first_bytes : t.extra_bytes).subspan(row * row_bytes, (end - c) * row_bytes));
      c = end;
    }
    done(cursor.channel(), cursor.extra_row());
  }
}

/// The expert's pool row of every channel that it has.
inline std::vector<std::int32_t> pool_rows(grouped_tensor const& t, std::size_t expert) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(t.channels_of(expert)));
  t.cursor().next(expert, rows);
  return rows;
}

template <std::size_t Bytes>
inline void scatter_column(std::byte const* from, std::byte* to, std::size_t count, std::size_t stride) {
  for (std::size_t i = 0; i < count; ++i) { std::memcpy(to + i * stride, from + i * Bytes, Bytes); }
}

/// What a transposed tensor, whose memory is not in the order of its channels, is rebuilt from: one index of its
/// leading dimensions, a matrix of `row_elements` lines, whose columns are channels.
struct leading_slice {
  index_t first_channel = 0;
  std::span<std::int32_t const> rows;  // pool rows of its channels
};

/// Calls `f(leading_slice)` for every index of the leading dimensions.
template <class F>
void for_each_leading(grouped_tensor const& t, std::size_t expert, F const& f) {
  auto const rows = pool_rows(t, expert);
  // The last dimension of the expert's own shape: only in a matrix does it differ from the tensor's.
  std::size_t const width = t.shape.size() == 2 ? rows.size() : static_cast<std::size_t>(t.layout.stride);
  for (std::size_t begin = 0; begin < rows.size(); begin += width) {
    f(leading_slice{static_cast<index_t>(begin), std::span(rows).subspan(begin, width)});
  }
}

/// Rebuilds `count` lines of a slice from line `begin` on: a contiguous piece of the expert's own tensor.
inline void gather_lines(grouped_tensor const& t, leading_slice const& s, std::size_t begin, std::size_t count,
                         std::byte* out) {
  std::size_t const element = size_of(t.type);
  std::size_t const line = s.rows.size() * element;
  // Group 0 of a channel stands at the channel's own place: copy whole lines, then correct the other groups' columns.
  if (s.first_channel < t.first_channels) {
    std::size_t const stride = static_cast<std::size_t>(t.first_layout.stride) * element;
    std::byte const* const from = t.first_bytes.data() + begin * stride +
                                  static_cast<std::size_t>(t.first_layout.offset(s.first_channel)) * element;
    for (std::size_t i = 0; i < count; ++i) { std::memcpy(out + i * line, from + i * stride, std::min(line, stride)); }
  }
  std::vector<std::size_t> columns;
  for (std::size_t c = 0; c < s.rows.size(); ++c) {
    if (s.rows[c] >= t.first_channels) { columns.push_back(c); }
  }
  constexpr std::size_t tile = 64;  // of lines and of columns: stays in the first cache
  for (std::size_t first = 0; first < columns.size(); first += tile) {
    std::size_t const last = std::min(first + tile, columns.size());
    for (std::size_t i = 0; i < count; i += tile) {
      std::size_t const n = std::min(tile, count - i);
      for (std::size_t k = first; k < last; ++k) {
        auto const row = static_cast<std::size_t>(s.rows[columns[k]] - t.first_channels);
        std::byte const* const from = t.extra_bytes.data() + row * t.row_bytes() + (begin + i) * element;
        std::byte* const to = out + i * line + columns[k] * element;
        switch (element) {
          case 1: scatter_column<1>(from, to, n, line); break;
          case 2: scatter_column<2>(from, to, n, line); break;
          case 4: scatter_column<4>(from, to, n, line); break;
          default: scatter_column<8>(from, to, n, line); break;
        }
      }
    }
  }
}

}  // namespace detail
BRAID_NAMESPACE_END
