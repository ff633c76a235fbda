#pragma once

/// Merged tensors of random partitions, rows and residuals, which no merge has made.

#include "support/random_models.hpp"

#include <braid/method/grouped_tensor.hpp>

#include <algorithm>

namespace braid_test {

/// Rows are random numbers of the type, none of them NaN, in some tensors as large as it holds; codes are random in each row where `coded`.
template <class T>
braid::grouped_tensor<T> random_grouped(random_source& random, int experts, index_t channels, index_t cols, int most_groups, bool coded) {
  using access = braid::detail::grouped_tensor_access;
  braid::grouped_tensor<T> t;
  std::vector<std::string> names;
  for (int e = 0; e < experts; ++e) { names.push_back(std::string(1, static_cast<char>('a' + e))); }
  auto* const pool = reinterpret_cast<T*>(access::reshape(t, names, channels, cols, most_groups));
  index_t extra = 0;
  for (index_t c = 0; c < channels; ++c) {
    int used = 0;
    for (int e = 0; e < experts; ++e) {
      int const g = std::min({random.below(used + 1), most_groups - 1, used});
      used = std::max(used, g + 1);
      access::index(t)[e * channels + c] = static_cast<std::uint8_t>(g);
    }
    extra += std::max(used, 1) - 1;
  }
  double const scale = random.one_of(std::vector<double>{1.0, 1.0, 300.0, 60000.0});
  constexpr float top = braid::detail::largest_finite<T>;
  for (index_t i = 0; i < (channels + extra) * cols; ++i) { pool[i] = T(std::clamp(static_cast<float>(random.bell() * scale), -top, top)); }
  access::finish(t, extra, 0.25);
  if (!coded) { return t; }
  braid::residual_block block;
  for (index_t i = 0; i < channels * experts; ++i) {
    auto const code = static_cast<braid::residual_code>(random.below(braid::residual_codes));
    block.code.push_back(code);
    for (index_t b = 0; b < braid::residual_bytes(code, cols); ++b) { block.planes.push_back(static_cast<std::byte>(random.bits() & 255u)); }
    for (int s = 0; s < braid::residual_scales(code); ++s) {
      block.scales.push_back(braid::bfloat16(static_cast<float>(random.chance(0.1) ? 0.0 : random.unit() * scale)));
    }
  }
  std::vector<braid::bfloat16> column;
  if (random.chance(0.5)) {
    for (index_t c = 0; c < cols; ++c) { column.push_back(braid::bfloat16(static_cast<float>(0.1 + random.unit()))); }
  }
  access::place_residuals(t, {block}, column);
  return t;
}

/// The bytes of an expert's rebuilt weight.
template <class T>
std::vector<std::byte> rebuilt_bytes(braid::grouped_tensor<T> const& t, std::size_t expert) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(t.channels() * t.cols()) * sizeof(T));
  t.extract(expert, {reinterpret_cast<T*>(bytes.data()), t.channels(), t.cols()});
  return bytes;
}

}  // namespace braid_test
