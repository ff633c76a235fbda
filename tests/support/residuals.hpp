#pragma once

/// Rows encoded and decoded again, and whole tensors merged with residuals.

#include <braid/braid.hpp>
#include <braid/residual/any.hpp>

#include <cmath>
#include <random>
#include <span>
#include <vector>

namespace braid_test {

using namespace braid;

inline std::vector<residual::any> all_residuals() {
  return {residual::sign_bits<1>{}, residual::sign_bits<2>{}, residual::sign_bits<3>{},
          residual::ternary{},      residual::trellis<1>{},   residual::trellis<2>{}};
}

inline std::vector<float> gaussian(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (auto& v : x) { v = normal(engine); }
  return x;
}

struct coded {
  std::vector<std::byte> plane;
  std::vector<bfloat16> scale;
  std::vector<float> value;
};

inline coded encoded(residual::any const& r, std::vector<float> const& x, float const* weight = nullptr) {
  auto const cols = static_cast<index_t>(x.size());
  coded out;
  out.plane.resize(static_cast<std::size_t>(residual_bytes(r.code, cols)));
  out.scale.resize(static_cast<std::size_t>(residual_scales(r.code)));
  out.value.resize(x.size());
  residual_workspace work;
  work.left.resize(x.size());
  r.encode(x.data(), weight, cols, out.plane.data(), out.scale.data(), work);
  decode_residual(r.code, out.plane.data(), out.scale.data(), cols, out.value.data());
  return out;
}

inline double squared_error(std::vector<float> const& a, std::vector<float> const& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double const e = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += e * e;
  }
  return sum;
}

template <class T>
grouped_tensor<T> merged(residual::any const& r, int groups, std::vector<std::vector<T>> const& experts,
                         std::vector<T> const& base, index_t channels, index_t cols, int threads = 1, std::span<float const> weight = {}) {
  using merge = channel_merge<cpu, prune::none, similarity::cosine, cluster::exact, consensus::mean, residual::any>;
  static char const* const names[] = {"a", "b", "c", "d", "e", "f"};
  std::vector<expert_view<T>> views;
  for (std::size_t e = 0; e < experts.size(); ++e) { views.push_back({names[e], {experts[e].data(), channels, cols}}); }
  return merge{{.residual = r, .groups = groups}}(cpu{threads}, "w", {base.data(), channels, cols}, views, weight);
}

template <class T>
std::vector<T> rebuilt(grouped_tensor<T> const& g, std::size_t expert) {
  std::vector<T> out(static_cast<std::size_t>(g.channels() * g.cols()));
  g.extract(expert, {out.data(), g.channels(), g.cols()});
  return out;
}

template <class T>
double lost(grouped_tensor<T> const& g, std::vector<std::vector<T>> const& experts) {
  double sum = 0.0;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    auto const out = rebuilt(g, e);
    for (std::size_t i = 0; i < out.size(); ++i) {
      double const d = static_cast<double>(static_cast<float>(out[i])) - static_cast<double>(static_cast<float>(experts[e][i]));
      sum += d * d;
    }
  }
  return sum;
}

}  // namespace braid_test
