/// serve: one merged checkpoint answers for all its experts. A router reads each line of standard input and picks the
/// expert; its rows are found through the index, nothing is rebuilt.
///
///   zoo_support/server.hpp         router and model together
///   zoo_support/served.hpp         the model: a Llama of braid::row_linear layers
///   zoo_support/prompt_file.hpp    --prompts

#include "zoo_support/prompt_file.hpp"
#include "zoo_support/resident.hpp"
#include "zoo_support/server.hpp"

#include <CLI/CLI.hpp>

#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <map>

namespace {

using nlohmann::ordered_json;

struct arguments {
  std::string checkpoint, router, symbols, prompts, expert, default_expert;
  std::string stop = ".";
  std::optional<double> threshold;
  bool own_expert = false, json = false, quiet = false;
  std::size_t batch = 1;
  int max_tokens = 64;
  int threads = 0;
};

constexpr char const* how_to_begin =
    "To begin, in the root of the source tree:\n"
    "  braid channel-merge --base examples/zoo/base --expert examples/zoo/add --expert examples/zoo/sort \\\n"
    "      --expert examples/zoo/cipher --expert examples/zoo/facts --preset best --out merged\n"
    "  braid route train --queries examples/queries/zoo/train --out router\n"
    "  echo 'add 602+363=' | serve --checkpoint merged --router router --symbols examples/zoo/prompts.json\n";

std::string fixed(double x, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, x);
  return text;
}

std::string megabytes(std::uint64_t bytes) { return fixed(static_cast<double>(bytes) * 1e-6, 2) + " MB"; }

/// What is counted for the experts whose prompts are known, and for all together.
struct tally {
  std::size_t prompts = 0, answered = 0, correct = 0;  // answered: the right answer is known
  std::size_t routed_right = 0, correct_routed_right = 0, unsure = 0;

  [[nodiscard]] static double share(std::size_t part, std::size_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
  }
};

class program {
 public:
  explicit program(arguments args) : args_(std::move(args)), server_(make_server(args_)) {}

  int run() {
    if (args_.prompts.empty()) {
      from_input();
    } else {
      auto const prompts = zoo::read_prompts(args_.prompts);
      for (std::size_t first = 0; first < prompts.size(); first += args_.batch) {
        ask(std::span(prompts).subspan(first, std::min(args_.batch, prompts.size() - first)));
      }
      summary();
    }
    return failed_ ? 1 : 0;
  }

 private:
  static zoo::server make_server(arguments const& args);

  void from_input() {
    bool const shown = isatty(STDIN_FILENO) != 0 && !args_.json;
    std::vector<zoo::asked_prompt> waiting;
    auto const flush = [&] {
      if (!waiting.empty()) { ask(waiting); }
      waiting.clear();
    };
    if (shown) { std::cout << "> " << std::flush; }
    for (std::string line; std::getline(std::cin, line);) {
      if (!line.empty() && line.back() == '\r') { line.pop_back(); }
      if (line.find_first_not_of(" \t") != std::string::npos) { waiting.push_back({line}); }
      if (waiting.size() >= args_.batch) { flush(); }
      if (shown) { std::cout << "> " << std::flush; }
    }
    flush();
  }

  /// Answers some prompts as one batch. One that can't be asked is a line on standard error, and the others go on.
  void ask(std::span<zoo::asked_prompt const> prompts) {
    std::vector<zoo::asked_prompt const*> asked;
    std::vector<std::string> text;
    std::vector<zoo::choice> choices;
    std::vector<std::size_t> experts;
    for (auto const& p : prompts) {
      try {
        if (args_.own_expert && p.expert.empty()) {
          throw braid::argument_error("--own-expert: \"" + p.text + "\" names none");
        }
        server_.check(p.text);
        choices.push_back(server_.choose(p.text, args_.own_expert ? p.expert : args_.expert));
      } catch (braid::argument_error const& e) {
        std::cerr << "serve: " << e.what() << std::endl;
        failed_ = true;
        continue;
      }
      asked.push_back(&p);
      text.push_back(p.text);
      experts.push_back(choices.back().expert);
    }
    if (asked.empty()) { return; }
    auto const replies = server_.answer(text, experts);
    std::size_t said = 0;
    for (std::size_t const n : replies.tokens) { said += n; }
    tokens_ += said;
    seconds_ += replies.seconds;
    double const rate = static_cast<double>(said) / replies.seconds;  // of the batch
    for (std::size_t i = 0; i < asked.size(); ++i) {
      count(*asked[i], choices[i], replies.text[i]);
      if (!args_.quiet) { show(*asked[i], choices[i], replies, i, rate); }
    }
    std::cout << std::flush;
  }

