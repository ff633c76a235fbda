#include "arguments.hpp"
#include "command_line.hpp"
#include "queries.hpp"
#include "text.hpp"

#include <braid/serve.hpp>

#include <charconv>
#include <chrono>
#include <iostream>

namespace program {
namespace {

using nlohmann::ordered_json;
using text_router = braid::router<>;

/// "2-4", "3", or "0" for none.
void parse_range(std::string const& option, std::string const& text, int& least, int& most) {
  auto const* const end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, least);
  most = least;
  if (error == std::errc{} && stop != end && *stop == '-') {
    auto const second = std::from_chars(stop + 1, end, most);
    stop = second.ptr;
    error = second.ec;
  }
  if (error != std::errc{} || stop != end) {
    throw braid::argument_error(option + " '" + printable(text) + "': write A-B such as 2-4, or 0 for none");
  }
  if (most == 0) { least = 1; }
}

text_router open_router(route_arguments const& args) {
  auto router = text_router::load(args.router);
  if (args.threshold) { router.set_threshold(*args.threshold); }
  if (args.default_expert) { router.set_default_expert(*args.default_expert); }
  return router;
}

void print(braid::router_quality const& q, text_router const& r) {
  auto const row = [](char const* what, double value, std::string const& note) {
    std::cout << what << fixed(value, 4) << (note.empty() ? "" : "   " + note) << '\n';
  };
  std::cout << q.queries << " queries, " << q.experts.size() << " experts; unsure below " << shortest(r.threshold()) << ", then "
            << r.experts()[r.default_expert()] << "\n\n";
  row("accuracy               ", q.accuracy(), std::to_string(q.right) + " right");
  row("unsure                 ", static_cast<double>(q.unsure) / static_cast<double>(q.queries), std::to_string(q.unsure) + " queries");
  row("accuracy where sure    ", q.sure_accuracy(), "");
  row("answered by their own  ", q.served_accuracy(), "unsure ones by the default expert");
  row("calibration error      ", q.calibration_error, std::to_string(braid::router_quality::bin_count) + " bins");
  row("cross entropy          ", q.cross_entropy, "nats");
  std::cout << "\nqueries of the row's expert that went to the column's:\n";
  std::vector<std::string> headings{""};
  headings.insert(headings.end(), q.experts.begin(), q.experts.end());
  table t(headings);
  for (std::size_t i = 0; i < q.experts.size(); ++i) {
    std::vector<std::string> cells{q.experts[i]};
    for (std::size_t j = 0; j < q.experts.size(); ++j) { cells.push_back(std::to_string(q.confusion[i * q.experts.size() + j])); }
    t.add(std::move(cells));
  }
  t.print(std::cout);
}

ordered_json number_or_null(double x) { return std::isfinite(x) ? ordered_json(x) : ordered_json(nullptr); }

ordered_json to_json(braid::router_quality const& q, text_router const& r) {
  std::size_t const n = q.experts.size();
  ordered_json confusion = ordered_json::array();
  for (std::size_t i = 0; i < n; ++i) {
    auto const first = q.confusion.begin() + static_cast<std::ptrdiff_t>(i * n);
    confusion.push_back(std::vector<std::size_t>(first, first + static_cast<std::ptrdiff_t>(n)));
  }
  ordered_json bins = ordered_json::array();
  for (auto const& b : q.bins) {
    double const count = static_cast<double>(b.queries);
    bins.push_back({{"queries", b.queries},
                    {"accuracy", number_or_null(static_cast<double>(b.right) / count)},
                    {"confidence", number_or_null(b.confidence / count)}});
  }
  return {{"queries", q.queries},
          {"experts", q.experts},
          {"threshold", r.threshold()},
          {"default", r.experts()[r.default_expert()]},
          {"accuracy", q.accuracy()},
          {"unsure", q.unsure},
          {"sure_accuracy", number_or_null(q.sure_accuracy())},
          {"served_accuracy", q.served_accuracy()},
          {"calibration_error", q.calibration_error},
          {"cross_entropy", q.cross_entropy},
          {"confusion", std::move(confusion)},
          {"bins", std::move(bins)}};
}

void print_routing(text_router const& r, std::string const& text, bool json) {
  auto const to = r.route(text);
  if (!json) {
    std::cout << r.experts()[to.expert] << (to.unsure ? " (unsure)" : "") << '\t' << fixed(to.confidence, 3) << '\t' << printable(text) << std::endl;
    return;
  }
  ordered_json probability = ordered_json::object();
  for (std::size_t i = 0; i < r.experts().size(); ++i) { probability[r.experts()[i]] = to.probability[i]; }
  ordered_json const line{{"query", text},
                          {"expert", r.experts()[to.expert]},
                          {"best", r.experts()[to.best]},
                          {"confidence", to.confidence},
                          {"unsure", to.unsure},
                          {"probability", std::move(probability)}};
  std::cout << line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << std::endl;
}

}  // namespace

int route_train(route_train_arguments const& args) {
  auto const start = std::chrono::steady_clock::now();
  braid::hashed_ngrams_options features;
  features.dimension = args.dimension;
  parse_range("--chars", args.chars, features.least_chars, features.most_chars);
  parse_range("--words", args.words, features.least_words, features.most_words);
  features.lower_case = !args.keep_case;
  features.fold_digits = !args.keep_digits;
  braid::router_options options;
  options.l2 = args.l2;
  options.parts = args.parts;
  options.inverse_frequency = !args.no_inverse_frequency;
  options.threshold = args.threshold;
  options.default_expert = args.default_expert;
  options.seed = args.seed;
  braid::check_output(args.out, {}, args.overwrite);
  auto const queries = read_queries(args.queries, true);
  auto const router = text_router::train(queries, braid::hashed_ngrams(features), options, braid::cpu(args.threads));
  router.save(args.out, args.overwrite);
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  auto const& t = router.training();
  std::cout << printable(args.out) << ": " << router.experts().size() << " experts, " << t.queries << " queries, " << t.iterations
            << " iterations" << (t.converged ? "" : " (not converged)") << ", " << time_text(seconds) << '\n';
  if (t.parts != 0) {
    std::cout << "accuracy on parts held out " << fixed(t.held_out_accuracy, 4) << ", temperature " << shortest(router.temperature()) << '\n';
  }
  return success;
}

int route_eval(route_arguments const& args) {
  auto const router = open_router(args);
  auto const quality = braid::evaluate(router, read_queries(args.queries, true));
  if (args.json) {
    std::cout << to_json(quality, router).dump(2) << '\n';
  } else {
    print(quality, router);
  }
  return success;
}

int route_predict(route_arguments const& args) {
  auto const router = open_router(args);
  if (!args.queries.empty()) {
    for (auto const& q : read_queries(args.queries, false)) { print_routing(router, q.query, args.json); }
    return success;
  }
  for (std::string line; std::getline(std::cin, line);) {
    if (!line.empty() && line.back() == '\r') { line.pop_back(); }
    print_routing(router, line, args.json);
  }
  return success;
}

}  // namespace program
