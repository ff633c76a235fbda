#pragma once

/// Random weights of a base and of experts that were "trained" from it, in any storage type.

#include <braid/core/dtype.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace braid_test {

using braid::dtype;
using braid::index_t;

/// Random numbers that are the same with every standard library.
class random_source {
 public:
  explicit random_source(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t bits() { return engine_(); }
  int below(int n) { return static_cast<int>(engine_() % static_cast<std::uint64_t>(n)); }
  int between(int first, int last) { return first + below(last - first + 1); }
  double unit() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  bool chance(double p) { return unit() < p; }
  /// Bell-shaped, variance 1.
  double bell() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) { sum += unit(); }
    return sum;
  }
  template <class Container>
  auto const& one_of(Container const& c) {
    return *(std::begin(c) + below(static_cast<int>(std::size(c))));
  }
  template <class T>
  void shuffle(std::vector<T>& v) {
    for (std::size_t i = v.size(); i > 1; --i) {
      std::swap(v[i - 1], v[static_cast<std::size_t>(below(static_cast<int>(i)))]);
    }
  }

 private:
  std::mt19937_64 engine_;
};

/// Widths at which kernels change what they do: vectors, lanes, segments, and their tails.
inline constexpr index_t telling_widths[] = {0, 1, 2, 7, 15, 16, 17, 31, 33, 64, 511, 512, 513, 1024 + 3};

inline index_t random_cols(random_source& random) {
  return random.chance(0.6) ? random.one_of(telling_widths) : random.between(1, 1500);
}

