#include "route_options.hpp"

#include <CLI/CLI.hpp>

namespace program {
namespace {

constexpr char queries_text[] =
    "queries, a line each; once for each file. Plain text is of one expert,\n"
    "NAME or the file's own name, and an empty line ends a group of\n"
    "variants; a directory is all its *.txt; .jsonl has objects with\n"
    "\"query\", \"expert\" and perhaps \"group\"; .json is a zoo's prompts";

void add_train(CLI::App& route, route_train_arguments& args) {
  CLI::App& app = *route.add_subcommand("train", "Train a router on queries whose experts are known");
  app.add_option("--queries", args.queries, queries_text)->required()->option_text("[NAME=]PATH REQUIRED");
  app.add_option("--out", args.out, "the router to write, a directory with router.safetensors")->required()->option_text("DIR REQUIRED");
  app.add_flag("--overwrite", args.overwrite, "replace a router that stands at --out");

  std::string const features = "Features";
  app.add_option("--dimension", args.dimension, "how many; n-grams are hashed to them (default 65536)")->option_text("N")->group(features);
  app.add_option("--chars", args.chars, "n-grams of so many characters, 0 for none (default 3-5)")->option_text("A-B")->group(features);
  app.add_option("--words", args.words, "n-grams of so many words, 0 for none (default 1)")->option_text("A-B")->group(features);
  app.add_flag("--keep-case", args.keep_case, "A and a are different letters")->group(features);
  app.add_flag("--keep-digits", args.keep_digits, "digits are different; by default all read as 0")->group(features);
  app.add_flag("--no-inverse-frequency", args.no_inverse_frequency, "don't let rare features weigh more than frequent ones")->group(features);

  std::string const training = "Training";
  app.add_option("--l2", args.l2, "weight of half the squared weights beside the mean cross entropy\n(default 0.00003)")->option_text("X")->group(training);
  app.add_option("--parts", args.parts, "of the queries, each held out once to calibrate; 0: none (default 5)")->option_text("N")->group(training);
  app.add_option("--seed", args.seed, "of these parts (default 0)")->option_text("N")->group(training);
  app.add_option("--threshold", args.threshold, "a query whose best expert is less probable is unsure (default 0.5)")->option_text("P")->group(training);
  app.add_option("--default", args.default_expert, "who answers unsure queries (default: the first by name)")->option_text("NAME")->group(training);
  app.add_option("--threads", args.threads, "how many to use; never changes the result (default 0: all)")->option_text("N")->group(training);
  app.footer("Example:\n  braid route train --queries maths=maths.txt --queries law=law.txt --out router");
}

void add_use(CLI::App& app, route_arguments& args) {
  app.add_option("ROUTER", args.router, "a router's directory, or the file in it")->required()->option_text(" ");
  app.add_option("--threshold", args.threshold, "instead of the router's own")->option_text("P");
  app.add_option("--default", args.default_expert, "instead of the router's own")->option_text("NAME");
}

}  // namespace

route_options::route_options(CLI::App& program)
    : route_(program.add_subcommand("route", "Train and use a router that picks the expert for a query")) {
  route_->require_subcommand(1);
  route_->footer("'braid route train --help' and so on explain each.");
  add_train(*route_, train_);

  CLI::App& eval = *route_->add_subcommand("eval", "Accuracy, calibration and confusion on queries whose experts are known");
  add_use(eval, eval_);
  eval.add_option("--queries", eval_.queries, queries_text)->required()->option_text("[NAME=]PATH REQUIRED");
  eval.add_flag("--json", eval_.json, "for programs");
  eval.footer("Example:\n  braid route eval router --queries test-queries.jsonl --json | jq '.accuracy'");

  CLI::App& predict = *route_->add_subcommand("predict", "Say which expert should answer each query");
  add_use(predict, predict_);
  predict.add_option("--queries", predict_.queries, "as for eval, without experts (default: lines of standard input)")->option_text("PATH");
  predict.add_flag("--json", predict_.json, "an object a line, with the probability of every expert");
  predict.footer("Example:\n  echo 'Who won the Crimean War?' | braid route predict router");
}

bool route_options::chosen() const { return route_->parsed(); }

int route_options::run() const {
  if (route_->got_subcommand("train")) { return route_train(train_); }
  return route_->got_subcommand("eval") ? route_eval(eval_) : route_predict(predict_);
}

std::string route_options::name(std::string const& command) const {
  auto const given = route_->get_subcommands();
  return command == "route" && !given.empty() ? command + " " + given.front()->get_name() : command;
}

}  // namespace program