  [[nodiscard]] static bool is_correct(zoo::asked_prompt const& p, std::string const& said, std::string const& stop) {
    return p.answer && said == *p.answer + stop;
  }

  void count(zoo::asked_prompt const& p, zoo::choice const& c, std::string const& said) {
    bool const right = !p.expert.empty() && server_.experts()[c.expert] == p.expert;
    bool const correct = is_correct(p, said, args_.stop);
    for (tally* t : {&all_, &of_task_[p.expert]}) {
      ++t->prompts;
      t->answered += p.answer ? 1u : 0u;
      t->correct += correct ? 1u : 0u;
      t->routed_right += right ? 1u : 0u;
      t->correct_routed_right += right && correct ? 1u : 0u;
      t->unsure += c.unsure ? 1u : 0u;
    }
  }

  void show(zoo::asked_prompt const& p, zoo::choice const& c, zoo::replies const& r, std::size_t i, double rate) const {
    std::string const& name = server_.experts()[c.expert];
    if (args_.json) {
      ordered_json line{{"query", p.text}, {"answer", r.text[i]}, {"expert", name}};
      if (c.confidence) {
        line["best"] = c.best;
        line["confidence"] = *c.confidence;
        line["unsure"] = c.unsure;
      }
      line["tokens"] = r.tokens[i];
      line["tokens_per_second"] = rate;
      if (p.answer) { line["correct"] = is_correct(p, r.text[i], args_.stop); }
      std::cout << line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << '\n';
      return;
    }
    std::cout << r.text[i] << '\t' << name << (c.unsure ? " (unsure)" : "") << '\t'
              << (c.confidence ? fixed(*c.confidence, 3) : "-") << '\t' << fixed(rate, 0) << " tokens/s\n";
  }

  [[nodiscard]] double rate() const { return seconds_ > 0.0 ? static_cast<double>(tokens_) / seconds_ : 0.0; }

  void summary() const {
    bool const tasks = of_task_.size() > 1 || (of_task_.size() == 1 && !of_task_.begin()->first.empty());
    auto const memory = zoo::resident_memory();
    std::uint64_t const pool = server_.checkpoint().stored_bytes();
    if (args_.json) {
      auto const of = [&](tally const& t) {
        ordered_json j{{"prompts", t.prompts}, {"unsure", t.unsure}};
        if (t.answered != 0) { j["accuracy"] = tally::share(t.correct, t.answered); }
        if (tasks) {
          j["routed_right"] = tally::share(t.routed_right, t.prompts);
          if (t.answered != 0) { j["accuracy_routed_right"] = tally::share(t.correct_routed_right, t.routed_right); }
        }
        return j;
      };
      ordered_json j = of(all_);
      for (auto const& [name, t] : of_task_) {
        if (!name.empty()) { j["tasks"][name] = of(t); }
      }
      j["tokens_per_second"] = rate();
      j["memory"] = {{"pool_bytes", pool}, {"resident_file_bytes", memory.file}, {"resident_own_bytes", memory.anonymous}};
      std::cout << ordered_json{{"summary", std::move(j)}}.dump() << '\n';
      return;
    }
    if (!args_.quiet) { std::cout << '\n'; }
    if (tasks) {
      std::printf("%-16s %8s %9s %13s %18s %8s\n", "task", "prompts", "accuracy", "routed right", "accuracy of those", "unsure");
      auto const row = [](std::string const& name, tally const& t) {
        std::printf("%-16s %8zu %9.3f %13.3f %18.3f %8zu\n", name.c_str(), t.prompts, tally::share(t.correct, t.answered),
                    tally::share(t.routed_right, t.prompts), tally::share(t.correct_routed_right, t.routed_right), t.unsure);
      };
      for (auto const& [name, t] : of_task_) { row(name.empty() ? "(unknown)" : name, t); }
      row("all", all_);
    }
    std::printf("%zu prompts, %zu tokens said in %.2f s: %.0f tokens/s\n", all_.prompts, tokens_, seconds_, rate());
    std::printf("%zu experts in %s; resident %s of mapped files, %s of its own\n", server_.experts().size(), megabytes(pool).c_str(),
                megabytes(memory.file).c_str(), megabytes(memory.anonymous).c_str());
  }

