#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/core/detail/free_ranges.hpp>

using namespace braid_test;

namespace {

/// Bytes that are taken, one by one.
struct plain_ranges {
  std::vector<char> taken;

  explicit plain_ranges(std::size_t size) : taken(size, 0) {}

  [[nodiscard]] bool is_free(std::size_t at, std::size_t bytes) const {
    return at + bytes <= taken.size() && std::all_of(taken.begin() + static_cast<std::ptrdiff_t>(at), taken.begin() + static_cast<std::ptrdiff_t>(at + bytes),
                                                     [](char t) { return t == 0; });
  }
  [[nodiscard]] std::optional<std::size_t> first_free(std::size_t bytes) const {
    for (std::size_t at = 0; at + bytes <= taken.size(); ++at) {
      if (is_free(at, bytes)) { return at; }
    }
    return std::nullopt;
  }
  void set(std::size_t at, std::size_t bytes, char to) {
    std::fill_n(taken.begin() + static_cast<std::ptrdiff_t>(at), bytes, to);
  }
  [[nodiscard]] std::size_t free_bytes() const { return static_cast<std::size_t>(std::count(taken.begin(), taken.end(), 0)); }
};

}  // namespace

TEST_CASE("the first range that is large enough is taken, and ranges that are given back are one with free ones beside them") {
  random_source random(611);
  for (int round = 0; round < 60; ++round) {
    auto const size = static_cast<std::size_t>(random.between(1, 60));
    braid::detail::free_ranges ranges(size);
    plain_ranges plain(size);
    std::vector<std::pair<std::size_t, std::size_t>> taken;
    for (int step = 0; step < 80; ++step) {
      if (taken.empty() || random.chance(0.55)) {
        auto const bytes = static_cast<std::size_t>(random.between(1, 12));
        auto const at = ranges.take(bytes);
        REQUIRE(at == plain.first_free(bytes));
        if (at) {
          plain.set(*at, bytes, 1);
          taken.emplace_back(*at, bytes);
        }
      } else {
        random.shuffle(taken);
        ranges.give_back(taken.back().first, taken.back().second);
        plain.set(taken.back().first, taken.back().second, 0);
        taken.pop_back();
      }
      REQUIRE(ranges.free_bytes() == plain.free_bytes());
    }
    for (auto const& [at, bytes] : taken) { ranges.give_back(at, bytes); }
    CHECK(ranges.take(size) == 0u);
    CHECK(ranges.free_bytes() == 0);
  }
}
