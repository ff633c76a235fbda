#include "arguments.hpp"
#include "command_line.hpp"
#include "device_recipes.hpp"
#include "devices.hpp"
#include "interruption.hpp"
#include "progress_line.hpp"
#include "text.hpp"
#include "threads.hpp"

#include <braid/engine/run_recipe.hpp>
#include <braid/recipe/parse.hpp>

#include <iostream>

namespace program {
namespace {

namespace recipe = braid::recipe;

std::string parameter_text(recipe::run_tensor const& t) {
  std::string s;
  for (auto const& [name, value] : t.parameters.of_tensor) { s += (s.empty() ? "" : ", ") + name + " " + shortest(value); }
  for (auto const& [name, values] : t.parameters.of_model) {
    std::string list;
    bool any = false;
    for (auto const& v : values) {
      list += (list.empty() ? "" : " ") + (v ? shortest(*v) : std::string("-"));
      any = any || v;
    }
    if (any) { s += (s.empty() ? "" : ", ") + name + " [" + list + "]"; }
  }
  return s;
}

/// What a source of a tensor is called; its own name of the tensor where that differs.
std::string source_text(recipe::run_plan const& plan, recipe::run_tensor const& t, recipe::run_source const& s) {
  std::string text = to_text(plan.models[s.model].reference);
  if (s.tensor->name != t.name) { text += ":" + s.tensor->name; }
  return text;
}

/// `--dry-run`: every tensor, and what the run will need.
void print_plan(recipe::run_plan const& plan, braid::cpu const& be) {
  for (recipe::run_tensor const& t : plan.tensors) {
    std::cout << printable(t.name) << "  " << braid::name_of(t.out) << ' ' << shape_text(t.shape) << "  ";
    if (t.what == recipe::tensor_step::copy) {
      std::cout << "copy";
    } else {
      std::cout << plan.recipe.merge_method << " of";
      for (auto const& s : t.sources) { std::cout << ' ' << printable(source_text(plan, t, s)); }
      if (t.base) { std::cout << ", base " << printable(source_text(plan, t, *t.base)); }
      if (std::string const p = parameter_text(t); !p.empty()) { std::cout << "; " << p; }
    }
    if (!t.owners.empty()) { std::cout << "; rows by token"; }
    if (!t.note.empty()) { std::cout << "; " << printable(t.note); }
    std::cout << '\n';
  }
  for (recipe::dropped_tensor const& d : plan.dropped) {
    std::cout << printable(to_text(plan.models[d.model].reference)) << ": " << printable(d.name) << " isn't used: "
              << printable(d.reason) << '\n';
  }
  for (auto const& note : plan.notes) { std::cout << "note: " << printable(note) << '\n'; }
  std::cout << count_text(plan.tensors.size(), "tensor") << " of " << count_text(plan.models.size(), "model") << '\n'
            << "  read     " << size_text(plan.bytes_read()) << '\n'
            << "  written  " << size_text(plan.bytes_written()) << '\n'
            << "  memory   about " << size_text(recipe::memory_needed(plan, be)) << ", besides mapped files\n";
}

void print_summary(recipe::run_plan const& plan, braid::report const& r, std::string const& out) {
  std::size_t merged = 0;
  for (auto const& t : r.tensors) { merged += t.action == "merge" ? 1u : 0u; }
  std::cout << count_text(plan.models.size(), "model") << " in " << printable(out) << '\n'
            << "  method   " << plan.recipe.merge_method << '\n'
            << "  merged   " << count_text(merged, "tensor");
  if (merged < r.tensors.size()) { std::cout << ", " << r.tensors.size() - merged << " copied"; }
  if (!plan.dropped.empty()) { std::cout << ", " << plan.dropped.size() << " of the inputs not used (--dry-run lists them)"; }
  std::cout << "\n  written  " << size_text(r.stored_bytes) << "\n  read     " << size_text(r.bytes_read) << " in "
            << time_text(r.seconds) << '\n';
  for (auto const& note : r.notes) { std::cout << "  note     " << printable(note) << '\n'; }
  for (auto const& t : plan.tensors) {
    if (!t.note.empty()) { std::cout << "  note     " << printable(t.name) << ": " << printable(t.note) << '\n'; }
  }
}

/// A recipe of channel_merge is a command line of `braid channel-merge`.
merge_arguments channel_merge_arguments(recipe::merge_recipe const& r, recipe::model_search const& where, run_arguments const& args) {
  auto const refuse = [&](std::string const& what) { throw braid::argument_error(r.file + ": channel_merge " + what); };
  if (r.modules.size() != 1 || r.modules[0].models.empty()) { refuse("merges whole models: write 'models'"); }
  if (r.tokenizer || !r.chat_template.empty()) { refuse("keeps each expert's tokenizer: leave 'tokenizer' and 'chat_template' out"); }
  if (r.input_type) { refuse("reads inputs as they are: write 'out_dtype' instead of 'dtype'"); }
  merge_arguments m;
  if (r.base_model->lora) { refuse("needs a base without an adapter: merge it into its model first (passthrough)"); }
  m.base = find_model(r.base_model->model, where).string();
  for (recipe::model_entry const& e : r.modules[0].models) {
    if (e.model == *r.base_model) { continue; }
    std::string const dir = find_model(e.model.model, where).string();
    std::filesystem::path const lora = e.model.lora ? find_model(*e.model.lora, where, recipe::model_content::adapter) : std::filesystem::path();
    // Experts of one base that differ in their adapters are called as those are.
    std::string const name = e.name.empty() && e.model.lora ? lora.filename().string() : e.name;
    m.experts.push_back(name.empty() ? dir : name + "=" + dir);
    m.adapters.push_back(lora.string());
  }
  recipe::known_method const& method = *recipe::find_method(r.merge_method);
  for (recipe::known_parameter const& p : method.parameters) {
    auto const* const own = recipe::find(r.modules[0].settings, p.name);
    auto const* const s = own != nullptr ? own : recipe::find(r.settings, p.name);
    if (s == nullptr) { continue; }
    if (s->conditions.size() != 1 || s->conditions[0].gradient) { refuse("takes one value of '" + std::string(p.name) + "' for all tensors"); }
    auto const v = evaluate(*s, "", 0.0, p.kind, p.choices);
    if (!v) { continue; }
    auto const number = [&] { return std::visit([](auto const& x) { if constexpr (std::is_arithmetic_v<std::decay_t<decltype(x)>>) { return static_cast<double>(x); } else { return 0.0; } }, *v); };
    auto const word = [&] {
      std::string w = std::get<std::string>(*v);
      std::replace(w.begin(), w.end(), '_', '-');
      return w;
    };
    if (p.name == "groups") { m.groups = static_cast<int>(number()); }
    if (p.name == "similarity") { m.similarity = word(); }
    if (p.name == "cluster") { m.cluster = word(); }
    if (p.name == "restarts") { refuse("of the program has no 'restarts': leave it out"); }
    if (p.name == "prune") { m.prune = word(); }
    if (p.name == "density") { m.density = number(); }
    if (p.name == "epsilon") { m.epsilon = number(); }
    if (p.name == "consensus") { m.consensus = word(); }
    if (p.name == "lambda") { m.lambda = static_cast<float>(number()); }
    if (p.name == "residual") { m.residual = word(); }
    if (p.name == "residual_sweeps") { m.residual_sweeps = static_cast<int>(number()); }
    if (p.name == "budget") { m.budget = number(); }
  }
  if (r.seed != 0) { m.seed = r.seed; }
  if (r.output_type) {
    std::string type(braid::name_of(*r.output_type));
    for (char& c : type) { c = static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }
    m.dtype = type;
  }
  m.out = args.out;
  m.max_shard_size = args.max_shard_size;
  m.overwrite = args.overwrite;
  m.no_hash = args.no_hash;
  m.backend = args.backend;
  m.allow_nonfinite = args.allow_nonfinite;
  m.dry_run = args.dry_run;
  return m;
}

}  // namespace

int run_recipe(run_arguments const& args) {
  recipe::merge_recipe r = recipe::parse_file(args.recipe);
  std::vector<std::string> notes;
  for (auto const& w : r.warnings) { notes.push_back(recipe::to_text(r.file, w.at) + ": " + w.text); }
  recipe::model_search where;
  for (auto const& root : args.model_roots) { where.roots.emplace_back(root); }
  where.hub = recipe::default_hub();
  if (r.merge_method == "channel_merge") {
    if (args.allow_truncated_vocabulary) {
      throw braid::argument_error("--allow truncated-vocabulary: channel_merge keeps each expert's vocabulary; leave it out");
    }
    for (auto const& note : notes) { std::cerr << "braid: note: " << printable(note) << '\n'; }
    return channel_merge(channel_merge_arguments(r, where, args));
  }
  recipe::run_options options;
  options.max_shard_bytes = parse_shard_size("--max-shard-size", args.max_shard_size);
  options.overwrite = args.overwrite;
  options.hash_inputs = !args.no_hash;
  options.allow_nonfinite = args.allow_nonfinite;
  bool const on_devices = choose_devices(args.backend, options.device);
  auto const threads = allow_threads(args.backend.threads);
  braid::cpu const backend(args.backend.threads);
  auto models = recipe::open_models(r, where);
  recipe::run_plan const plan = recipe::plan(std::move(r), std::move(models), {args.allow_truncated_vocabulary});
  if (args.dry_run) {
    for (auto const& note : notes) { std::cout << "note: " << printable(note) << '\n'; }
    print_plan(plan, backend);
    return success;
  }
  interruption const guard;
  progress_line line(std::move(notes));
  options.on_progress = [&](braid::progress const& p) {
    interruption::check();
    line.show(p);
  };
  braid::report const report =
      on_devices ? run_recipe_on_devices(plan, args.out, options) : recipe::run(plan, args.out, options, backend);
  line.finish(report);
  print_summary(plan, report, args.out);
  return success;
}

}  // namespace program
