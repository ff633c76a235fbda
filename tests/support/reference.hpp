#pragma once

/// Channel Merging in the plainest code, after the words of docs/design.md and of the policies' documentation: no
/// blocks, no distinct rows, no sets of experts; every partition is tried by writing it down. What the library computes
/// is compared with this, bit for bit.

#include "support/random_models.hpp"
#include "support/recipe.hpp"

#include <braid/core/hash.hpp>
#include <braid/core/philox.hpp>

#include <algorithm>
#include <functional>
#include <numeric>

namespace braid_test {

/// The one order of sums: segments of 512 columns, in each 16 lanes and a tree.
inline float ordered_sum(index_t cols, std::function<float(index_t)> const& term) {
  float total = 0.0f;
  for (index_t segment = 0; segment < cols; segment += 512) {
    float lane[16] = {};
    for (index_t c = segment; c < std::min(cols, segment + 512); ++c) { lane[c % 16] = lane[c % 16] + term(c); }
    for (int half : {8, 4, 2, 1}) {
      for (int l = 0; l < half; ++l) { lane[l] = lane[l] + lane[l + half]; }
    }
    total = total + lane[0];
  }
  return total;
}

/// The experts' deltas of one channel, [expert][column].
using deltas = std::vector<std::vector<float>>;

inline deltas channel_deltas(family const& f, index_t row) {
  deltas all;
  for (auto const& e : f.experts) {
    auto& d = all.emplace_back();
    for (index_t c = 0; c < f.base.cols; ++c) { d.push_back(e.weight.at(row, c) - f.base.at(row, c)); }
  }
  return all;
}

// ---- scores ----

/// Lengths of the deltas over the whole tensor, in double.
inline std::vector<double> tensor_norms(family const& f) {
  std::vector<double> norms(f.experts.size(), 0.0);
  for (index_t r = 0; r < f.base.rows; ++r) {
    deltas const d = channel_deltas(f, r);
    for (std::size_t e = 0; e < d.size(); ++e) {
      for (float const x : d[e]) { norms[e] += static_cast<double>(x) * static_cast<double>(x); }
    }
  }
  for (double& n : norms) { n = std::sqrt(n); }
  return norms;
}

/// The vectors that a similarity compares, in double: unit vectors, signs' unit vectors, deltas, or balanced deltas.
inline std::vector<std::vector<double>> compared_vectors(metric m, deltas const& d, std::vector<double> const& norms) {
  std::vector<std::vector<double>> vectors;
  for (std::size_t e = 0; e < d.size(); ++e) {
    auto& v = vectors.emplace_back(d[e].begin(), d[e].end());
    if (m == metric::sign) {
      for (double& x : v) { x = x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : 0.0; }
    }
    double length = 0.0;
    for (double const x : v) { length += x * x; }
    length = m == metric::euclidean ? 1.0 : m == metric::balanced ? norms[e] : std::sqrt(length);
    for (double& x : v) { x = length > 0.0 ? x / length : 0.0; }
  }
  return vectors;
}

/// Dot products [n][n] in double.
inline std::vector<std::vector<double>> gram_of(std::vector<std::vector<double>> const& v) {
  std::vector<std::vector<double>> g(v.size(), std::vector<double>(v.size()));
  for (std::size_t i = 0; i < v.size(); ++i) {
    for (std::size_t j = 0; j < v.size(); ++j) {
      g[i][j] = std::inner_product(v[i].begin(), v[i].end(), v[j].begin(), 0.0);
    }
  }
  return g;
}

/// What clustering maximises, from the vectors' dot products: the sum over groups of the length of the members' sum, or
/// minus their squared error.
inline double partition_score(metric m, std::vector<std::vector<double>> const& gram, std::vector<int> const& label) {
  int const groups = label.empty() ? 0 : 1 + *std::max_element(label.begin(), label.end());
  bool const angular = m == metric::cosine || m == metric::sign;
  double score = 0.0;
  for (int g = 0; g < groups; ++g) {
    double total = 0.0;
    double trace = 0.0;
    double size = 0.0;
    for (std::size_t i = 0; i < label.size(); ++i) {
      if (label[i] != g) { continue; }
      trace += gram[i][i];
      size += 1.0;
      for (std::size_t j = 0; j < label.size(); ++j) { total += label[j] == g ? gram[i][j] : 0.0; }
    }
    score += angular ? std::sqrt(std::max(total, 0.0)) : total / size - trace;
  }
  return score;
}

/// Every partition of n things into exactly `groups` groups, labels in lexicographic order and numbered by first
/// appearance.
inline void for_each_partition(int n, int groups, std::function<void(std::vector<int> const&)> const& f) {
  std::vector<int> label(static_cast<std::size_t>(n));
  std::function<void(int, int)> const place = [&](int i, int used) {
    if (i == n) {
      if (used == groups) { f(label); }
      return;
    }
    for (int g = 0; g <= used && g < groups; ++g) {
      label[static_cast<std::size_t>(i)] = g;
      place(i + 1, std::max(used, g + 1));
    }
  };
  place(0, 0);
}

/// Equal rows have equal numbers, by first appearance.
inline std::vector<int> distinct_numbers(family const& f, index_t row) {
  std::vector<int> number;
  int next = 0;
  for (std::size_t e = 0; e < f.experts.size(); ++e) {
    std::size_t same = 0;
    while (!f.experts[same].weight.same_row(row, f.experts[e].weight)) { ++same; }
    number.push_back(same < e ? number[same] : next++);
  }
  return number;
}

inline int count_distinct(std::vector<int> const& number) {
  return number.empty() ? 0 : 1 + *std::max_element(number.begin(), number.end());
}

/// A channel's Gram matrix as a similarity scales it. The dot products are the library's documented float32 sums; all
/// else is in double.
inline std::vector<std::vector<double>> channel_gram(metric m, deltas const& d, std::vector<double> const& norms) {
  std::vector<std::vector<double>> gram(d.size(), std::vector<double>(d.size()));
  auto const cols = static_cast<index_t>(d.empty() ? 0 : d[0].size());
  for (std::size_t i = 0; i < d.size(); ++i) {
    for (std::size_t j = 0; j < d.size(); ++j) {
      gram[i][j] = static_cast<double>(ordered_sum(cols, [&](index_t c) {
        auto const at = static_cast<std::size_t>(c);
        auto const sign = [](float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; };
        return m == metric::sign ? sign(d[i][at]) * sign(d[j][at]) : d[i][at] * d[j][at];
      }));
    }
  }
  auto scaled = gram;
  for (std::size_t i = 0; i < d.size(); ++i) {
    for (std::size_t j = 0; j < d.size(); ++j) {
      auto const length = [&](std::size_t k) { return m == metric::balanced ? norms[k] : std::sqrt(gram[k][k]); };
      double const lengths = m == metric::euclidean ? 1.0 : length(i) * length(j);
      scaled[i][j] = lengths > 0.0 ? gram[i][j] / lengths : 0.0;
    }
  }
  return scaled;
}

/// The best partition of a channel: of all into exactly min(K, distinct rows) groups that leave equal rows together,
/// the one of largest score; of equal scores the first.
inline std::vector<int> best_labels(recipe const& r, family const& f, index_t row, std::vector<double> const& norms) {
  auto const number = distinct_numbers(f, row);
  auto const gram = channel_gram(r.similarity, channel_deltas(f, row), norms);
  double trace = 0.0;
  for (std::size_t i = 0; i < gram.size(); ++i) { trace += gram[i][i]; }
  std::vector<int> best;
  double best_score = 0.0;
  auto const n = static_cast<int>(f.experts.size());
  for_each_partition(n, std::min(r.groups, count_distinct(number)), [&](std::vector<int> const& label) {
    for (std::size_t i = 0; i < label.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        if (number[i] == number[j] && label[i] != label[j]) { return; }
      }
    }
    double const score = partition_score(r.similarity, gram, label);
    if (best.empty() || score > best_score + 1e-14 * trace) {  // beyond rounding
      best = label;
      best_score = score;
    }
  });
  return best;
}

