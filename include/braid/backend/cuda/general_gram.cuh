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

/// The same in host memory.
struct host_measures {
  std::vector<float> dots;
  std::vector<std::uint8_t> differs;
  std::vector<std::uint8_t> bad;
};

/// Measures channels `first` to `first + count`. Waits.
inline host_measures measure_run(cuda const& be, device_buffer<any_rows> const& models, int experts, index_t cols, index_t first, index_t count,
                                 gram_terms const& terms, bool dots) {
  auto const pairs = static_cast<std::size_t>(tile_pair(experts, 0));
  auto const channels = static_cast<std::size_t>(count);
  device_buffer<float> const dots_there = be.make_buffer<float>(channels * pairs);
  device_buffer<std::uint8_t> const differs_there = be.make_buffer<std::uint8_t>(channels * pairs);
  device_buffer<std::uint8_t> const bad_there = be.make_buffer<std::uint8_t>(channels);
  measure_channels<<<static_cast<unsigned>(count), 256, 0, be.stream()>>>(static_cast<any_rows const*>(models.data()), experts, cols, first, terms, dots,
                                                                          measured_channels{dots_there.data(), differs_there.data(), bad_there.data()});
  check_cuda(cudaGetLastError(), "starting a measuring pass");
  return {download(be, dots_there), download(be, differs_there), download(be, bad_there)};
}

/// Where the experts of a run of channels go.
struct chosen_groups {
  std::vector<residual_code> code;  // [channels]: with a budget, what it chose
  std::vector<std::uint8_t> label;  // [channels, experts]
  std::vector<std::uint8_t> alone;  // [channels, experts]: the group is one distinct row, kept bit for bit
  std::int64_t similarity = 0;
  index_t compared = 0;
  index_t first_bad = -1;
};

/// What a device measured of one channel.
struct measured_channel {
  float const* dots;        // as the similarity compares
  float const* delta_dots;  // with a budget: of the deltas
  std::uint8_t const* differs;
  bool bad;
};

/// What a channel's clustering leaves beside its groups.
struct channel_totals {
  std::int64_t similarity = 0;
  index_t compared = 0;
};

/// The distinct rows of a channel, from which pairs of rows differ.
inline distinct_rows distinct_of(std::uint8_t const* differs, int experts) {
  distinct_rows distinct;
  for (int e = 0; e < experts; ++e) {
    int d = 0;
    while (d < distinct.count && differs[tile_pair(e, distinct.first[static_cast<std::size_t>(d)])] != 0) { ++d; }
    auto const slot = static_cast<std::size_t>(d);
    if (d == distinct.count) {
      ++distinct.count;
      distinct.first[slot] = e;
      distinct.weight[slot] = 0;
    }
    ++distinct.weight[slot];
    distinct.of_expert[static_cast<std::size_t>(e)] = d;
  }
  return distinct;
}

/// The dot product of two distinct rows.
inline float dot_of(float const* dots, distinct_rows const& distinct, int i, int j) {
  int const a = distinct.first[static_cast<std::size_t>(i)];
  int const b = distinct.first[static_cast<std::size_t>(j)];
  return dots[a > b ? tile_pair(a, b) : tile_pair(b, a)];
}

/// Their Gram matrix. @return whether its diagonal is finite
inline bool gram_of(float const* dots, distinct_rows const& distinct, std::vector<double>& gram) {
  int const n = distinct.count;
  gram.resize(static_cast<std::size_t>(n) * static_cast<std::size_t>(n));
  bool finite = true;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) { gram[static_cast<std::size_t>(i * n + j)] = static_cast<double>(dot_of(dots, distinct, i, j)); }
    finite = finite && std::isfinite(gram[static_cast<std::size_t>(i * n + i)]);
  }
  return finite;
}

/// Clusters one channel on the host, as the CPU backend does. @return whether its numbers are bad
/// @param codes  what a budget may choose
/// @param code   out, with a budget: what it chose
template <class Similarity, class Cluster>
bool cluster_measured(Similarity const& similarity, Cluster const& cluster, int groups, tensor_context const& context,
                      index_t channel, measured_channel const& measured, int experts, std::size_t element_bytes, residual_code_list const& codes,
                      std::uint8_t* label, std::uint8_t* alone, residual_code& code, channel_totals& totals) {
  distinct_rows const distinct = distinct_of(measured.differs, experts);
  int const n = distinct.count;
  int used = groups < n ? groups : n;
  std::array<int, max_experts> group;
  bool bad = measured.bad;
  channel_workspace work;
  cluster_problem problem{n, used, nullptr, distinct.weight.data(), context.stream, channel};
  bool const chooses = context.budget != nullptr && n > 1;
  if (chooses || (used != n && used != 1)) {
    bool const finite = gram_of(measured.dots, distinct, work.gram);
    bad = bad || (similarity.operand == gram_operand::deltas && !finite);
    if (chooses) {
      bool const of_deltas = gram_of(measured.delta_dots, distinct, work.delta_gram);
      bad = bad || !of_deltas;
    }
    normalise_gram(similarity, context.norms, distinct, work.gram.data());
    problem.gram = work.gram.data();
  }
  if (chooses) {
    budget_curve(similarity, cluster, problem, distinct, context.budget->importance, context.cols, element_bytes, codes, work);
    auto const choice = braid::cluster::choose(work.curve.points, context.budget->price);
    code = choice.code;
    used = problem.groups = choice.groups;
  }
  if (used == n || used == 1) {
    for (int d = 0; d < n; ++d) { group[static_cast<std::size_t>(d)] = used == 1 ? 0 : d; }
  } else {
    cluster.partition(similarity, problem, group.data());
    (void)braid::cluster::detail::checked_groups(cluster.name, n, used, group.data());
    for (int d = 0; d < n; ++d) { totals.similarity += braid::cluster::detail::row_agreement(problem, group.data(), d); }
    totals.compared += experts;
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
