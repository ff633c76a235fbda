#pragma once

/// What the single-model methods compute at one position, in float32, each step rounded as on the CPU. Arrays of a number a
/// model are as long as the kernel has room for models.

#include <braid/backend/cuda/map_kernel.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What functions without a pruning step have in common.
struct plain_function {
  static constexpr tile_layout layout = tile_layout::together;
  static constexpr bool by_row = false;
  static constexpr bool prunes = false;
  static constexpr int most = most_few_models;  // models in registers
};

/// (sum over i of coefficient[i] * x[i]) / divisor, from the left; the sum begins at +0, or with the first product.
template <int Most, bool FromZero>
struct combine_function : plain_function {
  static constexpr int most = 8;
  float coefficient[Most];
  float divisor;
  bool add_base;

  BRAID_HD float operator()(float base, float const* x, int n, index_t, index_t) const noexcept {
    float sum = x[0] * coefficient[0];
    if (FromZero) { sum = 0.0f + sum; }
    for (int i = 1; i < n; ++i) { sum = sum + x[i] * coefficient[i]; }
    if (divisor != 1.0f) { sum = sum / divisor; }
    return add_base ? base + sum : sum;
  }
};

/// The same from zero, with each product added unrounded.
template <int Most>
struct fused_combine_function : plain_function {
  float coefficient[Most];
  float divisor;

  __device__ float operator()(float, float const* x, int n, index_t, index_t) const noexcept {
    float sum = 0.0f;
    for (int i = 0; i < n; ++i) { sum = ptx::fused(x[i], coefficient[i], sum); }
    return divisor != 1.0f ? sum / divisor : sum;
  }
};

/// Coefficients of each row or of each column.
struct combine_at_function : plain_function {
  static constexpr bool by_row = true;
  float const* coefficient;
  index_t of_model;  // from a model's to the next one's
  index_t of_row;
  index_t of_col;
  bool add_base;

  BRAID_HD float operator()(float base, float const* x, int n, index_t row, index_t col) const noexcept {
    float const* const k = coefficient + row * of_row + col * of_col;
    float sum = x[0] * k[0];
    for (int i = 1; i < n; ++i) { sum = sum + x[i] * k[i * of_model]; }
    return add_base ? base + sum : sum;
  }
};

struct nearswap_function : plain_function {
  static constexpr int most = 1;
  float t;

  BRAID_HD float operator()(float base, float const* x, int n, index_t, index_t) const noexcept {
    if (n == 0) { return base; }
    float const difference = base - x[0];
    float const distance = difference < 0.0f ? -difference : difference;
    float const inverse = 1.0f / (distance > 1e-6f ? distance : 1e-6f);
    float const share = inverse * t;
    float const w = share > 0.0f ? (share < 1.0f ? share : 1.0f) : 0.0f;
    return x[0] * w + base * (1.0f - w);
  }
};

struct scaled_copy_function : plain_function {
  static constexpr int most = 1;
  float scale;

  BRAID_HD float operator()(float, float const* x, int, index_t, index_t) const noexcept { return x[0] * scale; }
};

BRAID_HD inline bool moves(float delta, float epsilon) noexcept { return (delta < 0.0f ? -delta : delta) > epsilon; }

template <int Most>
struct ram_function : plain_function {
  float epsilon;
  float factor[Most];

  BRAID_HD float operator()(float base, float const* x, int n, index_t, index_t) const noexcept {
    float movers = 0.0f;
    for (int i = 0; i < n; ++i) { movers = movers + (moves(x[i], epsilon) ? 1.0f : 0.0f); }
    float total = 0.0f;
    for (int i = 0; i < n; ++i) {
      float const alone = x[i] * factor[i];
      float const shared = x[i] / (movers > 1.0f ? movers : 1.0f);
      float const term = movers > 1.0f ? shared : alone;
      total = total + (moves(x[i], epsilon) ? term : 0.0f);
    }
    return base + total;
  }
};

/// The variance over models.
BRAID_HD inline float variance_of(float const* x, int n) noexcept {
  auto const models = static_cast<float>(n);
  float mean = 0.0f;
  for (int i = 0; i < n; ++i) { mean = mean + x[i]; }
  mean = mean / models;
  float sum = 0.0f;
  for (int i = 0; i < n; ++i) {
    float const d = x[i] - mean;
    sum = sum + d * d;
  }
  return sum / models;
}

/// Which elements SCE selects.
struct variance_selection {
  bool selects;
  magnitude_cut cut;
  index_t cols;

  BRAID_HD bool operator()(float const* x, int n, index_t row, index_t col) const noexcept {
    return !selects || cut.keeps(variance_of(x, n), row * cols + col);
  }
};

template <int Most>
struct sce_function : plain_function {
  variance_selection selected;
  float weight[Most];

  BRAID_HD float operator()(float base, float const* x, int n, index_t row, index_t col) const noexcept {
    bool const kept = selected(x, n, row, col);
    float vote = 0.0f;
    for (int i = 0; i < n; ++i) { vote = vote + (kept ? x[i] : 0.0f); }
    float total = 0.0f;
    float sum = 0.0f;
    for (int i = 0; i < n; ++i) {
      float const d = kept ? x[i] : 0.0f;
      float const along = vote >= 0.0f ? d : -d;
      float const y = d * weight[i];
      total = total + (along > 0.0f ? y : 0.0f);
      sum = sum + (along > 0.0f ? weight[i] : 0.0f);
    }
    return base + total / (sum > 1e-6f ? sum : 1e-6f);
  }
};

/// The importance of an element to Arcee Fusion.
BRAID_HD inline float importance_of(float delta, float divergence) noexcept { return (delta < 0.0f ? -delta : delta) * divergence; }

struct fusion_function : plain_function {
  static constexpr int most = 1;
  static constexpr bool by_row = true;
  float const* divergence;  // [channels]
  float threshold;

  BRAID_HD float operator()(float base, float const* x, int n, index_t row, index_t) const noexcept {
    bool const kept = n > 0 && importance_of(x[0], divergence[row]) >= threshold;
    return base + (kept ? x[0] : 0.0f);
  }
};

}  // namespace detail
BRAID_NAMESPACE_END
