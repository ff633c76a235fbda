#include "support/catch.hpp"
#include "support/grouped_fixture.hpp"

#include <braid/io/grouped_layout.hpp>

using namespace braid;
using braid_test::dice;

TEST_CASE("a channel's row is where the definition of its axis says") {
  dice d(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<index_t> dims;
    for (std::size_t k = d.below(5); k > 0; --k) { dims.push_back(static_cast<index_t>(1 + d.below(5))); }
    bool const usual = dims.empty() || d.coin();
    int const axis = usual ? default_channel_axis(dims.size()) : static_cast<int>(d.below(dims.size()));
    CAPTURE(dims, axis);
    channel_layout const l(dims, axis);
    auto const all = braid_test::places(dims, usual ? std::optional<int>{} : axis);
    CHECK(l.channels * l.row_elements == static_cast<index_t>(all.size()));
    bool right = true;
    for (std::size_t e = 0; e < all.size(); ++e) {
      index_t const c = static_cast<index_t>(all[e].channel);
      index_t const i = static_cast<index_t>(all[e].column);
      right = right && c < l.channels && i < l.row_elements && l.offset(c) + i * l.stride == static_cast<index_t>(e);
    }
    CHECK(right);
    CHECK((l.transposed() || l.stride == 1));
  }
}

TEST_CASE("the usual channel axis is the last dimension but one, and vectors and scalars are one row") {
  CHECK(default_channel_axis(0) == -1);
  CHECK(default_channel_axis(1) == -1);
  CHECK(default_channel_axis(2) == 0);
  CHECK(default_channel_axis(4) == 2);
  CHECK(channel_layout(std::vector<index_t>{}, -1).row_elements == 1);
  CHECK(channel_layout(std::vector<index_t>{7}, -1).row_elements == 7);
  CHECK(channel_layout(std::vector<index_t>{7}, 0).channels == 7);
  CHECK(channel_layout(std::vector<index_t>{2, 3, 5}, 1).channels == 6);
  CHECK(channel_layout(std::vector<index_t>{2, 3, 5}, 0).row_elements == 15);
  CHECK(channel_layout(std::vector<index_t>{0, 5}, 0).channels == 0);
  CHECK(channel_layout(std::vector<index_t>{5, 0}, 1).channels == 0);
  CHECK_THROWS_AS(channel_layout(std::vector<index_t>{2, 3}, 2), argument_error);
  CHECK_THROWS_AS(channel_layout(std::vector<index_t>{2, 3}, -1), argument_error);
}

TEST_CASE("only the dimension that counts an expert's vocabulary changes with its channels") {
  auto const resized = [](std::vector<index_t> dims, int axis, index_t channels) {
    bool const ok = resize_channels(dims, axis, channels);
    return std::pair{ok, dims};
  };
  using result = std::pair<bool, std::vector<index_t>>;
  CHECK(resized({10, 4}, 0, 12) == result{true, {12, 4}});
  CHECK(resized({4, 10}, 1, 12) == result{true, {4, 12}});
  CHECK(resized({10}, 0, 3) == result{true, {3}});
  CHECK(resized({2, 5, 3}, 1, 15) == result{true, {3, 5, 3}});
  CHECK(resized({2, 5, 3}, 2, 9) == result{true, {3, 5, 3}});
  CHECK(resized({2, 5, 3}, 0, 7) == result{true, {7, 5, 3}});
  CHECK(resized({10, 4}, 0, 0) == result{true, {0, 4}});
  CHECK(resized({2, 5, 3}, 1, 14) == result{false, {2, 5, 3}});
  CHECK(resized({7}, -1, 2) == result{false, {7}});
  CHECK(resized({7}, -1, 1) == result{true, {7}});
  CHECK(resized({2, 0, 3}, 1, 4) == result{false, {2, 0, 3}});
}

TEST_CASE("pool rows follow from the index in blocks of any size") {
  dice d(2);
  for (int round = 0; round < 60; ++round) {
    std::size_t const experts = 1 + d.below(6);
    std::size_t const channels = 1 + d.below(3000);
    std::size_t const first = d.coin() ? channels : d.below(channels + 1);
    std::vector<std::size_t> count(experts);
    for (std::size_t n = 0; n < experts; ++n) {
      count[n] = n == 0 ? first : d.coin() ? channels : d.below(channels + 1);
    }
    std::vector<std::uint8_t> index(experts * channels, no_group);
    std::vector<std::vector<std::int32_t>> expected(experts, std::vector<std::int32_t>(channels, -1));
    std::size_t pool = first;
    for (std::size_t c = 0; c < channels; ++c) {
      std::vector<std::int32_t> row_of_group;
      for (std::size_t n = 0; n < experts; ++n) {
        if (c >= count[n]) { continue; }
        std::size_t const g = d.below(row_of_group.size() + 1);
        if (g == row_of_group.size()) {
          bool const in_tensor = g == 0 && c < first;
          row_of_group.push_back(static_cast<std::int32_t>(in_tensor ? c : pool));
          pool += in_tensor ? 0 : 1;
        }
        index[n * channels + c] = static_cast<std::uint8_t>(g);
        expected[n][c] = row_of_group[g];
      }
    }
    for (std::size_t n = 0; n < experts; ++n) {
      pool_cursor cursor(index, static_cast<index_t>(channels), static_cast<index_t>(first));
      std::vector<std::int32_t> rows(channels);
      for (std::size_t begin = 0; begin < channels;) {
        std::size_t const k = std::min(1 + d.below(2000), channels - begin);
        cursor.next(n, std::span(rows).subspan(begin, k));
        begin += k;
        CHECK(cursor.channel() == static_cast<index_t>(begin));
      }
      CHECK(rows == expected[n]);
      CHECK(first + static_cast<std::size_t>(cursor.extra_row()) == pool);
    }
  }
}

TEST_CASE("a channel can have 255 groups") {
  std::vector<std::uint8_t> index(255);
  for (std::size_t n = 0; n < index.size(); ++n) { index[n] = static_cast<std::uint8_t>(n); }
  for (std::size_t n = 0; n < index.size(); ++n) {
    pool_cursor cursor(index, 1, 1);
    std::int32_t row = -1;
    cursor.next(n, std::span(&row, 1));
    CHECK(row == static_cast<std::int32_t>(n));
    CHECK(cursor.extra_row() == 254);
  }
}

TEST_CASE("without an index every channel's row is the tensor's own") {
  pool_cursor cursor({}, 5000, 5000);
  std::vector<std::int32_t> rows(5000);
  cursor.next(3, rows);
  CHECK(rows.front() == 0);
  CHECK(rows.back() == 4999);
  CHECK(cursor.extra_row() == 0);
}

TEST_CASE("names of the format and names of experts") {
  CHECK(extra_name("a.weight") == "braid.extra.a.weight");
  CHECK(group_name("a.weight") == "braid.group.a.weight");
  CHECK(is_reserved_name("braid.group.x"));
  CHECK(is_reserved_name("braid.anything"));
  CHECK(!is_reserved_name("braided.weight"));
  CHECK(is_expert_name("Math-7B_v2"));
  for (auto const* bad : {"", "a b", "a/b", "..", "caf\xc3\xa9", "a\n"}) { CHECK(!is_expert_name(bad)); }
}
