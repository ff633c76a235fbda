// No tests: the one place where the pipelines of support/pipelines.hpp are compiled.

#include "support/pipelines.hpp"
#include "support/own_policies.hpp"
#include "support/threads.hpp"

#include <braid/cluster/any.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/consensus/ties.hpp>
#include <braid/engine/run.hpp>
#include <braid/io/grouped_checkpoint.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/dare.hpp>
#include <braid/prune/magnitude.hpp>
#include <braid/prune/magprune.hpp>
#include <braid/prune/none.hpp>
#include <braid/similarity/any.hpp>

namespace braid_test {
namespace {

template <class Prune, class Consensus>
using method = braid::channel_merge<braid::cpu, Prune, braid::similarity::any, braid::cluster::any, Consensus>;

braid::similarity::any similarity_of(recipe const& r) {
  switch (r.similarity) {
    case metric::euclidean: return braid::similarity::euclidean{};
    case metric::balanced: return braid::similarity::balanced{};
    case metric::sign: return braid::similarity::sign{};
    default: return braid::similarity::cosine{};
  }
}

braid::cluster::any cluster_of(recipe const& r) {
  switch (r.cluster) {
    case clustering::kmeans: return braid::cluster::kmeans{.seed = r.seed};
    case clustering::agglomerative: return braid::cluster::agglomerative{};
    case clustering::random: return braid::cluster::random{.seed = r.seed};
    default: return braid::cluster::exact{};
  }
}

template <class Prune, class Consensus>
method<Prune, Consensus> make(recipe const& r, Prune prune) {
  typename method<Prune, Consensus>::options o;
  o.prune = prune;
  o.similarity = similarity_of(r);
  o.cluster = cluster_of(r);
  o.groups = r.groups;
  o.lambda = r.lambda;
  o.allow_nonfinite = r.allow_nonfinite;
  return method<Prune, Consensus>(o);
}

template <class T, class Method>
merged_family merge_as(Method const& m, family const& f, int threads) {
  auto const view = [](matrix const& w) {
    return braid::tensor_view<T const>(reinterpret_cast<T const*>(w.memory.data()), w.rows, w.cols, w.stride);
  };
  std::vector<braid::expert_view<T>> experts;
  for (auto const& e : f.experts) { experts.push_back({e.name, view(e.weight)}); }
  braid::grouped_tensor<T> const merged = m(braid::cpu(threads), f.tensor, view(f.base), experts);

  merged_family out{
      merged.experts(), merged.channels(), merged.cols(), merged.pool_rows(), merged.similarity(), {}, {}, {}, {}};
  auto const pool = merged.pool();
  auto const* const bytes = reinterpret_cast<std::byte const*>(pool.data_handle());
  out.pool.assign(bytes, bytes + static_cast<std::size_t>(pool.size()) * sizeof(T));
  out.label.resize(static_cast<std::size_t>(merged.channels()));
  for (std::size_t e = 0; e < out.experts.size(); ++e) {
    for (index_t c = 0; c < merged.channels(); ++c) {
      out.label[static_cast<std::size_t>(c)].push_back(merged.group(e, c));
    }
    out.rows.push_back(merged.rows(e));
    matrix rebuilt(braid::dtype_of<T>, merged.channels(), merged.cols());
    merged.extract(e, {reinterpret_cast<T*>(rebuilt.memory.data()), merged.channels(), merged.cols()});
    out.rebuilt.push_back(std::move(rebuilt.memory));
  }
  return out;
}

/// Calls `f` with the method that the recipe describes.
template <class F>
auto with_method(recipe const& r, F const& f) {
  namespace prune = braid::prune;
  namespace consensus = braid::consensus;
  switch (r.method) {
    case pipeline::none_sum: return f(make<prune::none, consensus::sum>(r, {}));
    case pipeline::dare_sum: return f(make<prune::dare, consensus::sum>(r, {.density = r.density, .seed = r.seed}));
    case pipeline::magnitude_ties: return f(make<prune::magnitude, consensus::ties>(r, {.density = r.density}));
    case pipeline::magnitude_rows_ties_sum:
      return f(make<prune::magnitude_rows, consensus::ties_sum>(r, {.density = r.density}));
    case pipeline::magprune_mean:
      return f(make<prune::magprune, consensus::mean>(r, {.density = r.density, .epsilon = r.epsilon, .seed = r.seed}));
    default: return f(make<prune::none, consensus::mean>(r, {}));
  }
}

}  // namespace

merged_family merge(recipe const& r, family const& f, int threads) {
  allow_many_threads();
  if (f.base.type == dtype::bf16) {
    return with_method(r, [&](auto const& m) { return merge_as<braid::bfloat16>(m, f, threads); });
  }
  auto const m = make<braid::prune::none, braid::consensus::mean>(r, {});
  switch (f.base.type) {
    case dtype::f16: return merge_as<braid::float16>(m, f, threads);
    case dtype::f8_e4m3: return merge_as<braid::float8_e4m3>(m, f, threads);
    case dtype::f8_e5m2: return merge_as<braid::float8_e5m2>(m, f, threads);
    default: return merge_as<float>(m, f, threads);
  }
}

braid::report run_on_disk(recipe const& r, std::filesystem::path const& base, std::vector<expert_path> const& experts,
                          std::filesystem::path const& out, disk_options const& options) {
  allow_many_threads();
  std::vector<braid::rule> rules;
  for (auto const& [what, pattern] : options.rules) {
    rules.push_back({pattern, what == "merge"  ? braid::action::merge
                              : what == "base" ? braid::action::from_base
                                               : braid::action::keep});
  }
  std::vector<braid::axis_rule> axes;
  for (auto const& [pattern, axis] : options.axes) { axes.push_back({pattern, axis}); }
  braid::run_options run;
  run.tensors = braid::selection(std::move(rules), std::move(axes));
  run.out_dtype = options.out;
  run.max_shard_bytes = options.max_shard_bytes;
  run.overwrite = options.overwrite;
  run.hash_inputs = options.hash_inputs;
  run.block_rows = options.block_rows;
  run.on_progress = options.on_progress;
  std::vector<braid::checkpoint> opened;
  for (auto const& e : experts) { opened.emplace_back(e.path, e.name); }
  braid::checkpoint const from(base);
  braid::cpu const be(options.threads);
  return with_method(r, [&](auto const& m) { return braid::run(m, from, opened, out, run, be); });
}

braid::report run_own_policies(float least, int groups, std::filesystem::path const& base,
                               std::vector<expert_path> const& experts, std::filesystem::path const& out) {
  using own_merge = braid::channel_merge<braid::cpu, own::threshold, own::shared_length, own::leaders, own::strongest>;
  std::vector<braid::checkpoint> opened;
  for (auto const& e : experts) { opened.emplace_back(e.path, e.name); }
  return braid::run(own_merge{{.prune = {.least = least}, .groups = groups}}, braid::checkpoint(base), opened, out);
}

grouped_contents read_grouped(std::filesystem::path const& dir) {
  braid::grouped_checkpoint const g(dir);
  grouped_contents all;
  all.experts = g.experts();
  all.description = g.description().dump();
  all.stored_bytes = g.stored_bytes();
  all.expert_bytes = g.expert_bytes();
  auto const copy = [](std::span<std::byte const> s) { return std::vector<std::byte>(s.begin(), s.end()); };
  for (auto const& t : g.tensors()) {
    grouped_contents::tensor x{t.type,
                               t.shape,
                               t.channels,
                               t.row_elements,
                               t.axis,
                               t.action,
                               t.similarity,
                               copy(g.first_rows(t.name)),
                               copy(g.extra_rows(t.name)),
                               {},
                               {},
                               {}};
    for (std::size_t e = 0; e < all.experts.size(); ++e) {
      bool const has = g.has(e, t.name);
      x.rows.push_back(has ? g.rows(t.name, e) : std::vector<std::int32_t>{});
      x.shapes.push_back(has ? g.shape(e, t.name) : std::vector<index_t>{});
      x.rebuilt.push_back(has ? read_tensor(dir, all.experts[e], t.name) : std::vector<std::byte>{});
    }
    all.tensors.emplace(t.name, std::move(x));
  }
  return all;
}

std::vector<std::byte> read_tensor(std::filesystem::path const& dir, std::string const& expert,
                                   std::string const& tensor) {
  braid::grouped_checkpoint const g(dir);
  std::size_t const e = g.expert_number(expert);
  std::size_t elements = 1;
  for (index_t const d : g.shape(e, tensor)) { elements *= static_cast<std::size_t>(d); }
  auto const& tied = g.description()["tied"];
  std::string const stored = tied.contains(tensor) ? tied[tensor].get<std::string>() : tensor;
  auto const it = std::find_if(g.tensors().begin(), g.tensors().end(), [&](auto const& t) { return t.name == stored; });
  std::vector<std::byte> out(elements * braid::size_of(it->type));
  g.read(tensor, e, out);
  return out;
}

void extract_expert(std::filesystem::path const& dir, std::string const& expert, std::filesystem::path const& out) {
  braid::grouped_checkpoint(dir).extract(expert, out);
}

}  // namespace braid_test
