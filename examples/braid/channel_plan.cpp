#include "channel_plan.hpp"

#include "text.hpp"

#include <algorithm>
#include <iostream>
#include <set>

namespace program {
namespace {

/// Bytes of an element's residuals, scales and code, in the longest of the codes.
std::uint64_t residual_row_bytes(merge_method const& m, braid::index_t cols) {
  std::uint64_t most = 0;
  for (braid::residual_code const c : m.residual.codes()) {
    most = std::max(most, static_cast<std::uint64_t>(braid::residual_bytes(c, cols)) + 2 * static_cast<std::uint64_t>(braid::residual_scales(c)));
  }
  return m.residuals ? most + 1 : 0;
}

/// What one tensor may need.
struct demand {
  braid::index_t groups = 1;  ///< most rows of a channel
  std::uint64_t written = 0;  ///< most bytes, index and residuals included
  std::uint64_t index = 0;
};

class channel_planner {
 public:
  channel_planner(merge_job const& job, merge_method const& method) : job_(job), method_(method) {
    std::vector<std::string> given;
    for (auto const& e : job.experts) { given.push_back(e.name()); }
    for (std::size_t const i : braid::detail::order_by_name(given)) {
      experts_.push_back(job.experts[i]);
      names_.push_back(given[i]);
    }
    for (auto const& [name, lora] : job.options.adapters) {
      lora.check_fits(experts_[static_cast<std::size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin())]);
    }
    plan_ = braid::plan_merge(job.base, experts_, names_, job.options.tensors, job.options.out_dtype);
  }

  void print(std::string const& description) const {
    bool const budget = method_.budget.stored > 0.0;
    std::uint64_t read = 0;
    std::uint64_t written = 0;
    std::uint64_t index = 0;
    std::uint64_t blocks = 0;
    std::uint64_t gram = 0;
    for (braid::planned_tensor const& t : plan_.tensors) {
      demand const d = of(t);
      print_tensor(t, d);
      read += t.input_bytes() * (budget && t.what != braid::action::from_base ? 2 : 1);
      written += d.written;
      index += d.index;
      blocks = std::max(blocks, block_bytes(t, d));
      if (budget && t.what == braid::action::merge) { gram = std::max(gram, gram_bytes(t)); }
    }
    print_dropped();
    for (auto const& note : plan_.notes) { std::cout << "note: " << printable(note) << '\n'; }
    std::uint64_t expert_bytes = 0;
    for (auto const& e : experts_) {
      for (auto const& t : e.tensors()) { expert_bytes += t.bytes; }
    }
    if (budget) {
      written = std::min(written, static_cast<std::uint64_t>(method_.budget.stored * static_cast<double>(expert_bytes)));
    }
    std::cout << count_text(plan_.tensors.size(), "tensor") << " of " << count_text(experts_.size(), "expert") << '\n'
              << "  method   " << description << '\n'
              << "  read     " << size_text(read) << (budget ? ", everything twice" : "") << '\n'
              << "  written  at most " << size_text(written) << " of the experts' " << size_text(expert_bytes);
    if (expert_bytes > 0) { std::cout << " (" << fixed(static_cast<double>(written) / static_cast<double>(expert_bytes), 3) << ")"; }
    std::cout << "\n  memory   about " << size_text(blocks + index + gram) << ", besides mapped files\n";
  }

 private:
  [[nodiscard]] braid::index_t models() const { return static_cast<braid::index_t>(experts_.size()); }

