/// expert_zoo ZOO_DIR: how well do merged experts still know their trades?
///
/// A zoo is a directory with a model `base`, one fine-tuned expert per task in a directory of the task's name, all of
/// them Llamas in Hugging Face layout, and `prompts.json` with questions and answers. This program merges the zoo in
/// several ways and lets every expert answer its own task's prompts. It prints
///
///   a table: method, exact-match accuracy per task, their mean, and the bytes stored        (merge_table.cpp)
///   --frontier: accuracy against bytes, for braid's merges and their rivals                 (plans.cpp has the points)
///
/// and --moments measures what goes into the experts' linear layers.

#include "frontier.hpp"
#include "merge_table.hpp"
#include "moments.hpp"
#include "output_file.hpp"

#include "../zoo_support/frontier_chart.hpp"

#include <CLI/CLI.hpp>

#include <fstream>
#include <iostream>

namespace {

struct arguments {
  std::string zoo;
  std::string json, svg, markdown;
  std::string rows = "*";
  std::uint64_t seed = 0;
  std::size_t prompts = 0;
  std::size_t hold_out = 0;
  bool frontier = false;
  bool files = false;
  std::string from;
  std::string moments;
  std::string use_moments;
  int moment_prompts = 32;
};

zoo::frontier frontier_of(arguments const& args) {
  if (args.from.empty()) {
    return zoo::measure_frontier(args.zoo,
                                 {args.rows, args.seed, {args.prompts, args.hold_out}, args.files, args.use_moments});
  }
  std::ifstream in(args.from, std::ios::binary);
  if (!in) { throw braid::io_error(args.from + ": can't be read; --from takes what --json wrote"); }
  try {
    return zoo::frontier_from_json(nlohmann::json::parse(in));
  } catch (nlohmann::json::exception const& e) {
    throw braid::argument_error(args.from + ": not what --frontier --json writes: " + e.what());
  }
}

void run(arguments const& args) {
  if (args.zoo.empty() == args.from.empty()) {
    throw braid::argument_error("give a zoo's directory, or --from FILE with --frontier");
  }
  if (!args.moments.empty()) { return zoo::write_input_moments(args.zoo, args.moments, args.moment_prompts); }
  if (!args.frontier) {
    return zoo::print_merge_table(args.zoo, {args.rows, args.seed, {args.prompts, args.hold_out}}, args.json);
  }
  // Better now than after minutes of merging.
  zoo::check_writable(args.json, "--json");
  zoo::check_writable(args.svg, "--svg");
  zoo::check_writable(args.markdown, "--markdown");
  zoo::frontier const f = frontier_of(args);
  if (!args.json.empty()) { zoo::write_file(args.json, "--json", to_json(f).dump(2) + "\n"); }
  if (!args.svg.empty()) { zoo::write_file(args.svg, "--svg", zoo::to_svg(f)); }
  if (!args.markdown.empty()) { zoo::write_file(args.markdown, "--markdown", to_markdown(f)); }
}

}  // namespace

int main(int argc, char** argv) {
  arguments args;
  CLI::App app{"Merges a zoo of experts in several ways and measures what each expert still knows.", "expert_zoo"};
  app.add_option("ZOO_DIR", args.zoo, "holds base, one expert per task, and prompts.json")->type_name("");
  app.add_option("--json", args.json, "also write the figures to this file")->type_name("FILE");
  app.add_option("--rows", args.rows,
                 "only rows whose name matches this glob, such as '*K=2*'; --frontier: 'FAMILY: NAME'")
      ->type_name("GLOB");
  app.add_option("--seed", args.seed, "for random pruning and random groups (default 0)")->type_name("N");
  app.add_option("--prompts", args.prompts, "ask only the first so many prompts of each task")->type_name("N");
  app.add_option("--hold-out", args.hold_out, "never ask the last so many prompts of each task")->type_name("N");

  auto* const frontier = app.add_flag("--frontier", args.frontier, "accuracy against bytes, with rivals");
  app.add_option("--svg", args.svg, "draw the frontier")->type_name("FILE")->needs(frontier);
  app.add_option("--markdown", args.markdown, "write the frontier's table in Markdown")
      ->type_name("FILE")
      ->needs(frontier);
  app.add_option("--from", args.from, "measure nothing: take the figures that --json wrote")
      ->type_name("FILE")
      ->needs(frontier);
  app.add_option("--column-weights", args.use_moments,
                 "moments that --moments wrote: merge with them too, hold their prompts out")
      ->type_name("FILE")
      ->needs(frontier);
  app.add_flag("--files", args.files, "merge through checkpoints on disk instead of memory")->needs(frontier);

  auto* const moments =
      app.add_option("--moments", args.moments, "only write second moments of the inputs of merged weights");
  moments->type_name("FILE.safetensors")->excludes(frontier);
  app.add_option("--moment-prompts", args.moment_prompts, "of each task, the last so many (default 32)")
      ->type_name("N")
      ->needs(moments);
  try {
    app.parse(argc, argv);
    run(args);
    return 0;
  } catch (CLI::Success const& e) {
    return app.exit(e);
  } catch (CLI::ParseError const& e) {
    std::cerr << "expert_zoo: " << e.what() << "; see expert_zoo --help\n";
  } catch (std::exception const& e) {
    std::cerr << "expert_zoo: " << e.what() << '\n';
  }
  return 1;
}
