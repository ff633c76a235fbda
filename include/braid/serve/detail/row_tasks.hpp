#pragma once

/// What a device needs of a weight of several experts, and what a batch of vectors asks of it. Plain data, made on the host.

#include <braid/serve/detail/device_planes.hpp>
#include <braid/serve/row_source.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// An output: a row of the pool, and what is added to it first.
struct row_task {
  std::int32_t row = 0;
  std::int32_t channel = 0;
  residual_code code = residual_code::none;
  std::uint32_t scale = 0;  ///< where its scales begin
  std::int64_t plane = 0;   ///< where its planes begin, in words
};

/// Tasks that the same vectors ask for, as many as a block takes.
struct task_tile {
  std::int32_t first = 0;
  std::int32_t tasks = 0;
  std::int32_t first_input = 0;
  std::int32_t inputs = 0;
};

inline constexpr int tile_tasks = 32;
inline constexpr int tile_inputs = 16;

/// How many tasks and vectors a tile has.
struct tile_limits {
  std::size_t tasks = tile_tasks;
  std::size_t inputs = tile_inputs;
};

/// A weight as a device holds it: different rows once, 16 bytes a step; residuals (device_planes.hpp); and for each expert its channels.
struct device_pool {
  index_t stride = 0;  ///< bytes from row to row: a multiple of 16 elements, zeros behind the row
  std::vector<std::byte> rows;
  std::vector<std::uint32_t> planes;
  std::vector<bfloat16> scales;
  std::vector<bfloat16> columns;                 ///< a multiple of 16, ones behind the row; or empty
  std::vector<std::vector<row_task>> experts;    ///< [experts][channels]
};

/// Takes no longer than copying, but for ternary residuals, whose digits it turns into bits: about a nanosecond each.
template <row_source Source>
device_pool make_device_pool(Source const& source) {
  device_pool pool;
  dtype const type = source.type();
  auto const cols = static_cast<std::size_t>(source.cols());
  std::size_t const bytes = cols * size_of(type);
  pool.stride = static_cast<index_t>((cols + 15) / 16 * 16 * size_of(type));
  if (source.column_scales() != nullptr) {
    pool.columns.assign(source.column_scales(), source.column_scales() + cols);
    pool.columns.resize((cols + 15) / 16 * 16, bfloat16(1.0f));
  }
  // Rows in the order of their addresses: as they are stored.
  std::vector<std::byte const*> address;
  for (std::size_t e = 0; e < source.experts(); ++e) {
    for (index_t c = 0; c < source.channels(e); ++c) { address.push_back(source.row(e, c).shared); }
  }
  std::sort(address.begin(), address.end());
  address.erase(std::unique(address.begin(), address.end()), address.end());
  std::unordered_map<std::byte const*, std::int32_t> number;
  pool.rows.resize(address.size() * static_cast<std::size_t>(pool.stride));
  for (std::size_t r = 0; r < address.size(); ++r) {
    number.emplace(address[r], static_cast<std::int32_t>(r));
    if (bytes != 0) { std::memcpy(pool.rows.data() + r * static_cast<std::size_t>(pool.stride), address[r], bytes); }
  }
  for (std::size_t e = 0; e < source.experts(); ++e) {
    auto& own = pool.experts.emplace_back();
    for (index_t c = 0; c < source.channels(e); ++c) {
      stored_row const from = source.row(e, c);
      row_task t;
      t.row = number.at(from.shared);
      t.channel = static_cast<std::int32_t>(c);
      t.code = from.code;
      if (t.code != residual_code::none) {
        t.scale = static_cast<std::uint32_t>(pool.scales.size());
        t.plane = static_cast<std::int64_t>(pool.planes.size());
        pool.scales.insert(pool.scales.end(), from.scale, from.scale + residual_scales(from.code));
        append_device_planes(from.code, from.plane, source.cols(), pool.planes);
      }
      own.push_back(t);
    }
  }
  return pool;
}

/// What a batch asks for.
struct row_plan {
  std::vector<row_task> tasks;
  std::vector<std::int32_t> inputs;  ///< numbers of vectors, group by group
  std::vector<task_tile> tiles;      ///< fewest inputs first; tiles of the same tasks side by side
  index_t channels = 0;              ///< of the expert with the most

  /// The first tile with more than so many inputs.
  [[nodiscard]] std::size_t above(int count) const noexcept {
    auto const at = std::find_if(tiles.begin(), tiles.end(), [&](task_tile const& t) { return t.inputs > count; });
    return static_cast<std::size_t>(at - tiles.begin());
  }
};

/// Experts that share a row share a task.
/// @param blocks  as many tiles should there be at least: where tasks are few, tiles are smaller
inline row_plan plan_rows(std::vector<std::vector<row_task>> const& experts, std::span<std::size_t const> expert, std::size_t blocks = 0,
                          tile_limits limits = {}) {
  row_plan plan;
  std::map<std::size_t, std::vector<std::int32_t>> inputs_of;
  for (std::size_t b = 0; b < expert.size(); ++b) {
    inputs_of[expert[b]].push_back(static_cast<std::int32_t>(b));
    plan.channels = std::max(plan.channels, static_cast<index_t>(experts[expert[b]].size()));
  }
  // Tasks by the experts that ask for them.
  std::map<std::vector<std::size_t>, std::vector<row_task>> groups;
  for (index_t c = 0; c < plan.channels; ++c) {
    std::vector<std::pair<row_task, std::vector<std::size_t>>> own;
    for (auto const& [e, list] : inputs_of) {
      if (c >= static_cast<index_t>(experts[e].size())) { continue; }
      row_task const& t = experts[e][static_cast<std::size_t>(c)];
      auto const same = std::find_if(own.begin(), own.end(), [&](auto const& o) {
        return o.first.row == t.row && o.first.code == residual_code::none && t.code == residual_code::none;
      });
      if (same != own.end()) {
        same->second.push_back(e);
      } else {
        own.push_back({t, {e}});
      }
    }
    for (auto const& [t, who] : own) { groups[who].push_back(t); }
  }
  std::size_t work = 0;  // tasks times blocks of vectors
  for (auto const& [who, tasks] : groups) {
    std::size_t inputs = 0;
    for (std::size_t const e : who) { inputs += inputs_of[e].size(); }
    work += tasks.size() * ((inputs + limits.inputs - 1) / limits.inputs);
  }
  std::size_t in_tile = limits.tasks;
  while (in_tile > 8 && work / in_tile < blocks) { in_tile /= 2; }
  for (auto const& [who, tasks] : groups) {
    auto const first_input = plan.inputs.size();
    for (std::size_t const e : who) { plan.inputs.insert(plan.inputs.end(), inputs_of[e].begin(), inputs_of[e].end()); }
    auto const inputs = plan.inputs.size() - first_input;
    for (std::size_t t = 0; t < tasks.size(); t += in_tile) {
      for (std::size_t i = 0; i < inputs; i += limits.inputs) {
        plan.tiles.push_back({static_cast<std::int32_t>(plan.tasks.size() + t),
                              static_cast<std::int32_t>(std::min(in_tile, tasks.size() - t)),
                              static_cast<std::int32_t>(first_input + i),
                              static_cast<std::int32_t>(std::min(limits.inputs, inputs - i))});
      }
    }
    plan.tasks.insert(plan.tasks.end(), tasks.begin(), tasks.end());
  }
  std::stable_sort(plan.tiles.begin(), plan.tiles.end(), [](auto const& a, auto const& b) { return a.inputs < b.inputs; });
  return plan;
}

}  // namespace detail
BRAID_NAMESPACE_END
