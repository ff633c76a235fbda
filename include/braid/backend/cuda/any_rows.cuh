#pragma once

/// Tables of rows of any storage type and layout in device memory.

#include <braid/backend/cuda.cuh>
#include <braid/backend/cuda/element_rows.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Base and experts of a tensor, for kernels: a table in device memory, the base first.
inline device_buffer<any_rows> upload_rows(cuda const& be, tensor_channels const& source) {
  std::vector<any_rows> rows{any_rows(source.base, source)};
  for (auto const& e : source.experts) { rows.emplace_back(e, source); }
  device_buffer<any_rows> there = be.make_buffer<any_rows>(rows.size());
  be.to_device(there.data(), rows.data(), rows.size());
  return there;
}

template <class T>
device_buffer<T> upload(cuda const& be, std::vector<T> const& values) {
  device_buffer<T> there = be.make_buffer<T>(values.size());
  be.to_device(there.data(), values.data(), values.size());
  return there;
}

template <class T>
std::vector<T> download(cuda const& be, device_buffer<T> const& there) {
  std::vector<T> values(there.size());
  be.to_host(values.data(), static_cast<T const*>(there.data()), values.size());
  be.synchronize();
  return values;
}

}  // namespace detail
BRAID_NAMESPACE_END
