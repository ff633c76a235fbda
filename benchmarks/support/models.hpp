#pragma once

#include <braid/core/philox.hpp>
#include <braid/method/grouped_tensor.hpp>

#include <string>
#include <vector>

namespace braid_bench {

/// A base and experts near it, as fine-tuning leaves them: weights of a few hundredths, deltas a hundredth of that.
template <class T>
struct models {
  braid::index_t rows;
  braid::index_t cols;
  std::vector<T> base;
  std::vector<std::vector<T>> experts;
  std::vector<std::string> names;

  models(braid::index_t r, braid::index_t c, int count) : rows(r), cols(c), base(static_cast<std::size_t>(r * c)) {
    auto const bell = [](std::uint64_t stream, std::uint64_t i) {
      braid::philox_block const b = braid::philox4x32(1, i, stream);
      double sum = 0.0;
      for (std::uint32_t const w : b.word) { sum += static_cast<double>(w) * 0x1p-32 - 0.5; }
      return static_cast<float>(sum * 1.7);  // about unit variance
    };
    for (std::size_t i = 0; i < base.size(); ++i) { base[i] = T(0.02f * bell(0, i)); }
    for (int e = 0; e < count; ++e) {
      names.push_back("expert" + std::to_string(e));
      auto& x = experts.emplace_back(base.size());
      auto const stream = static_cast<std::uint64_t>(e + 1);
      for (std::size_t i = 0; i < x.size(); ++i) { x[i] = T(static_cast<float>(base[i]) + 0.0004f * bell(stream, i)); }
    }
  }

  [[nodiscard]] braid::tensor_view<T const> base_view() const { return {base.data(), rows, cols}; }
  [[nodiscard]] std::vector<braid::expert_view<T>> expert_views() const {
    std::vector<braid::expert_view<T>> views;
    for (std::size_t e = 0; e < experts.size(); ++e) { views.push_back({names[e], {experts[e].data(), rows, cols}}); }
    return views;
  }
};

}  // namespace braid_bench