  [[nodiscard]] demand of(braid::planned_tensor const& t) const {
    demand d;
    auto const row = static_cast<std::uint64_t>(t.cols) * braid::size_of(t.out);
    auto const channels = static_cast<std::uint64_t>(t.channels);
    auto const n = static_cast<std::uint64_t>(models());
    if (t.what == braid::action::from_base) {
      d.written = channels * row;
      return d;
    }
    d.groups = t.what == braid::action::keep ? models() : std::min<braid::index_t>(method_.groups, models());
    // A group of one row needs no residual, nor do experts that share all rows need an index.
    bool const coded = t.what == braid::action::merge && method_.residuals && d.groups < models();
    d.index = d.groups > 1 || coded ? n * channels : 0;
    d.written = d.index;
    if (t.what == braid::action::keep) {
      for (braid::index_t const c : t.expert_channels) { d.written += static_cast<std::uint64_t>(c) * row; }
    } else {
      d.written += static_cast<std::uint64_t>(d.groups) * channels * row;
      if (coded) { d.written += n * channels * residual_row_bytes(method_, t.cols) + 2 * static_cast<std::uint64_t>(t.cols); }
    }
    return d;
  }

  /// Of blocks on their way, and what each thread gathers.
  [[nodiscard]] std::uint64_t block_bytes(braid::planned_tensor const& t, demand const& d) const {
    std::uint64_t in = t.base != nullptr ? static_cast<std::uint64_t>(t.cols) * braid::size_of(t.base->type) : 0;
    for (auto const* const e : t.experts) { in += e != nullptr ? static_cast<std::uint64_t>(t.cols) * braid::size_of(e->type) : 0; }
    if (in == 0 || t.channels == 0) { return 0; }
    std::uint64_t const rows = std::min(std::max<std::uint64_t>(1, (std::uint64_t{1} << 20) / in), static_cast<std::uint64_t>(t.channels));
    std::uint64_t const out = rows * static_cast<std::uint64_t>(d.groups) * static_cast<std::uint64_t>(t.cols) * braid::size_of(t.out);
    return braid::detail::blocks_on_their_way(job_.backend, static_cast<std::size_t>(out)) * out +
           static_cast<std::uint64_t>(job_.backend.threads()) * rows * in;
  }

  /// Gram matrices of all channels, of signs too where they make the groups.
  [[nodiscard]] std::uint64_t gram_bytes(braid::planned_tensor const& t) const {
    auto const n = static_cast<std::uint64_t>(models());
    return 2 * n * (n + 1) * static_cast<std::uint64_t>(t.channels) * (method_.similarity.name == "sign" ? 2 : 1);
  }

  void print_tensor(braid::planned_tensor const& t, demand const& d) const {
    std::cout << printable(t.name) << "  " << braid::name_of(t.out) << ' ' << shape_text(t.shape) << "  ";
    if (t.what == braid::action::from_base) {
      std::cout << "from the base\n";
      return;
    }
    std::cout << braid::name_of(t.what) << " of";
    for (std::size_t e = 0; e < names_.size(); ++e) {
      if (t.experts[e] != nullptr) { std::cout << ' ' << names_[e]; }
    }
    if (t.base != nullptr) { std::cout << ", base " << printable(job_.base.name()); }
    std::cout << "; at most " << d.groups << (d.groups == 1 ? " row" : " rows") << " a channel";
    if (t.what == braid::action::merge && method_.residuals && d.groups < models()) { std::cout << ", with residuals"; }
    for (std::size_t e = 0; e < names_.size(); ++e) {
      if (t.experts[e] == nullptr) { std::cout << "; " << names_[e] << " lacks it"; }
    }
    std::cout << '\n';
  }

  /// Tensors that the result doesn't have: the base's, which no expert has.
  void print_dropped() const {
    std::set<std::string_view> used;
    for (auto const& t : plan_.tensors) { used.insert(t.name); }
    for (auto const& [alias, stored] : plan_.tied) { used.insert(alias); }
    for (auto const& t : job_.base.tensors()) {
      if (used.count(t.name) == 0) { std::cout << printable(job_.base.name()) << ": " << printable(t.name) << " isn't used: no expert has it\n"; }
    }
  }

  merge_job const& job_;
  merge_method const& method_;
  std::vector<braid::checkpoint> experts_;
  std::vector<std::string> names_;
  braid::merge_plan plan_;
};

}  // namespace

void print_channel_plan(merge_job const& job, chosen_method const& chosen) {
  channel_planner(job, chosen.method).print(chosen.description);
}

}  // namespace program
