#pragma once

/// Channels that the fused kernel doesn't take: their Gram matrices, for the host to cluster.

#include <braid/backend/cpu/channel_curve.hpp>
#include <braid/backend/cuda/any_rows.cuh>
#include <braid/backend/cuda/lane_gram.cuh>
#include <braid/cluster/detail/agreement.hpp>

#include <tbb/parallel_for.h>

#include <algorithm>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What is found of each of a run of channels.
struct measured_channels {
  float* dots;             // [channels, pairs]: of deltas, or of what `terms` makes of them
  std::uint8_t* differs;   // [channels, pairs]: whether the two rows differ
  std::uint8_t* bad;       // [channels]: whether an element isn't finite
};

/// Half a warp takes a pair of experts, its threads the 16 lanes of the one order of sums. A block takes a channel.
template <class Rows>
BRAID_KERNEL void measure_channels(Rows const* models, int experts, index_t cols, index_t first, gram_terms terms, bool dots,
                                   measured_channels out) {
  index_t const channel = first + blockIdx.x;
  int const pairs = tile_pair(experts, 0);
  int const lane = static_cast<int>(threadIdx.x) % sum_order::lanes;
  int const halves = static_cast<int>(blockDim.x) / sum_order::lanes;
  unsigned const mask = 0xFFFFu << (threadIdx.x & 16u);
  std::byte const* const base = models[0].row(channel);
  for (int place = static_cast<int>(threadIdx.x) / sum_order::lanes; place < pairs; place += halves) {
    int i = static_cast<int>((::sqrtf(8.0f * static_cast<float>(place) + 1.0f) - 1.0f) * 0.5f);
    while (tile_pair(i, 0) > place) { --i; }
    while (tile_pair(i + 1, 0) <= place) { ++i; }
    int const j = place - tile_pair(i, 0);
    Rows const& of_x = models[1 + i];
    Rows const& of_y = models[1 + j];
    std::byte const* const x_row = of_x.row(channel);
    std::byte const* const y_row = of_y.row(channel);
    float total = 0.0f;
    bool differ = false;
    for (index_t begin = 0; begin < cols; begin += sum_order::segment) {
      index_t const end = begin + sum_order::segment < cols ? begin + sum_order::segment : cols;
      float sum = 0.0f;
      for (index_t c = begin + lane; c < end; c += sum_order::lanes) {
        float x = of_x.at(x_row, c);
        float y = of_y.at(y_row, c);
        differ = differ || __float_as_uint(x) != __float_as_uint(y);
        if (!dots) { continue; }
        float const p = models[0].at(base, c);
        x = x - p;
        y = y - p;
        if (terms.signs) {
          x = sign_of(x);
          y = sign_of(y);
        }
        if (terms.root_weight != nullptr) {
          x = terms.root_weight[c] * x;
          y = terms.root_weight[c] * y;
        }
        sum = sum + x * y;
      }
#pragma unroll
      for (int width = sum_order::lanes / 2; width > 0; width /= 2) {
        sum = sum + __shfl_down_sync(mask, sum, static_cast<unsigned>(width), sum_order::lanes);
      }
      total = total + sum;
    }
    bool const any = __any_sync(mask, differ) != 0;
    if (lane == 0) {
      out.dots[static_cast<index_t>(blockIdx.x) * pairs + place] = total;
      out.differs[static_cast<index_t>(blockIdx.x) * pairs + place] = any ? 1 : 0;
    }
  }
  bool bad = false;
  for (int m = 0; m <= experts; ++m) {
    std::byte const* const row = models[m].row(channel);
    for (index_t c = threadIdx.x; c < cols; c += blockDim.x) {
      bad = bad || (__float_as_uint(models[m].at(row, c)) & 0x7F800000u) == 0x7F800000u;
    }
  }
  if (__syncthreads_or(bad) != 0) {
    if (threadIdx.x == 0) { out.bad[blockIdx.x] = 1; }
  } else if (threadIdx.x == 0) {
    out.bad[blockIdx.x] = 0;
  }
}

/// Where the experts of a run of channels go.
struct chosen_groups {
  std::vector<std::uint8_t> label;  // [channels, experts]
  std::vector<std::uint8_t> alone;  // [channels, experts]: the group is one distinct row, kept bit for bit
  std::int64_t similarity = 0;
  index_t compared = 0;
  index_t first_bad = -1;
};

/// What a device measured of one channel.
struct measured_channel {
  float const* dots;
  std::uint8_t const* differs;
  bool bad;
};

/// Clusters one channel on the host, as the CPU backend does. @return whether its numbers are bad
template <class Similarity, class Cluster>
bool cluster_measured(Similarity const& similarity, Cluster const& cluster, int groups, tensor_context const& context,
                      index_t channel, measured_channel const& measured, int experts, std::uint8_t* label, std::uint8_t* alone,
                      std::int64_t& similarity_sum, index_t& compared) {
  distinct_rows distinct;
  for (int e = 0; e < experts; ++e) {
    int d = 0;
    while (d < distinct.count && measured.differs[tile_pair(e, distinct.first[static_cast<std::size_t>(d)])] != 0) { ++d; }
    auto const slot = static_cast<std::size_t>(d);
    if (d == distinct.count) {
      ++distinct.count;
      distinct.first[slot] = e;
      distinct.weight[slot] = 0;
    }
    ++distinct.weight[slot];
    distinct.of_expert[static_cast<std::size_t>(e)] = d;
  }
  int const n = distinct.count;
  int const used = groups < n ? groups : n;
  std::array<int, max_experts> group;
  bool bad = measured.bad;
  if (used == n || used == 1) {
    for (int d = 0; d < n; ++d) { group[static_cast<std::size_t>(d)] = used == 1 ? 0 : d; }
  } else {
    std::vector<double> gram(static_cast<std::size_t>(n) * static_cast<std::size_t>(n));
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        int const a = distinct.first[static_cast<std::size_t>(i)];
        int const b = distinct.first[static_cast<std::size_t>(j)];
        gram[static_cast<std::size_t>(i * n + j)] = static_cast<double>(measured.dots[a > b ? tile_pair(a, b) : tile_pair(b, a)]);
      }
      bad = bad || (similarity.operand == gram_operand::deltas && !std::isfinite(gram[static_cast<std::size_t>(i * n + i)]));
    }
    normalise_gram(similarity, context.norms, distinct, gram.data());
    cluster_problem const problem{n, used, gram.data(), distinct.weight.data(), context.stream, channel};
    cluster.partition(similarity, problem, group.data());
    for (int d = 0; d < n; ++d) {
      int const given = group[static_cast<std::size_t>(d)];
      if (given < 0 || given >= used) {
        throw argument_error("cluster::" + std::string(cluster.name) + " gave the label " + std::to_string(given) + " where " +
                             std::to_string(used) + " groups were asked for: labels are 0 to " + std::to_string(used - 1));
      }
    }
    braid::cluster::detail::canonicalise(n, group.data());
    for (int d = 0; d < n; ++d) { similarity_sum += braid::cluster::detail::row_agreement(problem, group.data(), d); }
    compared += experts;
  }
  for (int e = 0; e < experts; ++e) {
    int const mine = group[static_cast<std::size_t>(distinct.of_expert[static_cast<std::size_t>(e)])];
    int rows = 0;
    for (int d = 0; d < n; ++d) { rows += group[static_cast<std::size_t>(d)] == mine ? 1 : 0; }
    label[e] = static_cast<std::uint8_t>(mine);
    alone[e] = rows == 1 ? 1 : 0;
  }
  return bad;
}

}  // namespace detail
BRAID_NAMESPACE_END
