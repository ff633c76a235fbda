// No tests: the merges of gpu/pipelines.hpp on the CPU.

#include "gpu/pipelines.hpp"

namespace braid_test {

merged_family merge_on_cpu(recipe const& r, family const& f, std::vector<float> const& column_weight) {
  return with_pipeline(r, [&](auto which) { return with_one_method<braid::cpu, which()>(r, [&](auto const& m) {
    return with_type(f.base.type, [&]<class T>(T) {
      auto const view = [](matrix const& w) {
        return braid::tensor_view<T const>(reinterpret_cast<T const*>(w.memory.data()), w.rows, w.cols, w.stride);
      };
      std::vector<braid::expert_view<T>> experts;
      for (auto const& e : f.experts) { experts.push_back({e.name, view(e.weight)}); }
      return describe(m(braid::cpu(2), f.tensor, view(f.base), experts, column_weight));
    });
  }); });
}

mixed_result merge_mixed_on_cpu(recipe const& r, family const& f, dtype out) {
  return with_pipeline(r, [&](auto which) { return with_one_method<braid::cpu, which()>(r, [&](auto const& m) {
    auto const source = channels_of(f, out, [](matrix const& w) { return w.memory.data(); });
    std::vector<std::string> names;
    for (auto const& e : f.experts) { names.push_back(e.name); }
    auto const context = m.prepare(braid::cpu(1), f.tensor, names, source);
    auto const most = static_cast<std::size_t>(r.groups);
    std::size_t const row = static_cast<std::size_t>(source.cols) * braid::size_of(out);
    auto const rows = static_cast<std::size_t>(source.channels);
    mixed_result result{std::vector<std::byte>(rows * most * row), std::vector<std::uint8_t>(rows * names.size())};
    braid::merged_block merged;
    merged.group_zero = result.pool.data();
    merged.extra = result.pool.data() + rows * row;
    merged.label = result.label.data();
    braid::detail::channel_workspace work;
    std::vector<std::byte> scratch;
    m.block_operation()(context, source.block(0, source.channels, scratch), merged, work);
    result.pool.resize((rows + static_cast<std::size_t>(merged.extra_rows)) * row);
    return result;
  }); });
}

// The device's, by pipeline.
merged_family merge_on_device(recipe const& r, family const& f, std::vector<float> const& column_weight) {
  return with_pipeline(r, [&](auto which) { return merge_one_on_device<which()>(r, f, column_weight); });
}

mixed_result merge_mixed_on_device(recipe const& r, family const& f, dtype out) {
  return with_pipeline(r, [&](auto which) { return merge_one_mixed_on_device<which()>(r, f, out); });
}

}  // namespace braid_test
