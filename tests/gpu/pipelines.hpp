#pragma once

/// Channel merges of every kind on one backend: compiled once for braid::cpu and once for braid::cuda, with the same
/// sources, and compared bit for bit.

#include "support/pipelines.hpp"

#include <braid/cluster/any.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/consensus/ties.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/dare.hpp>
#include <braid/prune/magnitude.hpp>
#include <braid/prune/magprune.hpp>
#include <braid/prune/none.hpp>
#include <braid/similarity/any.hpp>

namespace braid_test {

/// A family's merge, with a weight for each column or none. Exceptions of the library pass through.
merged_family merge_on_cpu(recipe const& r, family const& f, std::vector<float> const& column_weight = {});
merged_family merge_on_device(recipe const& r, family const& f, std::vector<float> const& column_weight = {});

/// Merges that mix storage types, through the operation itself: pool and labels.
struct mixed_result {
  std::vector<std::byte> pool;
  std::vector<std::uint8_t> label;
  friend bool operator==(mixed_result const&, mixed_result const&) = default;
};
mixed_result merge_mixed_on_cpu(recipe const& r, family const& f, dtype out);
mixed_result merge_mixed_on_device(recipe const& r, family const& f, dtype out);

/// The device's merges of one pipeline each; gpu/on_device.cu is compiled once for every one.
template <pipeline Method>
merged_family merge_one_on_device(recipe const& r, family const& f, std::vector<float> const& column_weight);
template <pipeline Method>
mixed_result merge_one_mixed_on_device(recipe const& r, family const& f, dtype out);

/// The executor's own operations; each returns what it found.
std::vector<float> doubled_on_device(std::vector<float> const& x);
std::string message_of_device(int number);

inline braid::similarity::any similarity_of(recipe const& r) {
  switch (r.similarity) {
    case metric::euclidean: return braid::similarity::euclidean{};
    case metric::balanced: return braid::similarity::balanced{};
    case metric::sign: return braid::similarity::sign{};
    default: return braid::similarity::cosine{};
  }
}

inline braid::cluster::any cluster_of(recipe const& r) {
  switch (r.cluster) {
    case clustering::kmeans: return braid::cluster::kmeans{.seed = r.seed};
    case clustering::agglomerative: return braid::cluster::agglomerative{};
    case clustering::random: return braid::cluster::random{.seed = r.seed};
    default: return braid::cluster::exact{};
  }
}

/// Calls `f(method)` with the method of one pipeline that the recipe describes.
template <class Backend, pipeline Method, class F>
auto with_one_method(recipe const& r, F const& f) {
  namespace prune = braid::prune;
  namespace consensus = braid::consensus;
  auto const make = [&]<class Prune, class Consensus>(Prune p, Consensus) {
    using method = braid::channel_merge<Backend, Prune, braid::similarity::any, braid::cluster::any, Consensus>;
    typename method::options o;
    o.prune = p;
    o.similarity = similarity_of(r);
    o.cluster = cluster_of(r);
    o.groups = r.groups;
    o.lambda = r.lambda;
    o.allow_nonfinite = r.allow_nonfinite;
    return f(method(o));
  };
  if constexpr (Method == pipeline::none_sum) {
    return make(prune::none{}, consensus::sum{});
  } else if constexpr (Method == pipeline::dare_sum) {
    return make(prune::dare{.density = r.density, .seed = r.seed}, consensus::sum{});
  } else if constexpr (Method == pipeline::magnitude_ties) {
    return make(prune::magnitude{.density = r.density}, consensus::ties{});
  } else if constexpr (Method == pipeline::magnitude_rows_ties_sum) {
    return make(prune::magnitude_rows{.density = r.density}, consensus::ties_sum{});
  } else if constexpr (Method == pipeline::magprune_mean) {
    return make(prune::magprune{.density = r.density, .epsilon = r.epsilon, .seed = r.seed}, consensus::mean{});
  } else {
    return make(prune::none{}, consensus::mean{});
  }
}

/// Calls `f(std::integral_constant)` with the recipe's pipeline.
template <class F>
auto with_pipeline(recipe const& r, F const& f) {
  switch (r.method) {
    case pipeline::none_sum: return f(std::integral_constant<pipeline, pipeline::none_sum>{});
    case pipeline::dare_sum: return f(std::integral_constant<pipeline, pipeline::dare_sum>{});
    case pipeline::magnitude_ties: return f(std::integral_constant<pipeline, pipeline::magnitude_ties>{});
    case pipeline::magnitude_rows_ties_sum: return f(std::integral_constant<pipeline, pipeline::magnitude_rows_ties_sum>{});
    case pipeline::magprune_mean: return f(std::integral_constant<pipeline, pipeline::magprune_mean>{});
    default: return f(std::integral_constant<pipeline, pipeline::none_mean>{});
  }
}

/// Everything that a tensor in host memory says.
template <class T>
merged_family describe(braid::grouped_tensor<T> const& merged) {
  merged_family out{merged.experts(), merged.channels(), merged.cols(), merged.pool_rows(), merged.similarity(), {}, {}, {}, {}};
  auto const pool = merged.pool();
  auto const* const bytes = reinterpret_cast<std::byte const*>(pool.data_handle());
  out.pool.assign(bytes, bytes + static_cast<std::size_t>(pool.size()) * sizeof(T));
  out.label.resize(static_cast<std::size_t>(merged.channels()));
  for (std::size_t e = 0; e < out.experts.size(); ++e) {
    for (index_t c = 0; c < merged.channels(); ++c) { out.label[static_cast<std::size_t>(c)].push_back(merged.group(e, c)); }
    out.rows.push_back(merged.rows(e));
    matrix rebuilt(braid::dtype_of<T>, merged.channels(), merged.cols());
    merged.extract(e, {reinterpret_cast<T*>(rebuilt.memory.data()), merged.channels(), merged.cols()});
    out.rebuilt.push_back(std::move(rebuilt.memory));
  }
  return out;
}

template <class F>
auto with_type(dtype t, F const& f) {
  switch (t) {
    case dtype::f16: return f(braid::float16{});
    case dtype::bf16: return f(braid::bfloat16{});
    case dtype::f8_e4m3: return f(braid::float8_e4m3{});
    case dtype::f8_e5m2: return f(braid::float8_e5m2{});
    default: return f(0.0f);
  }
}

/// What the operation takes: a tensor's description, with `data` put where `place` says.
template <class Place>
braid::tensor_channels channels_of(family const& f, dtype out, Place const& place) {
  braid::tensor_channels t;
  t.channels = f.base.rows;
  t.cols = f.base.cols;
  t.out = out;
  auto const rows = [&](matrix const& m) {
    return braid::channel_rows{place(m), m.type, m.stride * static_cast<index_t>(braid::size_of(m.type))};
  };
  t.base = rows(f.base);
  for (auto const& e : f.experts) { t.experts.push_back(rows(e.weight)); }
  return t;
}

}  // namespace braid_test
