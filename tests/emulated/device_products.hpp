#pragma once

#include <braid/serve/cuda/row_products.cuh>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace braid_test {

/// Memory that begins on 16 bytes, as device memory does.
template <class T>
struct device_copy {
  std::vector<std::byte> memory;
  T* data;
  explicit device_copy(std::vector<T> const& from) : memory(from.size() * sizeof(T) + 16) {
    data = reinterpret_cast<T*>(memory.data() + (16 - reinterpret_cast<std::uintptr_t>(memory.data()) % 16) % 16);
    if (!from.empty()) { std::memcpy(static_cast<void*>(data), from.data(), from.size() * sizeof(T)); }
  }
};

/// A pool and what a batch needs of it, as device memory, and a kernel's arguments but for the vectors and where products go.
struct device_products {
  device_copy<std::byte> rows;
  device_copy<std::uint32_t> planes;
  device_copy<braid::bfloat16> scales, columns, trellis;
  device_copy<braid::detail::row_task> tasks;
  device_copy<braid::detail::task_tile> tiles;
  device_copy<std::int32_t> inputs;
  braid::detail::product_arguments arguments;

  device_products(braid::detail::device_pool const& pool, braid::detail::row_plan const& plan, braid::index_t cols, braid::index_t channels)
      : rows(pool.rows),
        planes(pool.planes),
        scales(pool.scales),
        columns(pool.columns),
        trellis(braid::detail::device_trellis()),
        tasks(plan.tasks),
        tiles(plan.tiles),
        inputs(plan.inputs) {
    arguments.pool = rows.data;
    arguments.stride = pool.stride;
    arguments.cols = cols;
    arguments.tasks = tasks.data;
    arguments.count = static_cast<int>(plan.tasks.size());
    arguments.tiles = tiles.data;
    arguments.inputs = inputs.data;
    arguments.coded = {planes.data, scales.data, pool.columns.empty() ? nullptr : columns.data, trellis.data};
    arguments.y_stride = channels;
  }
};

}  // namespace braid_test
