#pragma once

/// What a merged zoo stores, part by part, by one rule for every method: all tensors of the merged checkpoint, over the
/// bytes of all tensors of all experts.

#include <braid/engine/merge_plan.hpp>
#include <braid/method/grouped_tensor.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace zoo {

struct stored_bytes {
  std::uint64_t kept = 0;    ///< tensors that aren't merged, with their index
  std::uint64_t rows = 0;    ///< rows of merged tensors, in the models' own type
  std::uint64_t index = 0;   ///< which expert has which row, a byte each
  std::uint64_t planes = 0;  ///< packed residuals, each row padded to a byte
  std::uint64_t scales = 0;  ///< of the residuals' rows, and columns where they have scales; bfloat16
  std::uint64_t codes = 0;   ///< how each row's residual is stored, where a name for the tensor isn't enough

  [[nodiscard]] std::uint64_t total() const noexcept { return kept + rows + index + planes + scales + codes; }

  stored_bytes& operator+=(stored_bytes const& o) noexcept {
    kept += o.kept;
    rows += o.rows;
    index += o.index;
    planes += o.planes;
    scales += o.scales;
    codes += o.codes;
    return *this;
  }
  friend bool operator==(stored_bytes const&, stored_bytes const&) = default;
};

/// Bytes of a merged tensor in a grouped checkpoint. The index is left out where no channel has a second group. The
/// codes are left out where one name says them all: every expert that shares its group has that code, and every expert
/// alone in its group has none.
template <class T>
stored_bytes bytes_of(braid::grouped_tensor<T> const& t) {
  using braid::residual_code;
  std::size_t const experts = t.experts().size();
  stored_bytes s;
  s.rows = static_cast<std::uint64_t>(t.pool_rows() * t.cols()) * sizeof(T);
  s.index = t.pool_rows() == t.channels() ? 0 : experts * static_cast<std::uint64_t>(t.channels());
  residual_code shared = residual_code::none;  // the code of those who share, as far as we know it
  bool known = false;
  bool named = true;
  std::vector<int> members(experts);
  for (braid::index_t c = 0; c < t.channels(); ++c) {
    members.assign(experts, 0);
    for (std::size_t e = 0; e < experts; ++e) { ++members[static_cast<std::size_t>(t.group(e, c))]; }
    for (std::size_t e = 0; e < experts; ++e) {
      residual_code const code = t.residual(e, c);
      s.planes += static_cast<std::uint64_t>(braid::residual_bytes(code, t.cols()));
      s.scales += static_cast<std::uint64_t>(braid::residual_scales(code)) * sizeof(braid::bfloat16);
      if (members[static_cast<std::size_t>(t.group(e, c))] == 1) {
        named = named && code == residual_code::none;
      } else {
        if (!known) { shared = code; }
        known = true;
        named = named && code == shared;
      }
    }
  }
  s.scales += t.column_scales().size_bytes();
  if (!named) { s.codes = experts * static_cast<std::uint64_t>(t.channels()); }
  return s;
}

/// Bytes of a tensor that isn't merged: in each channel, rows that are equal bit for bit are stored once; an index of a
/// byte a channel and expert unless all experts have all channels and share every row.
/// @param bytes_of the n-th expert's tensor, empty where it lacks it
/// @param row_bytes of a channel
inline std::uint64_t kept_bytes(std::vector<std::span<std::byte const>> const& bytes_of, std::size_t row_bytes) {
  if (row_bytes == 0) { return 0; }
  std::size_t channels = 0;
  for (auto const& b : bytes_of) { channels = std::max(channels, b.size() / row_bytes); }
  std::uint64_t rows = 0;
  bool uniform = true;
  std::vector<std::byte const*> distinct;
  for (std::size_t c = 0; c < channels; ++c) {
    distinct.clear();
    for (auto const& b : bytes_of) {
      if (c * row_bytes >= b.size()) {
        uniform = false;
        continue;
      }
      std::byte const* const row = b.data() + c * row_bytes;
      bool const seen = std::any_of(distinct.begin(), distinct.end(),
                                    [&](std::byte const* other) { return std::memcmp(row, other, row_bytes) == 0; });
      if (!seen) { distinct.push_back(row); }
    }
    uniform = uniform && distinct.size() == 1;
    rows += distinct.size();
  }
  return rows * row_bytes + (uniform ? 0 : bytes_of.size() * channels);
}

}  // namespace zoo
