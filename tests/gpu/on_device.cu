// No tests: the merges of gpu/pipelines.hpp on the device, of one pipeline: -DBRAID_TEST_PIPELINE=its number.

#include <braid/cuda.cuh>

#include "gpu/device_family.cuh"
#include "gpu/pipelines.hpp"

namespace braid_test {

constexpr pipeline method = static_cast<pipeline>(BRAID_TEST_PIPELINE);

template <>
merged_family merge_one_on_device<method>(recipe const& r, family const& f, std::vector<float> const& column_weight) {
  static braid::cuda const be;
  return with_one_method<braid::cuda, method>(r, [&](auto const& m) {
    return with_type(f.base.type, [&]<class T>(T) {
      merged_family found;
      merge_on_device_as<T>(be, m, f, column_weight, [&](auto const& merged) -> auto& { return found = describe(merged.to_host(be)); });
      return found;
    });
  });
}

template <>
mixed_result merge_one_mixed_on_device<method>(recipe const& r, family const& f, dtype out) {
  static braid::cuda const be;
  return with_one_method<braid::cuda, method>(r, [&](auto const& m) {
    std::vector<braid::device_buffer<std::byte>> memory;
    auto const source = channels_of(f, out, [&](matrix const& w) {
      memory.push_back(to_device(be, w));
      return memory.back().data();
    });
    std::vector<std::string> names;
    for (auto const& e : f.experts) { names.push_back(e.name); }
    auto const context = m.prepare(be, f.tensor, names, source);
    auto const most = std::min(static_cast<std::size_t>(r.groups), names.size());
    std::size_t const row = static_cast<std::size_t>(source.cols) * braid::size_of(out);
    auto const rows = static_cast<std::size_t>(source.channels);
    auto const pool = be.make_buffer<std::byte>(rows * most * row);
    auto const label = be.make_buffer<std::uint8_t>(rows * names.size());
    auto const totals = be.make_buffer<braid::detail::merge_totals>(1);
    braid::detail::merge_totals const none;
    be.to_device(totals.data(), &none, 1);
    m.block_operation().enqueue(be, context, source,
                                {pool.data(), pool.data() + rows * row, static_cast<index_t>(most) - 1, label.data(), totals.data()});
    std::vector<std::byte> all(pool.size());
    mixed_result result{{}, std::vector<std::uint8_t>(label.size())};
    be.to_host(all.data(), static_cast<std::byte const*>(pool.data()), all.size());
    be.to_host(result.label.data(), static_cast<std::uint8_t const*>(label.data()), label.size());
    be.synchronize();
    result.pool.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(rows * row));
    for (std::size_t c = 0; c < rows; ++c) {
      auto const* const of_channel = result.label.data() + c * names.size();
      int const used = *std::max_element(of_channel, of_channel + names.size());
      for (int g = 1; g <= used; ++g) {
        std::byte const* const from = all.data() + (rows + c * (most - 1) + static_cast<std::size_t>(g) - 1) * row;
        result.pool.insert(result.pool.end(), from, from + row);
      }
    }
    return result;
  });
}

}  // namespace braid_test
