#include "arguments.hpp"
#include "channel_plan.hpp"
#include "command_line.hpp"
#include "devices.hpp"
#include "inputs.hpp"
#include "interruption.hpp"
#include "pipelines.hpp"
#include "progress_line.hpp"
#include "text.hpp"
#include "threads.hpp"

#include <cmath>
#include <iostream>
#include <optional>
#include <set>

namespace program {
namespace {

std::vector<std::string_view> all_names(merge_job const& job) {
  std::set<std::string_view> names;
  auto const add = [&](braid::checkpoint const& c) {
    for (auto const& t : c.tensors()) { names.insert(t.name); }
  };
  add(job.base);
  for (auto const& e : job.experts) { add(e); }
  return {names.begin(), names.end()};
}

/// What a kind of tensors has become.
struct tally {
  std::size_t tensors = 0;
  braid::index_t channels = 0;
  braid::index_t rows = 0;
  double similarity = 0.0;             // summed over `compared` channels
  braid::index_t compared = 0;

  void add(braid::report::tensor const& t) {
    ++tensors;
    channels += t.channels;
    rows += t.stored_rows;
    if (!std::isnan(t.similarity)) {
      similarity += t.similarity * static_cast<double>(t.channels);
      compared += t.channels;
    }
  }
  [[nodiscard]] std::string text() const {
    std::string s = std::to_string(tensors) + (tensors == 1 ? " tensor" : " tensors");
    if (channels > 0) {
      s += ", " + fixed(static_cast<double>(rows) / static_cast<double>(channels), 2) + " rows a channel";
    }
    if (compared > 0) { s += ", mean similarity " + fixed(similarity / static_cast<double>(compared), 3); }
    return s;
  }
};

void print_summary(merge_job const& job, std::string const& method, braid::report const& r) {
  tally merged;
  tally kept;
  tally from_base;
  for (auto const& t : r.tensors) { (t.action == "merge" ? merged : t.action == "keep" ? kept : from_base).add(t); }
  std::cout << job.experts.size() << (job.experts.size() == 1 ? " expert" : " experts") << " in "
            << printable(job.out.string()) << '\n'
            << "  method     " << method << '\n'
            << "  merged     " << merged.text() << '\n'
            << "  kept       " << kept.text() << '\n';
  if (from_base.tensors != 0) { std::cout << "  from base  " << from_base.text() << '\n'; }
  std::cout << "  stored     " << size_text(r.stored_bytes) << " of the experts' " << size_text(r.expert_bytes) << " ("
            << fixed(r.stored_fraction, 3) << ")\n";
  if (r.residual_bytes != 0) { std::cout << "  residuals  " << size_text(r.residual_bytes) << " of that\n"; }
  std::cout << "  read       " << size_text(r.bytes_read) << " in " << time_text(r.seconds);
  if (r.seconds > 0.0) {
    std::cout << " (" << size_text(static_cast<std::uint64_t>(static_cast<double>(r.bytes_read) / r.seconds)) << "/s)";
  }
  std::cout << '\n';
  for (auto const& note : r.notes) { std::cout << "  note       " << printable(note) << '\n'; }
}

}  // namespace

int channel_merge(merge_arguments const& given) {
  merge_arguments const args = split_adapters(given);
  chosen_method const chosen = choose_method(args);
  braid::run_options options;
  options.tensors = choose_tensors(args);
  options.out_dtype = choose_dtype(args);
  options.max_shard_bytes = parse_shard_size("--max-shard-size", args.max_shard_size);
  options.overwrite = args.overwrite;
  options.hash_inputs = !args.no_hash;
  if (args.column_weights) { options.weights.emplace(*args.column_weights); }
  auto const threads = allow_threads(args.backend.threads);
  braid::cpu const backend(args.backend.threads);
  bool const on_devices = choose_devices(args.backend, options.device);
  merge_job job{braid::checkpoint(args.base), open_experts(args), args.out, std::move(options), backend};
  for (std::size_t e = 0; e < args.adapters.size(); ++e) {
    if (!args.adapters[e].empty()) { job.options.adapters.emplace(job.experts[e].name(), braid::recipe::adapter(args.adapters[e])); }
  }
  std::vector<std::string> notes = chosen.notes;
  for (auto& note : idle_patterns(job.options.tensors, all_names(job))) { notes.push_back(std::move(note)); }

  if (args.dry_run) {
    for (auto const& note : notes) { std::cout << "note: " << printable(note) << '\n'; }
    print_channel_plan(job, chosen);
    return success;
  }
  interruption const guard;
  progress_line line(std::move(notes));
  job.options.on_progress = [&](braid::progress const& p) {
    interruption::check();
    line.show(p);
  };
  braid::report const r = on_devices ? run_on_devices(chosen.method, job) : run_pipeline(chosen.method, job);
  line.finish(r);
  print_summary(job, chosen.description, r);
  return success;
}

}  // namespace program