/// Element `i` of memory of that type, exactly widened.
inline float load(dtype type, std::byte const* memory, index_t i) {
  auto const at = [&]<class T>(T value) {
    std::memcpy(&value, memory + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
    return static_cast<float>(value);
  };
  switch (type) {
    case dtype::f16: return at(braid::float16{});
    case dtype::bf16: return at(braid::bfloat16{});
    case dtype::f8_e4m3: return at(braid::float8_e4m3{});
    case dtype::f8_e5m2: return at(braid::float8_e5m2{});
    default: return at(0.0f);
  }
}

/// Rounds once, to nearest even.
inline void store(dtype type, float x, std::byte* memory, index_t i) {
  auto const put = [&]<class T>(T value) {
    std::memcpy(memory + static_cast<std::size_t>(i) * sizeof(T), &value, sizeof(T));
  };
  switch (type) {
    case dtype::f16: return put(braid::float16(x));
    case dtype::bf16: return put(braid::bfloat16(x));
    case dtype::f8_e4m3: return put(braid::float8_e4m3(x));
    case dtype::f8_e5m2: return put(braid::float8_e5m2(x));
    default: return put(x);
  }
}

/// A matrix that owns its memory. Rows are `stride` elements apart; what lies between them is never read.
struct matrix {
  dtype type = dtype::f32;
  index_t rows = 0;
  index_t cols = 0;
  index_t stride = 0;
  std::vector<std::byte> memory;

  matrix() = default;
  matrix(dtype t, index_t r, index_t c, index_t row_stride = -1)
      : type(t),
        rows(r),
        cols(c),
        stride(row_stride < 0 ? c : row_stride),
        memory(static_cast<std::size_t>(r * stride) * braid::size_of(t), std::byte{0xFF}) {}

  [[nodiscard]] std::byte* row(index_t r) {
    return memory.data() + static_cast<std::size_t>(r * stride) * braid::size_of(type);
  }
  [[nodiscard]] std::byte const* row(index_t r) const {
    return memory.data() + static_cast<std::size_t>(r * stride) * braid::size_of(type);
  }
  [[nodiscard]] std::size_t row_bytes() const { return static_cast<std::size_t>(cols) * braid::size_of(type); }
  [[nodiscard]] float at(index_t r, index_t c) const { return load(type, row(r), c); }
  void set(index_t r, index_t c, float x) { store(type, x, row(r), c); }
  void copy_row(index_t r, matrix const& from) {
    if (row_bytes() > 0) { std::memcpy(row(r), from.row(r), row_bytes()); }
  }
  [[nodiscard]] bool same_row(index_t r, matrix const& other) const {
    return row_bytes() == 0 || std::memcmp(row(r), other.row(r), row_bytes()) == 0;
  }
  /// All rows, one after the other.
  [[nodiscard]] std::vector<std::byte> packed() const {
    std::vector<std::byte> all;
    all.reserve(static_cast<std::size_t>(rows) * row_bytes());
    for (index_t r = 0; r < rows; ++r) { all.insert(all.end(), row(r), row(r) + row_bytes()); }
    return all;
  }
};

/// The same elements with gaps between rows, filled with bits that are NaN in every type.
inline matrix with_gaps(matrix const& m, index_t gap) {
  matrix wide(m.type, m.rows, m.cols, m.cols + gap);
  for (index_t r = 0; r < m.rows; ++r) { wide.copy_row(r, m); }
  return wide;
}

struct expert_model {
  std::string name;
  matrix weight;
};

/// One tensor of a base and its experts, which are in name order.
struct family {
  std::string tensor = "layers.3.mlp.up_proj.weight";
  matrix base;
  std::vector<expert_model> experts;
};

/// Names whose order is their number.
inline std::string expert_name(int number) {
  std::string s = std::to_string(number);
  return "expert-" + std::string(3 - s.size(), '0') + s;
}

/// Experts that move in some rows together, in others alone, and sometimes not at all; some of their rows are equal
/// bit for bit, or are zeros, or are tiny.
inline family random_family(random_source& random, dtype type, index_t rows, index_t cols, int experts) {
  double const unit = type == dtype::f8_e4m3 || type == dtype::f8_e5m2 ? 1.0 : 0.05;
  double const step = type == dtype::f32 || type == dtype::f16 || type == dtype::bf16 ? 0.15 * unit : 0.5 * unit;
  family f;
  f.base = matrix(type, rows, cols);
  for (int e = 0; e < experts; ++e) { f.experts.push_back({expert_name(e), matrix(type, rows, cols)}); }
  std::vector<float> direction(static_cast<std::size_t>(experts * cols));
  for (index_t r = 0; r < rows; ++r) {
    double const scale = random.chance(0.06) ? 1e-39 : 1.0;  // subnormal in most types
    for (index_t c = 0; c < cols; ++c) {
      double const x = random.chance(0.02) ? (random.chance(0.5) ? 0.0 : -0.0) : unit * random.bell();
      f.base.set(r, c, static_cast<float>(x * scale));
    }
    int const directions = random.between(1, experts);
    for (float& d : direction) { d = static_cast<float>(random.bell()); }
    for (int e = 0; e < experts; ++e) {
      matrix& w = f.experts[static_cast<std::size_t>(e)].weight;
      double const kind = random.unit();
      if (kind < 0.05) {
        w.copy_row(r, f.base);
      } else if (kind < 0.12 && e > 0) {
        w.copy_row(r, f.experts[static_cast<std::size_t>(random.below(e))].weight);
      } else {
        int const along = random.below(directions);
        double const length = step * (0.3 + random.unit());
        for (index_t c = 0; c < cols; ++c) {
          double const move = length * (static_cast<double>(direction[static_cast<std::size_t>(along * cols + c)]) +
                                        0.5 * random.bell());
          w.set(r, c, static_cast<float>(static_cast<double>(f.base.at(r, c)) + move * scale));
        }
      }
    }
  }
  return f;
}

/// Any bits that aren't NaN or infinity: signed zeros, subnormals, huge values.
inline void fill_with_any_finite(random_source& random, matrix& m) {
  for (index_t r = 0; r < m.rows; ++r) {
    for (index_t c = 0; c < m.cols; ++c) {
      do {
        std::uint64_t const bits = random.bits();
        std::memcpy(m.row(r) + static_cast<std::size_t>(c) * braid::size_of(m.type), &bits, braid::size_of(m.type));
        if (random.chance(0.1)) { m.set(r, c, random.chance(0.5) ? 0.0f : -0.0f); }
      } while (!std::isfinite(m.at(r, c)));
    }
  }
}

}  // namespace braid_test
