#pragma once

/// Residuals of a tensor in device memory.

#include <braid/backend/cuda/algorithms/execution.cuh>
#include <braid/backend/cuda/algorithms/rebuild_rows.cuh>
#include <braid/backend/cuda/any_rows.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Codes, packed planes and scales of [channels, experts] rows, one behind the other, and where each begins.
class placed_residuals {
 public:
  placed_residuals() = default;

  /// Takes residuals that lie one behind the other. Enqueues.
  /// @param code    [channels, experts]
  /// @param column  [cols], or empty: nothing to multiply by
  placed_residuals(cuda const& be, device_buffer<residual_code> code, device_buffer<std::byte> planes, device_buffer<bfloat16> scales,
                   device_buffer<bfloat16> column, index_t cols)
      : code_(std::move(code)), planes_(std::move(planes)), scales_(std::move(scales)), column_(std::move(column)) {
    place(be, cols);
  }

  /// Takes residuals that lie in slots of one size, and moves them together where rows don't fill theirs. Waits.
  /// @param planes       [rows, plane_bytes]
  /// @param scales       [rows, scale_count]
  static placed_residuals from_slots(cuda const& be, device_buffer<residual_code> code, device_buffer<std::byte> planes, index_t plane_bytes,
                                     device_buffer<bfloat16> scales, index_t scale_count, device_buffer<bfloat16> column, index_t cols) {
    placed_residuals r(be, std::move(code), std::move(planes), std::move(scales), std::move(column), cols);
    auto const rows = static_cast<index_t>(r.code_.size());
    index_t used[2] = {};
    be.to_host(used, static_cast<index_t const*>(r.plane_begin_.data() + rows), 1);
    be.to_host(used + 1, static_cast<index_t const*>(r.scale_begin_.data() + rows), 1);
    be.synchronize();
    run_algorithm(be, "moving residuals together", [&](auto const& policy) {
      auto const pack = [&]<class T>(device_buffer<T>& slots, index_t of_slot, index_t const* begin, index_t all) {
        if (all == rows * of_slot) { return; }
        auto packed = be.make_buffer<T>(static_cast<std::size_t>(all));
        pack_slots(policy, static_cast<T const*>(slots.data()), rows, of_slot, begin, packed.data());
        slots = std::move(packed);
      };
      pack(r.planes_, plane_bytes, r.plane_begin_.data(), used[0]);
      pack(r.scales_, scale_count, r.scale_begin_.data(), used[1]);
    });
    return r;
  }

  /// Whether no row has a residual.
  [[nodiscard]] bool empty() const noexcept { return scales_.size() == 0; }

  [[nodiscard]] device_buffer<residual_code> const& code() const noexcept { return code_; }
  [[nodiscard]] device_buffer<std::byte> const& planes() const noexcept { return planes_; }
  [[nodiscard]] device_buffer<bfloat16> const& scales() const noexcept { return scales_; }

  [[nodiscard]] residual_index index() const noexcept {
    return {code_.data(), plane_begin_.data(), scale_begin_.data(), planes_.data(), scales_.data(), column_.data(), numbers_.data()};
  }

 private:
  void place(cuda const& be, index_t cols) {
    numbers_ = upload(be, std::vector<residual_numbers>{residual_numbers::of(cols)});
    plane_begin_ = be.make_buffer<index_t>(code_.size() + 1);
    scale_begin_ = be.make_buffer<index_t>(code_.size() + 1);
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
