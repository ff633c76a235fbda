#pragma once

/// Residuals of a tensor in device memory.

#include <braid/backend/cuda/algorithms/execution.cuh>
#include <braid/backend/cuda/algorithms/rebuild_rows.cuh>
#include <braid/backend/cuda/any_rows.cuh>

#include <span>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Codes, packed planes and scales of [channels, experts] rows, one behind the other, and where each begins.
class device_residuals {
 public:
  device_residuals() = default;

  /// Copies; `code`, `planes`, `scales` and `column` are read before it returns.
  /// @param code    [channels, experts]
  /// @param column  [cols], or empty: nothing to multiply by
  device_residuals(cuda const& be, std::vector<residual_code> const& code, std::span<std::byte const> planes, std::span<bfloat16 const> scales,
                   std::span<bfloat16 const> column, index_t cols)
      : code_(upload(be, code)), planes_(copy(be, planes)), scales_(copy(be, scales)), column_(copy(be, column)) {
    place(be, cols);
  }

  /// Takes what lies in device memory already. Enqueues.
  device_residuals(cuda const& be, device_buffer<residual_code> code, device_buffer<std::byte> planes, device_buffer<bfloat16> scales,
                   device_buffer<bfloat16> column, index_t cols)
      : code_(std::move(code)), planes_(std::move(planes)), scales_(std::move(scales)), column_(std::move(column)) {
    place(be, cols);
  }

  [[nodiscard]] bool empty() const noexcept { return code_.size() == 0; }

  [[nodiscard]] coded_rows rows() const noexcept {
    return {code_.data(), plane_begin_.data(), scale_begin_.data(), planes_.data(), scales_.data(), column_.data(), numbers_.data()};
  }

 private:
  template <class T>
  static device_buffer<T> copy(cuda const& be, std::span<T const> from) {
    auto there = be.make_buffer<T>(from.size());
    be.to_device(there.data(), from.data(), from.size());
    return there;
  }

  void place(cuda const& be, index_t cols) {
    numbers_ = upload(be, std::vector<residual_numbers>{residual_numbers::of(cols)});
    plane_begin_ = be.make_buffer<index_t>(code_.size());
    scale_begin_ = be.make_buffer<index_t>(code_.size());
    run_algorithm(be, "placing residuals", [&](auto const& policy) {
      place_residuals(policy, static_cast<residual_code const*>(code_.data()), static_cast<index_t>(code_.size()), numbers_.data(), plane_begin_.data(),
                      scale_begin_.data());
    });
  }

  device_buffer<residual_code> code_;
  device_buffer<std::byte> planes_;
  device_buffer<bfloat16> scales_;
  device_buffer<bfloat16> column_;
  device_buffer<residual_numbers> numbers_;
  device_buffer<index_t> plane_begin_;
  device_buffer<index_t> scale_begin_;
};

}  // namespace detail
BRAID_NAMESPACE_END
