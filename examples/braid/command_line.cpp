#include "command_line.hpp"

#include "arguments.hpp"
#include "route_options.hpp"
#include "text.hpp"

#include <braid/core/error.hpp>
#include <braid/version.hpp>

#include <CLI/CLI.hpp>

#include <iostream>

namespace program {
namespace {

void add_directory(CLI::App& app, std::string const& name, std::string& to, std::string const& description) {
  app.add_option(name, to, description)->required()->option_text("DIR REQUIRED")->group("Models");
}

void add_argument(CLI::App& app, std::string const& name, std::string& to, std::string const& description) {
  app.add_option(name, to, description)->required()->option_text(" ");
}

void add_output_options(CLI::App& app, std::string& max_shard_size, bool& overwrite) {
  app.add_option("--max-shard-size", max_shard_size,
                 "start a new file where one would hold more: in KB, MB, GB, TB\n"
                 "(powers of 1000), KiB, MiB, GiB, TiB or bytes, at least 1MB\n"
                 "(default 5GB)")
      ->option_text("SIZE")
      ->group("Output");
  app.add_flag("--overwrite", overwrite, "replace a checkpoint that stands at the output's path")->group("Output");
}

void add_running_options(CLI::App& app, bool& no_hash, backend_arguments& backend) {
  app.add_flag("--no-hash", no_hash, "don't record hashes of the inputs")->group("Output");
  std::string const running = "Running; nothing of it changes the result";
  app.add_option("--threads", backend.threads, "how many of the machine to use (default 0: all)")->option_text("N")->group(running);
  app.add_option("--backend", backend.name, "cpu, or cuda: NVIDIA GPUs (default cpu)")->option_text("NAME")->group(running);
  app.add_option("--devices", backend.devices, "numbers of the GPUs that share the work (default 0)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("N,...")
      ->group(running);
  app.add_option("--device-memory", backend.memory, "what blocks may take on each GPU, as with --max-shard-size\n(default 1GiB)")
      ->option_text("SIZE")
      ->group(running);
}

/// What is an error unless a user allows it, by name; several with commas between them.
void add_allow_option(CLI::App& app, std::vector<std::pair<std::string, bool*>> const& known, std::string const& description,
                      std::string const& group) {
  app.add_option_function<std::vector<std::string>>(
         "--allow",
         [known](std::vector<std::string> const& words) {
           for (std::string const& word : words) {
             std::vector<std::string> names;
             bool found = false;
             for (auto const& [name, allowed] : known) {
               names.push_back(name);
               *allowed = *allowed || word == name;
               found = found || word == name;
             }
             if (!found) {
               throw braid::argument_error("--allow '" + printable(word) + "' is unknown; choose " + join_choices(names));
             }
           }
         },
         description)
      ->allow_extra_args(false)
      ->delimiter(',')
      ->option_text("WORD[,WORD]")
      ->group(group);
}

void add_method_options(CLI::App& app, merge_arguments& args) {
  std::string const method = "Method";
  app.add_option("--preset", args.preset,
                 "best: --groups 1 --residual ternary;\n"
                 "dare_cm: --prune dare --density 0.7 --consensus sum --lambda 0.5;\n"
                 "ties_cm: the same with --prune magnitude --consensus ties-sum.\n"
                 "Options given besides win over the preset's")
      ->option_text("NAME")
      ->group(method);
  app.add_option("--groups", args.groups,
                 "most rows that a channel keeps; as many as experts: lossless (default 2)")
      ->option_text("K")
      ->group(method);
  app.add_option("--similarity", args.similarity,
                 "what makes experts alike in a channel: cosine, euclidean, balanced\n"
                 "(euclidean, each expert scaled by its whole tensor) or sign\n"
                 "(default cosine)")
      ->option_text("NAME")
      ->group(method);
  app.add_option("--cluster", args.cluster,
                 "how groups are found: exact (up to 10 experts), kmeans,\n"
                 "agglomerative, or random, a control (default exact)")
      ->option_text("NAME")
      ->group(method);
  app.add_option("--consensus", args.consensus,
                 "how a group's deltas become one: mean, sum, ties (elect a sign, mean\n"
                 "of those that agree) or ties-sum (their sum) (default mean)")
      ->option_text("NAME")
      ->group(method);
  app.add_option("--lambda", args.lambda, "scales each merged delta (default 1)")->option_text("X")->group(method);
  app.add_option("--residual", args.residual,
                 "what each expert in a group lacks is stored in a few bits an element:\n"
                 "sign1, sign2, sign3 (1, 2, 3 bits), ternary (1.6), trellis1, trellis2\n"
                 "(1, 2; slow), or none (default none). With --budget several, with\n"
                 "commas between them (default sign1,ternary,sign2,sign3)")
      ->option_text("NAME[,NAME]")
      ->group(method);
  app.add_option("--residual-sweeps", args.residual_sweeps,
                 "rounds in which shared rows and residuals are fitted to each other;\n"
                 "0: rows stay as they were merged (default 3; trellis 2)")
      ->option_text("N")
      ->group(method);
  app.add_flag("--rank-one", args.rank_one, "residuals are scaled by row and by column")->group(method);
  app.add_option("--budget", args.budget,
                 "the result takes at most this fraction of the experts' bytes: each\n"
                 "channel gets the groups, up to --groups, and the residual that lose\n"
                 "least for that. Reads all inputs twice")
      ->option_text("X")
      ->group(method);
  app.add_option("--budget-weighting", args.budget_weighting,
                 "what an error counts: even (each expert and tensor the same), plain\n"
                 "(as it is) or root (halfway) (default even)")
      ->option_text("NAME")
      ->group(method);
  app.add_option("--column-weights", args.column_weights,
                 "safetensors file with a tensor [inputs] F32 under the name of each\n"
                 "weight: what an error in a column counts, such as second moments")
      ->option_text("FILE")
      ->group(method);

  std::string const pruning = "Pruning, before deltas are joined";
  app.add_option("--prune", args.prune,
                 "none; dare (at random); magnitude (keep the largest of the tensor);\n"
                 "magnitude-rows (of each channel); magprune (at random, large ones\n"
                 "more likely) (default none)")
      ->option_text("NAME")
      ->group(pruning);
  app.add_option("--density", args.density, "the fraction kept, 0 to 1 (default 0.7)")
      ->option_text("X")
      ->group(pruning);
  app.add_option("--epsilon", args.epsilon,
                 "magprune: keep probabilities run from density - X to density + X\n"
                 "(default 0.15)")
      ->option_text("X")
      ->group(pruning);
  app.add_option("--seed", args.seed, "of random choices: dare, magprune, kmeans, random (default 0)")
      ->option_text("N")
      ->group(pruning);
}

void add_pattern_option(CLI::App& app, std::string const& name, merge_arguments& args, braid::action what,
                        std::string const& description) {
  // Triggered on parsing, since the order among the three options is their precedence.
  app.add_option_function<std::string>(
         name, [&args, what](std::string const& glob) { args.patterns.push_back({what, glob}); }, description)
      ->trigger_on_parse()
      ->option_text("GLOB")
      ->group("Tensors, by name");
}

void add_tensor_options(CLI::App& app, merge_arguments& args) {
  std::string const tensors = "Tensors, by name";
  add_pattern_option(app, "--merge", args, braid::action::merge, "merge the tensors that match");
  add_pattern_option(app, "--keep", args, braid::action::keep, "let each expert keep its own");
  add_pattern_option(app, "--from-base", args, braid::action::from_base,
                     "take the base's. These three may be repeated: the first that matches\n"
                     "decides. By default the matrices of attention and MLP are merged and\n"
                     "all others kept: embeddings, heads, norms, biases, router gates");
  app.add_option("--channel-axis", args.channel_axes,
                 "the dimension of output channels, counted from 0, or -1 for the last:\n"
                 "'*.c_attn.weight=1' for GPT-2 (default the last but one); repeatable")
      ->allow_extra_args(false)
      ->option_text("GLOB=AXIS")
      ->group(tensors);
  app.add_option("--dtype", args.dtype,
                 "type of all floating tensors of the result: f32, f16, bf16, f8_e4m3,\n"
                 "f8_e5m2 (default: each tensor's own)")
      ->option_text("TYPE")
      ->group(tensors);
  add_allow_option(app, {{"nonfinite", &args.allow_nonfinite}}, "nonfinite: merge NaN and infinity instead of refusing them", tensors);
}

void add_merge(CLI::App& program, merge_arguments& args) {
  CLI::App& app = *program.add_subcommand("channel-merge", "Merge experts of one base, channel by channel");
  add_directory(app, "--base", args.base, "the model that the experts were trained from");
  app.add_option("--expert", args.experts,
                 "a fine-tuned model, or a model and a LoRA adapter for it; once for\n"
                 "each. Names are of letters, digits, '-' and '_' (default: the last\n"
                 "component of the directory, or of the adapter's)")
      ->required()
      ->option_text("[NAME=]DIR[+ADAPTER] REQUIRED")
      ->group("Models");
  add_directory(app, "--out", args.out, "the grouped checkpoint to write");
  add_method_options(app, args);
  add_tensor_options(app, args);
  app.add_flag("--dry-run", args.dry_run, "print what happens to each tensor, and write nothing")->group("Output");
  add_output_options(app, args.max_shard_size, args.overwrite);
  add_running_options(app, args.no_hash, args.backend);
  app.footer(
      "Example:\n"
      "  braid channel-merge --base zoo/base --expert zoo/add --expert zoo/sort --expert code=zoo/cipher \\\n"
      "    --groups 2 --prune magnitude --consensus ties --similarity balanced --out merged\n"
      "merges three experts two by two, wherever they are most alike. 'braid extract merged --expert code\n"
      "--out code' gives one of them back as an ordinary checkpoint.");
}

void add_run(CLI::App& program, run_arguments& args) {
  CLI::App& app = *program.add_subcommand("run", "Merge as a recipe in YAML says");
  add_argument(app, "RECIPE", args.recipe, "a recipe, such as mergekit's");
  add_argument(app, "OUT", args.out, "the checkpoint to write");
  app.add_option("--model-root", args.model_roots,
                 "look for the recipe's models below this directory as well;\n"
                 "repeatable")
      ->allow_extra_args(false)
      ->option_text("DIR")
      ->group("Models");
  app.add_flag("--dry-run", args.dry_run, "print what happens to each tensor, and write nothing")->group("Models");
  add_allow_option(app, {{"nonfinite", &args.allow_nonfinite}, {"truncated-vocabulary", &args.allow_truncated_vocabulary}},
                   "nonfinite: merge NaN and infinity instead of refusing them;\n"
                   "truncated-vocabulary: cut embeddings and heads of different lengths\n"
                   "to the shortest",
                   "Models");
  add_output_options(app, args.max_shard_size, args.overwrite);
  add_running_options(app, args.no_hash, args.backend);
  app.footer("Example:\n  braid run merge.yml merged --model-root models");
}

void add_extract(CLI::App& program, extract_arguments& args) {
  CLI::App& app = *program.add_subcommand("extract", "Write one expert of a grouped checkpoint as an ordinary one");
  add_argument(app, "GROUPED", args.grouped, "a grouped checkpoint");
  app.add_option("--expert", args.expert, "which; 'braid inspect GROUPED' lists them")
      ->required()
      ->option_text("NAME REQUIRED")
      ->group("Models");
  add_directory(app, "--out", args.out, "the checkpoint to write");
  add_output_options(app, args.max_shard_size, args.overwrite);
  app.footer("Example:\n  braid extract merged --expert sort --out sort");
}

void add_inspect(CLI::App& program, inspect_arguments& args) {
  CLI::App& app = *program.add_subcommand("inspect", "Show what is in a checkpoint, ordinary or grouped");
  add_argument(app, "DIR", args.dir, "a checkpoint");
  app.add_flag("--json", args.json, "everything about every tensor, for programs");
  app.footer("Example:\n  braid inspect merged --json | jq '.stored_fraction'");
}

void add_diff(CLI::App& program, diff_arguments& args) {
  CLI::App& app = *program.add_subcommand("diff", "Compare two checkpoints, tensor by tensor");
  add_argument(app, "A", args.a, "a checkpoint");
  add_argument(app, "B", args.b, "another");
  app.footer(
      "Prints a line for each tensor that isn't the same in both, bit for bit: the number of elements that\n"
      "differ, and the largest absolute difference with its place.\n"
      "Exit status: 0 equal, 1 different, 2 error.\n"
      "\nExample:\n  braid diff sort zoo/sort && echo lossless");
}

/// CLI11 leaves two empty lines between groups of options.
std::string without_double_gaps(std::string help) {
  for (std::size_t at = 0; (at = help.find("\n\n\n", at)) != std::string::npos;) { help.erase(at, 1); }
  return help;
}

}  // namespace

int run_command_line(int argc, char** argv, int& failed) {
  failed = failure;
  CLI::App app{"Merges fine-tuned checkpoints of one base model, channel by channel, and gives each back.", "braid"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "braid " BRAID_VERSION_STRING);
  app.get_formatter()->column_width(28);
  app.footer("'braid COMMAND --help' explains a command. docs/cli.md has it all.");

  merge_arguments merge;
  run_arguments running;
  extract_arguments extraction;
  inspect_arguments inspection;
  diff_arguments comparison;
  add_merge(app, merge);
  add_run(app, running);
  add_extract(app, extraction);
  add_inspect(app, inspection);
  add_diff(app, comparison);
  route_options route(app);
  try {
    app.parse(argc, argv);
  } catch (CLI::CallForHelp const&) {
    std::cout << without_double_gaps(app.help());
    return success;
  } catch (CLI::Success const& e) {
    return app.exit(e);
  } catch (CLI::ParseError const& e) {
    failed = usage_error;
    auto const given = app.get_subcommands();
    if (given.empty()) {
      std::string const word = argc > 1 ? "'" + std::string(argv[1]) + "' is no command" : "which command?";
      throw braid::argument_error(word + "; choose channel-merge, run, extract, inspect, diff or route, or see braid --help");
    }
    throw braid::argument_error(std::string(e.what()) + "; see braid " + route.name(given.front()->get_name()) + " --help");
  }
  if (app.got_subcommand("channel-merge")) { return channel_merge(merge); }
  if (app.got_subcommand("run")) { return run_recipe(running); }
  if (app.got_subcommand("extract")) { return extract(extraction); }
  if (app.got_subcommand("inspect")) { return inspect(inspection); }
  if (route.chosen()) { return route.run(); }
  failed = usage_error;
  return diff(comparison);
}

}  // namespace program
