#include "support/catch.hpp"

#include <braid/core/tensor_view.hpp>

#include <sys/mman.h>

#include <concepts>
#include <numeric>
#include <type_traits>
#include <vector>

namespace {
using braid::bfloat16;
using braid::index_t;
using braid::memory_space;
using braid::tensor_view;

/// A user's own view: column count and pitch in a type of theirs.
struct image {
  using element_type = float;
  using value_type = float;
  static constexpr memory_space space = memory_space::host;
  float* pixels;
  int height, width, pitch;
  static constexpr int rank() noexcept { return 2; }
  float* data_handle() const noexcept { return pixels; }
  index_t extent(int d) const noexcept { return d == 0 ? height : width; }
  index_t stride(int d) const noexcept { return d == 0 ? pitch : 1; }
};

struct owner {  // not trivially copyable: views borrow
  using element_type = float;
  using value_type = float;
  [[maybe_unused]] static constexpr memory_space space = memory_space::host;
  std::vector<float> data;
  static constexpr int rank() noexcept { return 2; }
  float* data_handle() const noexcept { return nullptr; }
  index_t extent(int) const noexcept { return 0; }
  index_t stride(int) const noexcept { return 0; }
};

template <class From, class To>
concept converts = std::convertible_to<From, To>;

static_assert(braid::matrix_like_in<image, memory_space::host>);
static_assert(!braid::matrix_like_in<image, memory_space::device>);
static_assert(!braid::matrix_like<owner>);
static_assert(!braid::matrix_like<float*>);

static_assert(converts<tensor_view<float>, tensor_view<float const>>);
static_assert(!converts<tensor_view<float const>, tensor_view<float>>);
static_assert(!converts<tensor_view<float>, tensor_view<bfloat16 const>>);
static_assert(!converts<tensor_view<float, memory_space::device>, tensor_view<float const>>);
static_assert(!converts<tensor_view<float>, tensor_view<float const, memory_space::device>>);
static_assert(std::is_trivially_copyable_v<tensor_view<bfloat16 const, memory_space::device>>);
}  // namespace

TEST_CASE("a view addresses rows at their stride", "[tensor_view]") {
  std::vector<int> memory(7 * 5);
  std::iota(memory.begin(), memory.end(), 0);
  tensor_view<int const> const all(memory.data(), 5, 7);
  tensor_view<int const> const part(memory.data() + 2, 5, 3, 7);
  CHECK(all.stride(0) == 7);
  CHECK(part.stride(0) == 7);
  CHECK(part.stride(1) == 1);
  CHECK(part.extent(0) == 5);
  CHECK(part.extent(1) == 3);
  CHECK(part.size() == 15);
  for (index_t r = 0; r < part.rows(); ++r) {
    CHECK(part.row(r) == memory.data() + 7 * r + 2);
    for (index_t c = 0; c < part.cols(); ++c) {
      CHECK(part(r, c) == static_cast<int>(7 * r + c + 2));
      CHECK(&part(r, c) == &all(r, c + 2));
    }
  }
}

TEST_CASE("a view of mutable elements writes through, and becomes a view of constant ones", "[tensor_view]") {
  std::vector<float> memory(6);
  tensor_view<float> const view(memory.data(), 2, 3);
  view(1, 2) = 4.0f;
  CHECK(memory[5] == 4.0f);
  tensor_view<float const> const constant = view;
  CHECK(constant.data_handle() == memory.data());
  CHECK(constant.rows() == 2);
  CHECK(constant.cols() == 3);
  CHECK(constant.stride(0) == 3);
  CHECK(constant(1, 2) == 4.0f);
}

TEST_CASE("offsets beyond 2^31 elements don't overflow", "[tensor_view]") {
  // Addresses alone: nothing is read, and no memory stands behind them.
  constexpr index_t rows = index_t{1} << 17;
  constexpr index_t cols = index_t{1} << 16;
  void* const region = ::mmap(nullptr, rows * cols, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(region != MAP_FAILED);
  tensor_view<char> const view(static_cast<char*>(region), rows, cols);
  CHECK(view.size() == index_t{1} << 33);
  CHECK(view.row(rows - 1) - view.row(0) == (rows - 1) * cols);
  CHECK(&view(rows - 1, cols - 1) - view.data_handle() == view.size() - 1);
  ::munmap(region, rows * cols);
}

TEST_CASE("a view of nothing has no elements", "[tensor_view]") {
  tensor_view<float> const nothing;
  CHECK(nothing.size() == 0);
  CHECK(nothing.data_handle() == nullptr);
  std::vector<float> memory(4);
  tensor_view<float> const no_rows(memory.data(), 0, 4);
  tensor_view<float> const no_columns(memory.data(), 4, 0);
  CHECK(no_rows.size() == 0);
  CHECK(no_columns.size() == 0);
  CHECK(no_columns.row(3) == memory.data());
}