// ---- pruning ----

/// Positions of `values` by falling magnitude; of equal ones the lower first.
inline std::vector<index_t> by_magnitude(std::vector<float> const& values) {
  std::vector<index_t> order(values.size());
  std::iota(order.begin(), order.end(), index_t{0});
  std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
    return std::abs(values[static_cast<std::size_t>(a)]) > std::abs(values[static_cast<std::size_t>(b)]);
  });
  return order;
}

inline std::vector<float> keep_largest(std::vector<float> const& values, index_t keep) {
  std::vector<float> kept(values.size(), 0.0f);
  auto const order = by_magnitude(values);
  for (index_t i = 0; i < keep; ++i) {
    auto const at = static_cast<std::size_t>(order[static_cast<std::size_t>(i)]);
    kept[at] = values[at];
  }
  return kept;
}

/// One expert's whole delta after pruning, row by row.
inline std::vector<float> pruned_delta(recipe const& r, family const& f, std::size_t expert) {
  index_t const rows = f.base.rows;
  index_t const cols = f.base.cols;
  std::vector<float> delta;
  for (index_t row = 0; row < rows; ++row) {
    for (index_t c = 0; c < cols; ++c) { delta.push_back(f.experts[expert].weight.at(row, c) - f.base.at(row, c)); }
  }
  std::uint64_t const stream = braid::stream_hash(f.tensor, f.experts[expert].name);
  auto const word = [&](std::size_t element) {
    return static_cast<double>(braid::philox_element(r.seed, stream, element));
  };
  auto const of_65536 = [](double p) { return p > 0.0 ? std::max(1.0, std::floor(p * 65536.0 + 0.5)) : 0.0; };
  auto const kept_of = [&](index_t n) { return static_cast<index_t>(std::floor(r.density * static_cast<double>(n))); };
  auto const row_of = [&](index_t row) {
    return std::vector<float>(delta.begin() + row * cols, delta.begin() + (row + 1) * cols);
  };
  switch (r.method) {
    case pipeline::none_mean:
    case pipeline::none_sum: return delta;
    case pipeline::dare_sum:
      for (std::size_t i = 0; i < delta.size(); ++i) {
        double const below = of_65536(r.density);
        delta[i] = word(i) < below ? delta[i] * static_cast<float>(1.0 / (below / 65536.0)) : 0.0f;
      }
      return delta;
    case pipeline::magnitude_ties: return keep_largest(delta, kept_of(rows * cols));
    case pipeline::magnitude_rows_ties_sum:
      for (index_t row = 0; row < rows; ++row) {
        auto const kept = keep_largest(row_of(row), kept_of(cols));
        std::copy(kept.begin(), kept.end(), delta.begin() + row * cols);
      }
      return delta;
    case pipeline::magprune_mean:
      for (index_t row = 0; row < rows; ++row) {
        auto const values = row_of(row);
        std::vector<float> rising;
        for (float const x : values) { rising.push_back(std::abs(x)); }
        std::sort(rising.begin(), rising.end());
        for (index_t i = 0; i < cols; ++i) {
          auto const at = static_cast<std::size_t>(row * cols + i);
          auto const equals = std::equal_range(rising.begin(), rising.end(), std::abs(values[static_cast<std::size_t>(i)]));
          // Equals share the mean of their ranks, from the first one's to the last one's.
          auto const rank = static_cast<float>((equals.first - rising.begin()) + (equals.second - rising.begin()) - 1) / 2.0f;
          double const low = cols == 1 ? r.density : r.density - r.epsilon;
          double const rise = cols == 1 ? 0.0 : 2.0 * r.epsilon / static_cast<double>(cols - 1);
          float const p = std::min(static_cast<float>(low) + static_cast<float>(rise) * rank, 1.0f);
          double const below = of_65536(static_cast<double>(p));
          delta[at] = word(at) < below ? delta[at] / static_cast<float>(below / 65536.0) : 0.0f;
        }
      }
      return delta;
  }
  return delta;
}

