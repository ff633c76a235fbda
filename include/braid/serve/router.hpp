#pragma once

#include <braid/core/expert_name.hpp>
#include <braid/serve/detail/router_file.hpp>
#include <braid/serve/detail/router_training.hpp>
#include <braid/serve/hashed_ngrams.hpp>
#include <braid/serve/labelled_query.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

struct router_options {
  double l2 = 3e-5;                 ///< weight of half the squared weights beside the mean cross entropy; above 0
  int parts = 5;                    ///< of the queries, each held out once for the calibration; 0: none, temperature 1
  double threshold = 0.5;           ///< a query whose best expert is less probable is unsure; 0: none is
  std::string default_expert = {};  ///< who answers then; the first by name if empty
  std::uint64_t seed = 0;           ///< of the parts
  bool inverse_frequency = true;    ///< rare features weigh more: a query's subject more than its phrasing
  int most_iterations = 300;        ///< of L-BFGS
  double tolerance = 1e-5;          ///< it ends where no element of the gradient is above
};

/// Where a query goes.
struct routing {
  std::size_t expert = 0;           ///< number of the one that answers: the best, or the default if unsure
  std::size_t best = 0;             ///< the most probable; the first by name of equal ones
  double confidence = 0.0;          ///< its probability
  bool unsure = false;              ///< whether that is below the threshold
  std::vector<double> probability;  ///< [experts], in the order of their names
};

/// Which expert should answer a query: multinomial logistic regression on features of the query, trained with cross
/// entropy on queries labelled with the task that they come from (Channel Merging, arXiv 2412.15283, section on
/// the router, Eq. 6). The paper's own router is a trained encoder; give its sentence embedding as `Embedding` to have the same.
///
/// Features are scaled by how rare they were in training (inverse document frequency, Sparck Jones 1972), and the row is
/// divided by its length.
///
/// Experts are counted in the order of their names. Training and routing give the same bits on every machine, on any
/// number of threads and in whatever order the experts' queries are listed (the order of one expert's queries
/// counts). Const members may be called from many threads.
template <query_embedding Embedding = hashed_ngrams>
class router {
 public:
  using query_type = typename Embedding::query_type;

