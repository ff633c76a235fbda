#pragma once

#include <braid/io/detail/grouped_tensor.hpp>
#include <braid/residual/apply.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// How far the stored parts of a tensor have been read.
struct pool_progress {
  index_t channels = 0;
  index_t extra_rows = 0;
  std::uint64_t plane_bytes = 0;
};

/// Gives `sink` the bytes of an expert's tensor in order, as few contiguous pieces as there are: adjacent channels whose
/// rows are neighbours in the pool are one piece of it; a row with a residual is rebuilt, and is a piece of its own. Rows
/// must be contiguous (`!layout.transposed()`).
/// @param sink  called as sink(std::span<std::byte const>); the bytes may be gone afterwards
/// @param done  called as done(pool_progress) after each block: what won't be looked at again
template <class Sink, class Done>
void for_each_piece(grouped_tensor const& t, std::size_t expert, Sink const& sink, Done const& done) {
  auto const total = static_cast<std::size_t>(t.channels_of(expert));
  std::size_t const row_bytes = t.row_bytes();
  auto cursor = t.cursor();
  auto residuals = t.residuals();
  std::array<std::int32_t, pool_cursor::block> rows;
  std::array<residual_place, pool_cursor::block> places{};
  std::vector<std::byte> rebuilt(t.has_residuals() ? row_bytes : 0);
  for (std::size_t begin = 0; begin < total; begin += rows.size()) {
    std::size_t const n = std::min(rows.size(), total - begin);
    cursor.next(expert, std::span(rows).first(n));
    if (t.has_residuals()) { residuals.next(expert, std::span(places).first(n)); }
    for (std::size_t c = 0; c < n;) {
      bool const in_tensor = rows[c] < t.first_channels;
      std::size_t end = c + 1;
      // The last row of the tensor and the first extra row have neighbouring numbers, but not neighbouring bytes.
      while (end < n && rows[end] == rows[end - 1] + 1 && (rows[end] < t.first_channels) == in_tensor &&
             places[c].code == residual_code::none && places[end].code == residual_code::none) {
        ++end;
      }
      auto const row = static_cast<std::size_t>(rows[c] - (in_tensor ? 0 : t.first_channels));
      auto const stored = (in_tensor ? t.first_bytes : t.extra_bytes).subspan(row * row_bytes, (end - c) * row_bytes);
      if (places[c].code == residual_code::none || row_bytes == 0) {
        sink(stored);
      } else {
        std::memcpy(rebuilt.data(), stored.data(), row_bytes);  // a foreign file may put rows at any address
        apply_residual(t.type, rebuilt.data(), places[c].code, t.residual.plane_at(places[c]),
                       t.residual.scales_at(places[c]).data(), t.residual.column_scales(), t.layout.row_elements,
                       rebuilt.data());
        sink(std::span<std::byte const>(rebuilt));
      }
      c = end;
    }
    done(pool_progress{cursor.channel(), cursor.extra_row(), residuals.plane()});
  }
}

/// The expert's pool row of every channel that it has.
inline std::vector<std::int32_t> pool_rows(grouped_tensor const& t, std::size_t expert) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(t.channels_of(expert)));
  t.cursor().next(expert, rows);
  return rows;
}

/// What a transposed tensor, whose memory is not in the order of its channels, is rebuilt from: one index of its
/// leading dimensions, a matrix of `row_elements` lines, whose columns are channels.
struct leading_slice {
  index_t first_channel = 0;
  std::span<std::int32_t const> rows;         // pool rows of its channels
  std::span<residual_place const> residuals;  // their residuals; empty where the tensor has none
};

/// Calls `f(leading_slice)` for every index of the leading dimensions.
template <class F>
void for_each_leading(grouped_tensor const& t, std::size_t expert, F const& f) {
  auto const rows = pool_rows(t, expert);
  std::vector<residual_place> places(t.has_residuals() ? rows.size() : 0);
  t.residuals().next(expert, places);
  // The last dimension of the expert's own shape: only in a matrix does it differ from the tensor's.
  std::size_t const width = t.shape.size() == 2 ? rows.size() : static_cast<std::size_t>(t.layout.stride);
  for (std::size_t begin = 0; begin < rows.size(); begin += width) {
    f(leading_slice{static_cast<index_t>(begin), std::span(rows).subspan(begin, width),
                    places.empty() ? std::span<residual_place const>{} : std::span(places).subspan(begin, width)});
  }
}

/// `count` elements of `bytes` bytes each, `from_stride` and `to_stride` bytes apart.
inline void copy_column(std::size_t bytes, std::byte const* from, std::size_t from_stride, std::byte* to,
                        std::size_t to_stride, std::size_t count) noexcept {
  auto const copy = [&]<std::size_t Bytes>(std::integral_constant<std::size_t, Bytes>) {
    for (std::size_t i = 0; i < count; ++i) { std::memcpy(to + i * to_stride, from + i * from_stride, Bytes); }
  };
  switch (bytes) {
    case 1: copy(std::integral_constant<std::size_t, 1>{}); break;
    case 2: copy(std::integral_constant<std::size_t, 2>{}); break;
    case 4: copy(std::integral_constant<std::size_t, 4>{}); break;
    default: copy(std::integral_constant<std::size_t, 8>{}); break;
  }
}

/// Copies `count` lines of a slice from line `begin` on, rows of the pool as they are.
inline void copy_lines(grouped_tensor const& t, leading_slice const& s, std::size_t begin, std::size_t count,
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
        copy_column(element, from, element, to, line, n);
      }
    }
  }
}

/// Adds residuals to lines that `copy_lines` has copied: pieces of columns become rows, and columns again.
inline void add_residuals_to_lines(grouped_tensor const& t, leading_slice const& s, std::size_t begin, std::size_t count,
                                   std::byte* out) {
  constexpr auto piece = static_cast<std::size_t>(residual_piece);
  std::size_t const element = size_of(t.type);
  std::size_t const line = s.rows.size() * element;
  alignas(64) std::array<std::byte, piece * 4> row;
  for (std::size_t done = 0; done < count; done += piece) {
    std::size_t const n = std::min(piece, count - done);
    for (std::size_t c = 0; c < s.rows.size(); ++c) {
      residual_place const& at = s.residuals[c];
      if (at.code == residual_code::none) { continue; }
      std::byte* const column = out + done * line + c * element;
      copy_column(element, column, line, row.data(), element, n);
      apply_residual_piece(t.type, at.code, t.residual.plane_at(at), t.residual.scales_at(at).data(),
                           t.residual.column_scales(), t.layout.row_elements, static_cast<index_t>(begin + done),
                           static_cast<index_t>(n), row.data());
      copy_column(element, row.data(), element, column, line, n);
    }
  }
}

/// Rebuilds `count` lines of a slice from line `begin` on: a contiguous piece of the expert's own tensor.
/// @param begin  a multiple of `residual_grain` where the tensor has residuals
inline void gather_lines(grouped_tensor const& t, leading_slice const& s, std::size_t begin, std::size_t count,
                         std::byte* out) {
  copy_lines(t, s, begin, count, out);
  if (!s.residuals.empty()) { add_residuals_to_lines(t, s, begin, count, out); }
}

}  // namespace detail
BRAID_NAMESPACE_END
