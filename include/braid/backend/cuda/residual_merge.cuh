#pragma once

/// Starts the kernels that code residuals.

#include <braid/backend/cpu/residual_group.hpp>
#include <braid/backend/cuda/any_rows.cuh>
#include <braid/backend/cuda/launch.cuh>
#include <braid/backend/cuda/residual_kernel.cuh>
#include <braid/residual/any.hpp>
#include <braid/residual/palette.hpp>

#include <algorithm>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// How the device encodes what a policy does. A policy of another's is host code.
template <class Residual>
struct device_coder;
template <int B>
struct device_coder<residual::sign_bits<B>> {
  using type = sign_coder<B>;
};
template <>
struct device_coder<residual::ternary> {
  using type = ternary_coder;
};
template <int B>
struct device_coder<residual::trellis<B>> {
  using type = trellis_coder<B>;
};

template <class Residual>
concept coded_on_device = std::same_as<Residual, residual::none> || std::same_as<Residual, residual::any> || std::same_as<Residual, residual::palette> ||
                          requires { typename device_coder<Residual>::type; };

/// Calls `f(policy, sweeps)` for each policy that may code a channel.
template <class Residual, class F>
void for_each_coder(Residual const& residual, F const& f) {
  if constexpr (std::same_as<Residual, residual::none>) {
    return;
  } else if constexpr (std::same_as<Residual, residual::any>) {
    std::visit([&]<class R>(R const& r) {
      if constexpr (!std::same_as<R, residual::none>) { f(r, residual.sweeps); }
    }, residual.choice);
  } else if constexpr (std::same_as<Residual, residual::palette>) {
    for (residual_code const c : residual.codes()) {
      residual.with(c, [&](auto const& r) { f(r, r.sweeps); });
    }
  } else {
    f(residual, residual.sweeps);
  }
}

/// Values of the states of both trellises, [2, 256].
inline std::vector<float> trellis_tables() {
  std::vector<float> table;
  for (unsigned s = 0; s < 256; ++s) { table.push_back(trellis_value<1>(s)); }
  for (unsigned s = 0; s < 256; ++s) { table.push_back(trellis_value<2>(s)); }
  return table;
}

/// Room in device memory for the residuals of a tensor, a place for every expert of every channel.
template <class Residual>
device_residuals residual_places(Residual const& residual, index_t cols) {
  device_residuals r;
  for (residual_code const c : codes_of(residual)) {
    r.plane_bytes = std::max(r.plane_bytes, residual_bytes(c, cols));
    r.scale_count = std::max(r.scale_count, residual_scales(c));
  }
  return r;
}

template <class Coder>
void start_coding(cuda const& be, residual_arguments a) {
  constexpr int most_threads = Coder::searches ? 64 : 512;  // one warp searches, the others wait
  int const lanes = (a.shape.cols + sum_order::segment - 1) / sum_order::segment * sum_order::lanes;
  a.shape.threads = std::min(most_threads, (lanes + 31) / 32 * 32);
  std::size_t const bytes = (residual_room::bytes<Coder>(a.shape, a.experts, a.column != nullptr) + 255) / 256 * 256;
  auto const attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, which, be.device()), "asking a device what it is");
    return value;
  };
  auto const kernel = code_residuals_kernel<Coder>;
  auto const most = static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) - sizeof(residual_members) - 1024;
  // Searches want many blocks on a processor more than they want short ways.
  bool const shares = bytes <= (Coder::searches ? std::size_t{12} << 10 : most);
  std::size_t const shared = shares ? bytes : 0;
  allow_shared_memory(kernel);
  int at_once = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, kernel, a.shape.threads, shared), "asking how many blocks fit");
  index_t blocks = std::min<index_t>(a.channels, std::max(at_once, 1) * attribute(cudaDevAttrMultiProcessorCount));
  device_buffer<std::byte> room;
  if (!shares) {
    constexpr std::size_t most_room = std::size_t{256} << 20;
    blocks = std::min<index_t>(blocks, std::max<index_t>(1, static_cast<index_t>(most_room / bytes)));
    room = be.make_buffer<std::byte>(static_cast<std::size_t>(blocks) * bytes);
    a.room = room.data();
    a.room_bytes = bytes;
  }
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(a.shape.threads), shared, be.stream()>>>(a);
  check_cuda(cudaGetLastError(), "starting to code residuals");
}

/// Codes the residuals of a merged tensor, and moves its rows to where they suit these best. Enqueues.
/// @param chosen [channels] in device memory: a code for each channel; null: the policy's own
template <class Residual>
void code_residuals(cuda const& be, Residual const& residual, tensor_context const& context, tensor_channels const& source,
                    device_merged const& merged, device_residuals const& out, residual_code const* chosen) {
  if (!codes_anything(residual)) { return; }
  auto const experts = source.experts.size();
  auto const places = static_cast<std::size_t>(source.channels) * experts;
  check_cuda(cudaMemsetAsync(out.code, 0, places, be.stream()), "clearing codes");
  if (source.channels == 0 || source.cols == 0) { return; }
  device_buffer<any_rows> const models = upload_rows(be, source);
  channel_workspace work;
  residual_columns const columns(context, work);
  auto const cols = static_cast<std::size_t>(source.cols);
  auto const there = [&](float const* values) {
    device_buffer<float> b;
    if (values != nullptr) {
      b = be.make_buffer<float>(cols);
      be.to_device(b.data(), values, cols);
    }
    return b;
  };
  device_buffer<float> const column = there(columns.scale);
  device_buffer<float> const column_weight = there(columns.column_weight);
  device_buffer<float> const coded_weight = there(columns.coded_weight);
  device_buffer<float> const tables = upload(be, trellis_tables());
  residual_arguments a;
  a.models = models.data();
  a.experts = static_cast<int>(experts);
  a.channels = source.channels;
  a.allow_nonfinite = context.allow_nonfinite;
  a.type = source.out;
  a.shape.cols = static_cast<int>(source.cols);
  a.merged = merged;
  a.out = out;
  a.chosen = chosen;
  a.column = column.data();
  a.coded_weight = coded_weight.data();
  a.column_weight = column_weight.data();
  for_each_coder(residual, [&]<class R>(R const&, int sweeps) {
    a.sweeps = sweeps;
    a.table = tables.data() + (R::code == residual_code::trellis2 ? 256 : 0);
    start_coding<typename device_coder<R>::type>(be, a);
  });
}

}  // namespace detail
BRAID_NAMESPACE_END
