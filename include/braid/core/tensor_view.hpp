#pragma once

#include <braid/core/dtype.hpp>

#include <concepts>
#include <type_traits>

BRAID_NAMESPACE_BEGIN

/// Borrows a matrix of `rows` output channels by `cols` inputs in anyone's memory: a vector, a mapped file, an Eigen
/// map, a device pointer. Rows are contiguous; `row_stride` elements lie between the starts of two rows. The names
/// are mdspan's. The memory space is part of the type: a device view doesn't convert to a host view.
/// A tensor `[..., F]` of more dimensions is the matrix of all its rows.
template <class T, memory_space Space = memory_space::host>
class tensor_view {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  static constexpr memory_space space = Space;

  tensor_view() = default;

  /// @param row_stride elements from one row to the next, at least `cols`; negative: exactly `cols`
  BRAID_HD constexpr tensor_view(T* data, index_t rows, index_t cols, index_t row_stride = -1) noexcept
      : data_(data), rows_(rows), cols_(cols), stride_(row_stride < 0 ? cols : row_stride) {}

  /// A view of mutable elements is also a view of constant ones.
  template <class U>
    requires(std::is_const_v<T> && std::same_as<U, value_type>)
  BRAID_HD constexpr tensor_view(tensor_view<U, Space> const& other) noexcept
      : data_(other.data_handle()), rows_(other.extent(0)), cols_(other.extent(1)), stride_(other.stride(0)) {}

  BRAID_HD static constexpr int rank() noexcept { return 2; }
  BRAID_HD constexpr T* data_handle() const noexcept { return data_; }
  BRAID_HD constexpr index_t extent(int d) const noexcept { return d == 0 ? rows_ : cols_; }
  BRAID_HD constexpr index_t stride(int d) const noexcept { return d == 0 ? stride_ : 1; }
  BRAID_HD constexpr index_t rows() const noexcept { return rows_; }
  BRAID_HD constexpr index_t cols() const noexcept { return cols_; }
  BRAID_HD constexpr index_t size() const noexcept { return rows_ * cols_; }
  BRAID_HD constexpr T* row(index_t r) const noexcept { return data_ + r * stride_; }
  BRAID_HD constexpr T& operator()(index_t r, index_t c) const noexcept { return data_[r * stride_ + c]; }

 private:
  T* data_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
  index_t stride_ = 0;
};

/// Anything that looks like a matrix view: braid's own, or an adaptor over somebody else's.
template <class V>
concept matrix_like = std::is_trivially_copyable_v<V> && requires(V const v, int d) {
  typename V::element_type;
  typename V::value_type;
  { V::space } -> std::convertible_to<memory_space>;
  { V::rank() } -> std::convertible_to<int>;
  { v.data_handle() } -> std::same_as<typename V::element_type*>;
  { v.extent(d) } -> std::convertible_to<index_t>;
  { v.stride(d) } -> std::convertible_to<index_t>;
};

/// The same, in the memory space that a backend works in.
template <class V, memory_space S>
concept matrix_like_in = matrix_like<V> && (V::space == S);

static_assert(matrix_like_in<tensor_view<float const>, memory_space::host>);
static_assert(matrix_like_in<tensor_view<bfloat16, memory_space::device>, memory_space::device>);
static_assert(!std::convertible_to<tensor_view<float, memory_space::device>, tensor_view<float>>);

BRAID_NAMESPACE_END