// ---- consensus ----

inline float agree(pipeline method, std::vector<float> const& member) {
  float sum = member[0];
  for (std::size_t i = 1; i < member.size(); ++i) { sum = sum + member[i]; }
  if (method == pipeline::none_sum || method == pipeline::dare_sum) { return sum; }
  if (method == pipeline::none_mean || method == pipeline::magprune_mean) {
    return sum / static_cast<float>(member.size());
  }
  float along = 0.0f;
  float voters = 0.0f;
  for (float const x : member) {
    if (sum >= 0.0f ? x > 0.0f : x < 0.0f) {
      along = along + x;
      voters = voters + 1.0f;
    }
  }
  return method == pipeline::magnitude_ties && voters > 0.0f ? along / voters : along;
}

// ---- all of it ----

/// Every expert's row of every channel after a merge with these labels, as stored: [channel][group] -> bytes.
inline std::vector<std::vector<std::vector<std::byte>>> merged_rows(
    recipe const& r, family const& f, std::vector<std::vector<int>> const& label_of_channel, dtype out) {
  std::vector<std::vector<float>> pruned;
  for (std::size_t e = 0; e < f.experts.size(); ++e) { pruned.push_back(pruned_delta(r, f, e)); }
  std::size_t const size = braid::size_of(out);
  std::vector<std::vector<std::vector<std::byte>>> rows;
  for (index_t channel = 0; channel < f.base.rows; ++channel) {
    auto const& label = label_of_channel[static_cast<std::size_t>(channel)];
    auto& groups = rows.emplace_back();
    int const count = 1 + *std::max_element(label.begin(), label.end());
    for (int g = 0; g < count; ++g) {
      std::vector<std::size_t> members;
      for (std::size_t e = 0; e < label.size(); ++e) {
        if (label[e] == g) { members.push_back(e); }
      }
      matrix const& first = f.experts[members[0]].weight;
      bool const alone = std::all_of(members.begin(), members.end(),
                                     [&](std::size_t e) { return f.experts[e].weight.same_row(channel, first); });
      auto& row = groups.emplace_back(static_cast<std::size_t>(f.base.cols) * size);
      for (index_t c = 0; c < f.base.cols; ++c) {
        if (alone && first.type == out) {
          std::memcpy(row.data() + static_cast<std::size_t>(c) * size,
                      first.row(channel) + static_cast<std::size_t>(c) * size, size);
          continue;
        }
        std::vector<float> values;
        for (std::size_t const e : members) {
          values.push_back(pruned[e][static_cast<std::size_t>(channel * f.base.cols + c)]);
        }
        float const x = alone ? first.at(channel, c) : f.base.at(channel, c) + r.lambda * agree(r.method, values);
        store(out, x, row.data(), c);
      }
    }
  }
  return rows;
}

}  // namespace braid_test
