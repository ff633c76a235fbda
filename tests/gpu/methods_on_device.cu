// No tests: the methods of gpu/methods.hpp on the device.

#include <braid/cuda.cuh>

#include "gpu/methods.hpp"

namespace braid_test {
namespace {

braid::cuda const& device() {
  static braid::cuda const be;
  return be;
}

/// Inputs in device memory instead of host memory.
struct uploaded_request {
  braid::tensor_request request;
  std::vector<braid::device_buffer<std::byte>> memory;

  uploaded_request(braid::tensor_request const& r, std::size_t offset) : request(r) {
    place(request.inputs.base, offset);
    for (auto& e : request.inputs.experts) { place(e, offset); }
  }

 private:
  void place(braid::channel_rows& rows, std::size_t offset) {
    if (rows.data == nullptr) { return; }
    auto const& in = request.inputs;
    auto const element = static_cast<index_t>(braid::size_of(rows.type));
    index_t const bytes = in.transposed != 0 ? in.channels * in.cols * element : in.channels == 0 ? 0 : (in.channels - 1) * rows.stride + in.cols * element;
    auto& there = memory.emplace_back(device().make_buffer<std::byte>(static_cast<std::size_t>(bytes) + offset + 1));
    device().to_device(there.data() + offset, rows.data, static_cast<std::size_t>(bytes));
    rows.data = there.data() + offset;
  }
};

}  // namespace

std::vector<std::byte> method_on_device(std::string_view name, braid::method_options const& options, braid::tensor_request const& request,
                                        device_placing const& placing) {
  auto const m = braid::make_tensor_method<braid::cuda>(name, options);
  uploaded_request const there(request, placing.offset);
  auto const& in = there.request.inputs;
  std::size_t const row = static_cast<std::size_t>(in.cols) * braid::size_of(in.out);
  std::vector<std::byte> out(static_cast<std::size_t>(in.channels) * row);
  auto const to = device().make_buffer<std::byte>(out.size() + placing.offset + 1);
  braid::detail::check_cuda(cudaMemsetAsync(to.data(), 0xA5, to.size(), device().stream()), "clearing");
  std::byte* const begin = to.data() + placing.offset;
  if (placing.rows_at_once == 0) {
    m->merge_into(device(), there.request, begin);
  } else {
    auto const plan = m->prepare(device(), there.request);
    braid::tensor_method<braid::cuda>::workspace work(device());
    for (index_t first = 0; first < in.channels; first += placing.rows_at_once) {
      std::vector<std::byte> scratch;
      auto const block = in.block(first, std::min(placing.rows_at_once, in.channels - first), scratch);
      m->apply(*plan, block, begin + static_cast<std::size_t>(first) * row, work);
    }
    work.finish();
  }
  device().to_host(out.data(), static_cast<std::byte const*>(begin), out.size());
  device().synchronize();
  return out;
}

std::vector<std::byte> typed_on_device(int which, family const& f) {
  constexpr auto space = braid::memory_space::device;
  return with_typed_method<braid::cuda>(which, [&](auto const& m, bool based) {
    auto const run = [&]<class T>(T) {
      std::vector<braid::device_buffer<T>> memory;
      auto const view = [&](matrix const& w) {
        auto& there = memory.emplace_back(device().make_buffer<T>(w.memory.size() / sizeof(T)));
        device().to_device(there.data(), reinterpret_cast<T const*>(w.memory.data()), there.size());
        return braid::tensor_view<T const, space>(there.data(), w.rows, w.cols, w.stride);
      };
      std::vector<braid::expert_view<T, space>> models;
      for (auto const& e : f.experts) { models.push_back({e.name, view(e.weight)}); }
      braid::device_buffer<T> const merged =
          based ? m.template merge<T>(device(), f.tensor, view(f.base), models) : m.template merge<T>(device(), f.tensor, models);
      std::vector<std::byte> out(merged.size() * sizeof(T));
      device().to_host(reinterpret_cast<T*>(out.data()), static_cast<T const*>(merged.data()), merged.size());
      device().synchronize();
      return out;
    };
    switch (f.base.type) {
      case dtype::bf16: return run(braid::bfloat16{});
      case dtype::f16: return run(braid::float16{});
      default: return run(0.0f);
    }
  });
}

}  // namespace braid_test