  /// Trains a router for the experts that the queries name. Every expert counts the same, however many queries it has.
  ///
  /// L-BFGS from zero, in float64. Calibrated by temperature: each of `parts` parts is held out once from a training on
  /// the others, one temperature is fitted to the logits of all queries when they were held out, and the router is
  /// trained on everything. Costs about (parts + 1) * iterations * 4 * features * experts operations, where features are
  /// counted over all queries: a second or two for thousands of queries.
  /// @throws argument_error for fewer than two experts, bad names or options, or an expert whose queries are one group
  [[nodiscard]] static router train(std::vector<labelled_query<query_type>> const& queries, Embedding embedding = Embedding{},
                                    router_options const& options = {}, cpu const& be = cpu{}) {
    router r(std::move(embedding));
    r.take_names(queries, options);
    std::vector<std::size_t> order(queries.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return queries[a].expert < queries[b].expert; });
    std::vector<feature_row> rows(queries.size());
    std::vector<std::size_t> label;
    std::vector<std::string> group;
    for (std::size_t const i : order) {
      label.push_back(r.expert_number(queries[i].expert));
      group.push_back(queries[i].group);
    }
    be.for_each(static_cast<index_t>(order.size()), [&](index_t i) {
      auto const at = static_cast<std::size_t>(i);
      rows[at] = r.embedding_(queries[order[at]].query);
    });
    r.fit(rows, label, group, options, be);
    return r;
  }

  /// Reads a router that `save` wrote.
  /// @param path  its directory, or the file in it
  /// @throws io_error if it can't be read, format_error with a code of `format_code` or `router_code` if anything is wrong
  [[nodiscard]] static router load(std::filesystem::path const& path)
    requires requires(nlohmann::json const& j) { Embedding::from_json(j); }
  {
    detail::router_file file(path);
    return router(file.embedding<Embedding>(), std::move(file.state));
  }

  /// The same for an embedding that only the program knows.
  /// @throws argument_error if the router was trained with another one
  [[nodiscard]] static router load(std::filesystem::path const& path, Embedding embedding) {
    detail::router_file file(path);
    file.check_embedding(embedding.to_json(), embedding.dimension());
    return router(std::move(embedding), std::move(file.state));
  }

  /// Writes a directory with one file, router.safetensors: `router.weight` F32 [experts, dimension], `router.scale`
  /// F32 [dimension], `router.bias` F32 [experts], everything else as JSON under "braid.router" in its metadata. It
  /// appears when it is complete, or not at all; the file may be moved anywhere, beside the weights of a merged
  /// checkpoint too.
  /// @throws argument_error, io_error as `checkpoint_writer`
  void save(std::filesystem::path const& out, bool overwrite = false) const {
    detail::write_router(out, state_, embedding_.to_json(), overwrite);
  }

  /// Where the query goes. Costs the embedding, and features * experts operations.
  /// @param query  what the embedding takes
  template <class Query = query_type>
  [[nodiscard]] routing route(Query const& query) const {
    return route_features(embedding_(query));
  }

  /// The same for features that the embedding gave.
  [[nodiscard]] routing route_features(feature_row const& features) const {
    routing r;
    r.probability.resize(state_.experts.size());
    state_.classifier.logits(detail::scaled(features, state_.classifier.scale), r.probability.data());
    detail::softmax(r.probability.data(), r.probability.size(), 1.0 / state_.temperature);
    auto const best = std::max_element(r.probability.begin(), r.probability.end());
    r.best = static_cast<std::size_t>(best - r.probability.begin());
    r.confidence = *best;
    r.unsure = r.confidence < state_.threshold;
    r.expert = r.unsure ? state_.default_expert : r.best;
    return r;
  }

  /// Names, sorted.
  [[nodiscard]] std::vector<std::string> const& experts() const noexcept { return state_.experts; }
  /// @throws argument_error naming those that exist
  [[nodiscard]] std::size_t expert_number(std::string_view name) const { return detail::number_of(state_.experts, name); }
  [[nodiscard]] std::size_t default_expert() const noexcept { return state_.default_expert; }
  [[nodiscard]] double threshold() const noexcept { return state_.threshold; }
  /// What the logits are divided by.
  [[nodiscard]] double temperature() const noexcept { return state_.temperature; }
  [[nodiscard]] router_training const& training() const noexcept { return state_.training; }
  [[nodiscard]] Embedding const& embedding() const noexcept { return embedding_; }

  /// @throws argument_error unless 0 <= threshold <= 1
  void set_threshold(double threshold) {
    detail::check_threshold(threshold);
    state_.threshold = threshold;
  }
  /// @throws argument_error if there is no such expert
  void set_default_expert(std::string_view name) { state_.default_expert = expert_number(name); }

 private:
  explicit router(Embedding embedding, detail::router_state state = {})
      : embedding_(std::move(embedding)), state_(std::move(state)) {}

  void take_names(std::vector<labelled_query<query_type>> const& queries, router_options const& options) {
    if (!(options.l2 > 0.0) || !std::isfinite(options.l2)) {
      throw argument_error("router: l2 = " + std::to_string(options.l2) + "; give a number above 0");
    }
    if (options.parts < 0 || options.parts == 1 || options.parts > 100) {
      throw argument_error("router: " + std::to_string(options.parts) +
                           " parts for the calibration; give 2 to 100, or 0 for none");
    }
    if (options.most_iterations < 1 || !(options.tolerance >= 0.0)) {
      throw argument_error("router: give at least one iteration, and a tolerance of 0 or more");
    }
    std::set<std::string> names;
    for (auto const& q : queries) { names.insert(q.expert); }
    for (auto const& name : names) {
      if (!is_expert_name(name)) {
        throw argument_error("router: an expert can't be called " + detail::in_quotes(name) +
                             "; use letters, digits, '-' and '_'");
      }
    }
    if (names.size() < 2) { throw argument_error("router: queries of at least two experts are needed"); }
    state_.experts.assign(names.begin(), names.end());
    set_threshold(options.threshold);
    if (!options.default_expert.empty()) { set_default_expert(options.default_expert); }
  }

  void fit(std::vector<feature_row> const& rows, std::vector<std::size_t> const& label,
           std::vector<std::string> const& group, router_options const& options, cpu const& be) {
    std::size_t const classes = state_.experts.size();
    auto const weight = detail::balancing_weights(label, classes);
    state_.training = {.queries = rows.size(), .l2 = options.l2, .parts = options.parts, .seed = options.seed};
    std::vector<feature_row> scaled_rows(rows.size());
    // What is held out has no say in how features are scaled, either.
    auto const trained = [&](std::vector<std::size_t> const& chosen, detail::lbfgs_result& result) {
      auto scale = options.inverse_frequency ? detail::inverse_frequencies(rows, chosen, embedding_.dimension())
                                             : std::vector<float>(static_cast<std::size_t>(embedding_.dimension()), 1.0f);
      for (std::size_t i = 0; i < rows.size(); ++i) { scaled_rows[i] = detail::scaled(rows[i], scale); }
      detail::softmax_loss const loss({scaled_rows, label, weight}, chosen, classes, options.l2, be);
      std::vector<double> x(loss.variables());
      result = detail::minimise(loss, x, options.most_iterations, options.tolerance);
      auto classifier = loss.classifier(x, embedding_.dimension());
      classifier.scale = std::move(scale);
      return classifier;
    };
    detail::lbfgs_result result;
    if (options.parts != 0) {
      auto const part = detail::held_out_parts(label, group, state_.experts, options.parts, options.seed);
      std::vector<double> logits(rows.size() * classes);
      for (int p = 0; p < options.parts; ++p) {
        std::vector<std::size_t> others;
        for (std::size_t i = 0; i < part.size(); ++i) {
          if (part[i] != p) { others.push_back(i); }
        }
        if (others.size() == part.size()) { continue; }
        auto const classifier = trained(others, result);
        for (std::size_t i = 0; i < part.size(); ++i) {
          if (part[i] == p) { classifier.logits(scaled_rows[i], logits.data() + i * classes); }
        }
      }
      state_.temperature = 1.0 / detail::best_sharpness(logits, label, weight, classes);
      std::size_t right = 0;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        auto const first = logits.begin() + static_cast<std::ptrdiff_t>(i * classes);
        auto const best = std::max_element(first, first + static_cast<std::ptrdiff_t>(classes)) - first;
        if (static_cast<std::size_t>(best) == label[i]) { ++right; }
      }
      state_.training.held_out_accuracy = static_cast<double>(right) / static_cast<double>(rows.size());
    }
    std::vector<std::size_t> all(rows.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    state_.classifier = trained(all, result);
    state_.training.iterations = result.iterations;
    state_.training.converged = result.converged;
  }

  Embedding embedding_;
  detail::router_state state_;
};

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END
