#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/backend/cpu/radix_select.hpp>

#include <algorithm>

using namespace braid_test;
using braid::magnitude_cut;
using braid::detail::radix_select;

namespace {

/// The values of one model, without a base.
struct value_source {
  template <class Visit>
  void operator()(braid::channel_block const& block, index_t row, index_t c, int n, braid::detail::method_workspace& work,
                  Visit const& visit) const {
    braid::detail::load_segment(block, row, c, n, braid::detail::operand::values, work);
    visit(std::size_t{0}, static_cast<float const*>(work.models.fit(1)));
  }
};

struct values {
  index_t rows;
  index_t cols;
  std::vector<float> element;

  [[nodiscard]] braid::tensor_channels channels() const {
    braid::tensor_channels t;
    t.channels = rows;
    t.cols = cols;
    t.experts = {{reinterpret_cast<std::byte const*>(element.data()), dtype::f32, cols * 4}};
    return t;
  }
};

/// Large enough for a sample to be taken. Rows are of different scales; `few`: of few different magnitudes.
values random_values(random_source& random, bool few) {
  values v{300, 7111, {}};
  v.element.reserve(static_cast<std::size_t>(v.rows * v.cols));
  for (index_t r = 0; r < v.rows; ++r) {
    double const scale = std::exp2(random.between(-3, 3));
    for (index_t c = 0; c < v.cols; ++c) {
      v.element.push_back(few ? static_cast<float>(random.below(41) - 20) : static_cast<float>((random.unit() - 0.5) * scale));
    }
  }
  return v;
}

/// The cut by sorting.
magnitude_cut sorted_cut(values const& v, index_t wanted, bool largest) {
  std::vector<std::pair<float, index_t>> order;
  for (std::size_t i = 0; i < v.element.size(); ++i) {
    float const size = std::abs(v.element[i]);
    order.push_back({largest ? -size : size, static_cast<index_t>(i)});
  }
  std::nth_element(order.begin(), order.begin() + (wanted - 1), order.end());
  auto const& last = order[static_cast<std::size_t>(wanted - 1)];
  return {braid::detail::magnitude_bits(last.first), last.second};
}

}  // namespace

TEST_CASE("A selection is that of a sort, whatever a sample has made it expect", "[methods][selection]") {
  random_source random(61);
  for (bool const few : {true, false}) {
    values const v = random_values(random, few);
    auto const elements = v.rows * v.cols;
    for (bool const largest : {true, false}) {
      index_t const wanted = 1 + static_cast<index_t>(random.unit() * static_cast<double>(elements - 1));
      magnitude_cut const expected = sorted_cut(v, wanted, largest);
      // Rightly, not at all, and wrongly.
      for (double const told : {static_cast<double>(wanted), -1.0, 0.0, static_cast<double>(elements)}) {
        radix_select select(1, largest ? radix_select::order::largest : radix_select::order::smallest);
        braid::cpu const be(2);
        int asked = 0;
        if (told >= 0.0) {
          select.expect(v.channels(), value_source{}, [&](std::size_t, double share) {
            ++asked;
            return share * told;
          });
        }
        CHECK(asked == (told >= 0.0 ? 1 : 0));
        while (select.next_pass([&](std::size_t, index_t n) {
          CHECK(n == elements);
          return wanted;
        })) {
          select.add(be, v.channels(), value_source{});
        }
        magnitude_cut const got = select.result(0, 0, elements);
        INFO((few ? "few magnitudes, " : "many magnitudes, ") << wanted << " of " << elements << (largest ? " largest" : " smallest")
                                                              << ", told " << told);
        CHECK(got.bits == expected.bits);
        // Where all equals are taken, the last one is any index from there on.
        CHECK((got.last == expected.last || (got.last == elements && !few)));
      }
    }
  }
}

TEST_CASE("The last magnitude that is taken is an order statistic, at both ends too", "[methods][selection]") {
  random_source random(62);
  values const v = random_values(random, false);
  std::vector<float> rising;
  for (float const x : v.element) { rising.push_back(std::abs(x)); }
  std::sort(rising.begin(), rising.end());
  auto const elements = v.rows * v.cols;
  for (index_t const wanted : {index_t{1}, elements / 4, elements - 1, elements}) {
    radix_select select(1, radix_select::order::smallest, radix_select::goal::values);
    select.expect(v.channels(), value_source{}, [&](std::size_t, double share) { return share * static_cast<double>(wanted); });
    while (select.next_pass([&](std::size_t, index_t) { return wanted; })) { select.add(braid::cpu(1), v.channels(), value_source{}); }
    CHECK(select.last_taken(0) == rising[static_cast<std::size_t>(wanted - 1)]);
  }
}
