#pragma once

#include <braid/io/checkpoint_writer.hpp>
#include <braid/io/detail/grouped_gather.hpp>

#include <algorithm>
#include <span>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Streams experts' tensors out of the pool through one buffer. A row with a residual is rebuilt on its way.
class grouped_streamer {
 public:
  static constexpr std::size_t buffer_bytes = std::size_t{4} << 20;

  grouped_streamer(checkpoint const& files, checkpoint_writer& out) : files_(files), out_(out) {}

  void write(grouped_tensor const& t, std::size_t expert, std::size_t slot) {
    slot_ = slot;
    written_ = 0;
    released_ = {};
    if (t.has(expert)) { t.layout.transposed() ? write_transposed(t, expert) : write_rows(t, expert); }
    flush();
    release(t, {t.first_bytes.size(), t.extra_bytes.size(), t.residual.plane_bytes.size()});
  }

 private:
  /// How far the stored parts have been read, in bytes.
  struct progress {
    std::size_t first = 0;
    std::size_t extra = 0;
    std::size_t planes = 0;
    [[nodiscard]] std::size_t sum() const noexcept { return first + extra + planes; }
  };

  void write_rows(grouped_tensor const& t, std::size_t expert) {
    for_each_piece(
        t, expert, [&](std::span<std::byte const> piece) { put(piece); },
        [&](pool_progress const& read) {
          progress const now{static_cast<std::size_t>(std::min(read.channels, t.first_channels)) * t.row_bytes(),
                             static_cast<std::size_t>(read.extra_rows) * t.row_bytes(),
                             static_cast<std::size_t>(read.plane_bytes)};
          if (now.sum() - released_.sum() >= buffer_bytes) { release(t, now); }
        });
  }

  void write_transposed(grouped_tensor const& t, std::size_t expert) {
    for_each_leading(t, expert, [&](leading_slice const& s) {
      std::size_t const line = s.rows.size() * size_of(t.type);
      auto const lines = static_cast<std::size_t>(t.layout.row_elements);
      std::size_t step = std::max<std::size_t>(1, buffer_bytes / line);
      if (!s.residuals.empty()) {
        constexpr auto grain = static_cast<std::size_t>(residual_grain);
        step = std::max(grain, step / grain * grain);
      }
      for (std::size_t begin = 0; begin < lines; begin += step) {
        std::size_t const n = std::min(step, lines - begin);
        buffer_.resize(n * line);
        gather_lines(t, s, begin, n, buffer_.data());
        flush();
      }
    });
  }

  /// Small pieces are collected; large ones go from the mapping to the file.
  void put(std::span<std::byte const> piece) {
    constexpr std::size_t large = buffer_bytes / 4;
    if (buffer_.size() + piece.size() > buffer_bytes || piece.size() >= large) { flush(); }
    if (piece.size() >= large) {
      out_.write(slot_, written_, piece);
      written_ += piece.size();
    } else {
      buffer_.insert(buffer_.end(), piece.begin(), piece.end());
    }
  }

  void flush() {
    if (!buffer_.empty()) { out_.write(slot_, written_, buffer_); }
    written_ += buffer_.size();
    buffer_.clear();
  }

  void release(grouped_tensor const& t, progress now) {
    if (t.first != nullptr) { files_.release(*t.first, released_.first, now.first - released_.first); }
    if (t.extra != nullptr) { files_.release(*t.extra, released_.extra, now.extra - released_.extra); }
    if (auto const* const plane = t.residual.plane) {
      files_.release(*plane, released_.planes, now.planes - released_.planes);
    }
    released_ = now;
  }

  checkpoint const& files_;
  checkpoint_writer& out_;
  std::vector<std::byte> buffer_;
  std::size_t slot_ = 0;
  std::uint64_t written_ = 0;
  progress released_;
};

}  // namespace detail
BRAID_NAMESPACE_END