  arguments args_;
  zoo::server server_;
  std::map<std::string, tally> of_task_;
  tally all_;
  std::size_t tokens_ = 0;
  double seconds_ = 0.0;
  bool failed_ = false;
};

zoo::server program::make_server(arguments const& args) {
  namespace fs = std::filesystem;
  fs::path const dir = args.checkpoint;
  // Symbols: said, beside the weights, or in the prompts themselves.
  fs::path symbols = args.symbols;
  if (symbols.empty()) {
    symbols = fs::exists(dir / "prompts.json") || fs::path(args.prompts).extension() != ".json" ? dir / "prompts.json"
                                                                                                : fs::path(args.prompts);
    if (!fs::exists(symbols)) {
      throw braid::argument_error("no symbols: give --symbols a file with \"chars\", such as examples/zoo/prompts.json");
    }
  }
  fs::path where = args.router;
  if (where.empty() && fs::exists(dir / "router.safetensors")) { where = dir; }
  std::optional<braid::router<>> router;
  if (!where.empty()) {
    router = braid::router<>::load(where);
    if (args.threshold) { router->set_threshold(*args.threshold); }
    if (!args.default_expert.empty()) { router->set_default_expert(args.default_expert); }
  } else if (args.expert.empty() && !args.own_expert) {
    throw braid::argument_error("no router: give --router DIR (braid route train makes one), or --expert NAME");
  }
  braid::grouped_checkpoint merged(dir);
  if (!args.expert.empty()) { (void)merged.expert_number(args.expert); }
  return {std::move(merged), std::move(router), zoo::read_questions(symbols).symbols, args.max_tokens, args.stop,
          braid::cpu(args.threads)};
}

}  // namespace

int main(int argc, char** argv) {
  arguments args;
  CLI::App app{"Answers for all experts of a merged checkpoint: each line of standard input goes to the expert that a router "
               "picks, or to --expert. Prints answer, expert, the router's confidence and tokens per second, with tabs between.",
               "serve"};
  app.footer(how_to_begin);
  app.add_option("--checkpoint", args.checkpoint, "what braid channel-merge wrote: Llamas whose tokens are characters")
      ->type_name("DIR")
      ->required();
  app.add_option("--router", args.router, "what braid route train wrote (default: router.safetensors in the checkpoint)")
      ->type_name("DIR");
  app.add_option("--symbols", args.symbols, "the characters that tokens are: \"chars\" of this file (default: prompts.json in the checkpoint)")
      ->type_name("FILE");
  app.add_option("--prompts", args.prompts,
                 "instead of standard input: a prompt a line; *.jsonl with \"query\", \"answer\" and \"expert\"; or a zoo's "
                 "prompts.json. Ends with accuracy and memory")
      ->type_name("FILE");
  auto* const expert = app.add_option("--expert", args.expert, "answers everything, whatever the router says")->type_name("NAME");
  app.add_flag("--own-expert", args.own_expert, "each prompt's own expert answers, as --prompts names it")->excludes(expert);
  app.add_option("--threshold", args.threshold, "a query whose best expert is less probable is unsure (default: the router's)")
      ->type_name("P");
  app.add_option("--default", args.default_expert, "answers what is unsure (default: the router's)")->type_name("NAME");
  app.add_option("--batch", args.batch, "prompts that are answered together, each by its own expert (default 1)")
      ->type_name("N")
      ->check(CLI::Range(1, 65536));
  app.add_option("--max-tokens", args.max_tokens, "of an answer (default 64)")->type_name("N")->check(CLI::Range(1, 1000000));
  app.add_option("--stop", args.stop, "the symbol that ends an answer (default .)")->type_name("SYMBOL");
  app.add_option("--threads", args.threads, "default: all cores")->type_name("N")->check(CLI::Range(0, 1024));
  app.add_flag("--json", args.json, "an object a line; with --prompts, a last one with the summary");
  app.add_flag("--quiet", args.quiet, "only the summary of --prompts");
  try {
    app.parse(argc, argv);
    return program(args).run();
  } catch (CLI::Success const& e) {
    return app.exit(e);
  } catch (CLI::ParseError const& e) {
    std::cerr << "serve: " << e.what() << "; see serve --help\n";
  } catch (std::exception const& e) { std::cerr << "serve: " << e.what() << '\n'; }
  return 1;
}
