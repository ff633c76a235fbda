// No tests: what gpu/algorithms.cpp asks of the device.

#include <braid/backend/cuda/algorithms/add_rows.cuh>
#include <braid/backend/cuda/algorithms/rank_rows.cuh>
#include <braid/backend/cuda/global_cuts.cuh>
#include <braid/backend/cuda/grouped_tensor.cuh>

#include "gpu/algorithms.hpp"
#include "gpu/pipelines.hpp"

namespace braid_test {
namespace {

braid::cuda const& executor() {
  static braid::cuda const be;
  return be;
}

template <class T>
std::vector<T> downloaded(braid::device_buffer<T> const& there) {
  return braid::detail::download(executor(), there);
}

struct bits_at {
  std::uint32_t const* bits;
  index_t cols;
  BRAID_HD std::uint32_t operator()(index_t row, index_t col) const noexcept { return bits[row * cols + col]; }
};

/// A tensor on the device whose residuals come in slots of one size.
template <class T>
braid::grouped_tensor<T, braid::memory_space::device> in_slots(braid::grouped_tensor<T> const& t) {
  braid::cuda const& be = executor();
  braid::grouped_tensor<T, braid::memory_space::device> there(be, t);
  auto const& code = braid::detail::grouped_tensor_access::codes(t);
  if (code.empty()) { return there; }
  index_t const plane_bytes = braid::residual_bytes(braid::residual_code::sign3, t.cols());
  constexpr index_t scale_count = 3;
  std::vector<std::byte> planes(code.size() * static_cast<std::size_t>(plane_bytes), std::byte{0xEE});
  std::vector<braid::bfloat16> scales(code.size() * scale_count);
  std::byte const* plane = t.planes().data();
  braid::bfloat16 const* scale = t.scales().data();
  for (std::size_t i = 0; i < code.size(); ++i) {
    index_t const bytes = braid::residual_bytes(code[i], t.cols());
    std::copy_n(plane, bytes, planes.data() + i * static_cast<std::size_t>(plane_bytes));
    std::copy_n(scale, braid::residual_scales(code[i]), scales.data() + i * scale_count);
    plane += bytes;
    scale += braid::residual_scales(code[i]);
  }
  std::vector<braid::bfloat16> const column(t.column_scales().begin(), t.column_scales().end());
  braid::detail::device_tensor_access::pack_residuals(there, be, braid::detail::upload(be, code), braid::detail::upload(be, planes), plane_bytes,
                                                      braid::detail::upload(be, scales), scale_count, column);
  return there;
}

}  // namespace

template <class T>
device_copy<T> copied_to_device(braid::grouped_tensor<T> const& t, index_t stride) {
  braid::cuda const& be = executor();
  braid::grouped_tensor<T, braid::memory_space::device> const there(be, t);
  device_copy<T> found;
  std::vector<std::byte> const gaps(static_cast<std::size_t>(t.channels() * stride) * sizeof(T), std::byte{0x5A});
  for (std::size_t e = 0; e < t.experts().size(); ++e) {
    auto const out = be.make_buffer<std::byte>(gaps.size());
    be.to_device(out.data(), gaps.data(), gaps.size());
    there.extract(be, e, {reinterpret_cast<T*>(out.data()), t.channels(), t.cols(), stride});
    found.rebuilt.push_back(downloaded(out));
  }
  found.back = there.to_host(be);
  found.packed = in_slots(t).to_host(be);
  return found;
}
template device_copy<float> copied_to_device(braid::grouped_tensor<float> const&, index_t);
template device_copy<braid::bfloat16> copied_to_device(braid::grouped_tensor<braid::bfloat16> const&, index_t);
template device_copy<braid::float16> copied_to_device(braid::grouped_tensor<braid::float16> const&, index_t);
template device_copy<braid::float8_e4m3> copied_to_device(braid::grouped_tensor<braid::float8_e4m3> const&, index_t);

placed_rows placed_on_device(std::vector<float> const& slots, std::vector<std::uint8_t> const& label, int experts, index_t channels, index_t cols,
                             index_t most_groups) {
  using access = braid::detail::device_tensor_access;
  braid::cuda const& be = executor();
  braid::grouped_tensor<float, braid::memory_space::device> t;
  std::vector<std::string> names;
  for (int e = 0; e < experts; ++e) { names.push_back(expert_name(e)); }
  float* const pool = access::reshape(t, be, names, channels, cols, most_groups);
  be.to_device(pool, slots.data(), slots.size());
  auto const there = braid::detail::upload(be, label);
  std::int32_t extra = 0;
  access::place(t, be, there.data(), &extra);
  be.synchronize();
  access::close_gaps(t, be, extra, most_groups - 1);
  access::finish(t, extra, 1.0);
  auto const host = t.to_host(be);
  placed_rows found;
  found.pool.assign(host.pool().data_handle(), host.pool().data_handle() + host.pool().size());
  for (std::size_t e = 0; e < names.size(); ++e) {
    for (index_t c = 0; c < channels; ++c) { found.index.push_back(static_cast<std::uint8_t>(host.group(e, c))); }
  }
  return found;
}

std::vector<std::uint32_t> ranked_on_device(std::vector<std::uint32_t> const& bits, index_t rows, index_t cols) {
  braid::cuda const& be = executor();
  auto const there = braid::detail::upload(be, bits);
  auto const key = be.make_buffer<std::uint64_t>(bits.size());
  auto const column = be.make_buffer<std::uint32_t>(bits.size());
  auto const rank = be.make_buffer<std::uint32_t>(bits.size());
  braid::detail::run_algorithm(be, "ranking rows", [&](auto const& policy) {
    braid::detail::rank_rows(policy, bits_at{there.data(), cols}, rows, cols, key.data(), column.data(), rank.data());
  });
  return downloaded(rank);
}

std::vector<double> added_on_device(std::vector<float> const& rows, index_t channels, index_t sums) {
  braid::cuda const& be = executor();
  auto const there = braid::detail::upload(be, rows);
  auto const out = be.make_buffer<double>(static_cast<std::size_t>(braid::detail::blocks_of_rows(channels) * sums));
  braid::detail::run_algorithm(be, "adding rows", [&](auto const& policy) {
    braid::detail::add_rows(policy, static_cast<float const*>(there.data()), channels, sums, out.data());
  });
  return downloaded(out);
}

index_t first_nonfinite_on_device(std::vector<float> const& x) {
  braid::cuda const& be = executor();
  auto const there = braid::detail::upload(be, x);
  index_t found = -1;
  braid::detail::run_algorithm(be, "looking for NaN", [&](auto const& policy) {
    found = braid::detail::first_nonfinite(policy, static_cast<float const*>(there.data()), static_cast<index_t>(x.size()));
  });
  return found;
}

std::vector<std::vector<braid::magnitude_cut>> global_cuts_on_device(std::vector<double> const& density, std::vector<family> const& tensors) {
  braid::cuda const& be = executor();
  std::vector<braid::device_buffer<std::byte>> memory;
  std::vector<braid::tensor_channels> inputs;
  for (auto const& f : tensors) {
    inputs.push_back(channels_of(f, dtype::f32, [&](matrix const& w) {
      memory.push_back(braid::detail::upload(be, w.memory));
      return static_cast<std::byte const*>(memory.back().data());
    }));
  }
  braid::global_magnitude_cuts<braid::cuda> cuts(density);
  while (cuts.next_pass()) {
    for (auto const& t : inputs) { cuts.add(be, t); }
  }
  std::vector<std::vector<braid::magnitude_cut>> found;
  for (std::size_t t = 0; t < inputs.size(); ++t) { found.push_back(cuts.of_tensor(t)); }
  return found;
}

std::string message_without_memory() {
  try {
    braid::detail::run_algorithm(executor(), "asking for too much", [&](auto const&) {
      braid::detail::stream_memory memory(executor());
      (void)memory.allocate(std::ptrdiff_t{1} << 50);
    });
    return "no error";
  } catch (braid::backend_error const& e) {
    return e.what();
  }
}

}  // namespace braid_test
