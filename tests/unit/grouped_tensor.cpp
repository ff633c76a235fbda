#include "support/random_models.hpp"
#include "unit/io_support.hpp"

#include <braid/method/grouped_tensor.hpp>

#include <set>

using namespace braid_test;
using braid::bfloat16;
using braid::grouped_tensor;

namespace {

/// A tensor of random partitions whose rows carry their own numbers.
struct example {
  grouped_tensor<float> tensor;
  std::vector<std::vector<int>> label;  // [channel][expert]
  index_t cols = 0;
};

void fill(random_source& random, example& x, int experts, index_t channels, index_t cols, int most_groups) {
  using access = braid::detail::grouped_tensor_access;
  std::vector<std::string> names;
  for (int e = 0; e < experts; ++e) { names.push_back(expert_name(e)); }
  auto* const pool = reinterpret_cast<float*>(access::reshape(x.tensor, names, channels, cols, most_groups));
  x.cols = cols;
  x.label.assign(static_cast<std::size_t>(channels), {});
  index_t extra = 0;
  for (index_t c = 0; c < channels; ++c) {
    auto& label = x.label[static_cast<std::size_t>(c)];
    int used = 0;
    for (int e = 0; e < experts; ++e) {
      int const g = std::min({random.below(used + 1), most_groups - 1, used});
      used = std::max(used, g + 1);
      label.push_back(g);
      access::index(x.tensor)[e * channels + c] = static_cast<std::uint8_t>(g);
    }
    for (int g = 0; g < used; ++g) {
      index_t const row = g == 0 ? c : channels + extra++;
      for (index_t i = 0; i < cols; ++i) {
        pool[row * cols + i] = static_cast<float>(1000 * c + 10 * g) + static_cast<float>(i) / 4096.0f;
      }
    }
  }
  access::finish(x.tensor, extra, 0.5);
}

}  // namespace

TEST_CASE("an expert is a gather from the pool", "[grouped_tensor]") {
  random_source random(121);
  example x;  // used again and again, as merge_into does
  for (int round = 0; round < 60; ++round) {
    int const experts = random.between(1, 9);
    int const most = random.between(1, experts);
    index_t const channels = random.between(0, 40);
    fill(random, x, experts, channels, random.between(0, 30), most);
    grouped_tensor<float> const& t = x.tensor;
    CHECK(t.channels() == channels);
    CHECK(t.cols() == x.cols);
    CHECK(t.similarity() == 0.5);
    CHECK(t.pool().rows() == t.pool_rows());
    CHECK(t.pool().cols() == x.cols);
    std::set<std::int32_t> used;
    for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
      auto const rows = t.rows(e);
      REQUIRE(rows.size() == static_cast<std::size_t>(channels));
      matrix out(dtype::f32, channels, x.cols, x.cols + random.below(4));  // gaps are left alone
      auto const before = out.memory;
      t.extract(e, {reinterpret_cast<float*>(out.memory.data()), channels, x.cols, out.stride});
      for (index_t c = 0; c < channels; ++c) {
        int const g = x.label[static_cast<std::size_t>(c)][e];
        REQUIRE(t.group(e, c) == g);
        used.insert(rows[static_cast<std::size_t>(c)]);
        for (index_t i = 0; i < out.stride; ++i) {
          if (i >= x.cols) {
            REQUIRE(std::memcmp(out.row(c) + i * 4, before.data() + (c * out.stride + i) * 4, 4) == 0);
            continue;
          }
          float const expected = static_cast<float>(1000 * c + 10 * g) + static_cast<float>(i) / 4096.0f;
          REQUIRE(out.at(c, i) == expected);
          REQUIRE(t.pool()(rows[static_cast<std::size_t>(c)], i) == expected);
        }
      }
      CHECK(t.expert_number(expert_name(static_cast<int>(e))) == e);
    }
    for (index_t c = 0; c < channels; ++c) {
      auto const& label = x.label[static_cast<std::size_t>(c)];
      CHECK(t.groups(c) == 1 + *std::max_element(label.begin(), label.end()));
    }
    CHECK(static_cast<index_t>(used.size()) == t.pool_rows());  // no row without an expert
  }
}

TEST_CASE("a grouped tensor says which experts it has, and what shape it needs", "[grouped_tensor][errors]") {
  random_source random(122);
  example x;
  fill(random, x, 3, 4, 5, 2);
  std::string const unknown = message_of([&] { (void)x.tensor.expert_number("nobody"); });
  CHECK(contains(unknown, "'nobody'"));
  CHECK(contains(unknown, "expert-000, expert-001, expert-002"));
  std::vector<float> room(100);
  CHECK_THROWS_AS(x.tensor.extract(0, {room.data(), 4, 6}), braid::shape_error);
  CHECK_THROWS_AS(x.tensor.extract(0, {room.data(), 5, 5}), braid::shape_error);
  CHECK(contains(message_of([&] { x.tensor.extract(0, {room.data(), 3, 7}); }), "4 x 5"));
}

TEST_CASE("memory of a grouped tensor is used again where it is large enough", "[grouped_tensor]") {
  random_source random(123);
  example x;
  fill(random, x, 4, 30, 20, 4);
  float const* const memory = x.tensor.pool().data_handle();
  fill(random, x, 3, 10, 20, 3);
  CHECK(x.tensor.pool().data_handle() == memory);
  CHECK(x.tensor.experts().size() == 3);
  grouped_tensor<float> const taken = std::move(x.tensor);
  CHECK(taken.pool().data_handle() == memory);
}

TEST_CASE("an empty grouped tensor is empty", "[grouped_tensor]") {
  grouped_tensor<bfloat16> const t;
  CHECK(t.channels() == 0);
  CHECK(t.cols() == 0);
  CHECK(t.pool_rows() == 0);
  CHECK(t.experts().empty());
}
