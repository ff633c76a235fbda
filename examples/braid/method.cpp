#include "method.hpp"

#include "text.hpp"

#include <braid/method/presets.hpp>

#include <algorithm>

namespace program {
namespace {

/// What is used where nothing is said.
struct settings {
  std::string prune = "none";
  double density = 0.7;
  double epsilon = 0.15;
  std::string similarity = "cosine";
  std::string cluster = "exact";
  std::string consensus = "mean";
  std::string residual;  ///< empty: none, or what a budget chooses
  int groups = 2;
  float lambda = 1.0f;
};

/// A policy's name as an option spells it.
std::string spelled(std::string_view name) {
  std::string s(name);
  std::replace(s.begin(), s.end(), '_', '-');
  return s;
}

template <class Method>
settings settings_of(Method const& preset) {
  auto const& o = preset.settings();
  settings s;
  s.prune = spelled(o.prune.name);
  if constexpr (requires { o.prune.density; }) { s.density = o.prune.density; }
  if (o.residual.code != braid::residual_code::none) { s.residual = name_of(o.residual.code); }
  s.similarity = spelled(o.similarity.name);
  s.cluster = spelled(o.cluster.name);
  s.consensus = spelled(o.consensus.name);
  s.groups = o.groups;
  s.lambda = o.lambda;
  return s;
}

settings defaults_of(std::optional<std::string> const& preset) {
  if (!preset) { return {}; }
  std::string const name = spelled(*preset);
  if (name == "dare-cm") { return settings_of(braid::presets::make_dare_cm()); }
  if (name == "ties-cm") { return settings_of(braid::presets::make_ties_cm()); }
  if (name == "best") { return settings_of(braid::presets::make_best()); }
  throw braid::argument_error("--preset '" + printable(*preset) + "' is unknown; choose best, dare_cm or ties_cm");
}

/// The policy of that name among the alternatives of a variant.
template <class Variant>
Variant policy_named(std::string_view option, std::string const& name) {
  std::vector<std::string> known;
  std::optional<Variant> found;
  auto const look_at = [&]<class Policy>(Policy policy) {
    known.push_back(spelled(Policy::name));
    if (known.back() == spelled(name)) { found = policy; }
  };
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (look_at(std::variant_alternative_t<I, Variant>{}), ...);
  }(std::make_index_sequence<std::variant_size_v<Variant>>{});
  if (!found) {
    throw braid::argument_error(std::string(option) + " '" + printable(name) + "' is unknown; choose " +
                                join_choices(known));
  }
  return *found;
}

void apply_numbers(any_prune& prune, double density, double epsilon, std::uint64_t seed) {
  std::visit(
      [&](auto& p) {
        if constexpr (requires { p.density; }) { p.density = density; }
        if constexpr (requires { p.epsilon; }) { p.epsilon = epsilon; }
        if constexpr (requires { p.seed; }) { p.seed = seed; }
      },
      prune);
}

template <class Policies>
bool has_seed(Policies const& chosen) {
  return std::visit([](auto const& p) { return requires { p.seed; }; }, chosen);
}

braid::residual_code code_named(std::string const& name) {
  std::vector<std::string> known;
  for (int c = 0; c < braid::residual_codes; ++c) {
    auto const code = static_cast<braid::residual_code>(c);
    known.emplace_back(name_of(code));
    if (known.back() == name) { return code; }
  }
  throw braid::argument_error("--residual '" + printable(name) + "' is unknown; choose " + join_choices(known) +
                              ", or several with commas between them, for --budget to choose from");
}

/// One code for all channels, or those among which a budget chooses.
void choose_residual(merge_arguments const& args, std::string const& preset, merge_method& m) {
  bool const chooses = m.budget.stored > 0.0;
  m.residuals = chooses;
  std::string const all = args.residual.value_or(preset);
  if (!all.empty()) {
    braid::residual_code_list codes;
    for (std::size_t begin = 0; begin <= all.size();) {
      std::size_t const end = std::min(all.find(',', begin), all.size());
      braid::residual_code const code = code_named(all.substr(begin, end - begin));
      if (code != braid::residual_code::none) { codes.add(code); }
      begin = end + 1;
    }
    if (codes.size() > 1 && !chooses) {
      throw braid::argument_error("--residual '" + printable(all) + "' names several codes, among which --budget chooses; give one, or a budget");
    }
    m.residuals = codes.size() > 0;
    m.residual.allowed = codes;
    if (codes.size() == 1) { m.residual.code = *codes.begin(); }
  }
  m.residual.rank_one = args.rank_one;
  if (!args.residual_sweeps) { return; }
  constexpr int most = 1000;
  if (*args.residual_sweeps < 0 || *args.residual_sweeps > most) {
    throw braid::argument_error("--residual-sweeps " + std::to_string(*args.residual_sweeps) + ": choose 0 to " +
                                std::to_string(most) + ", usually 1 to 3");
  }
  m.residual.set_sweeps(*args.residual_sweeps);
}

braid::storage_budget choose_budget(merge_arguments const& args) {
  braid::storage_budget budget;
  if (!args.budget) { return budget; }
  if (!(*args.budget > 0.0)) {
    throw braid::argument_error("--budget " + shortest(*args.budget) + ": give a fraction of the experts' bytes, such as 0.4");
  }
  budget.stored = *args.budget;
  std::string const name = args.budget_weighting.value_or("even");
  for (auto const w : {braid::error_weighting::even, braid::error_weighting::root, braid::error_weighting::plain}) {
    budget.weighting = w;
    if (name_of(w) == name) { return budget; }
  }
  throw braid::argument_error("--budget-weighting '" + printable(name) + "' is unknown; choose even, root or plain");
}

/// Collects options that were given for nothing.
class idle_options {
 public:
  explicit idle_options(merge_arguments const& args) : args_(args) {}

  void add(std::string_view option, bool given) {
    if (given) { names_.emplace_back(option); }
  }
  void add_pruning() {
    add("--prune", args_.prune.has_value());
    add("--density", args_.density.has_value());
    add("--epsilon", args_.epsilon.has_value());
  }
  void add_joining() {
    add("--consensus", args_.consensus.has_value());
    add("--lambda", args_.lambda.has_value());
  }
  void add_grouping() {
    add("--similarity", args_.similarity.has_value());
    add("--cluster", args_.cluster.has_value());
  }

  void add_residual() {
    add("--residual", args_.residual.has_value() && spelled(*args_.residual) != "none");
    add("--residual-sweeps", args_.residual_sweeps.has_value());
    add("--rank-one", args_.rank_one);
  }

  /// One sentence for all that were added since the last one.
  void explain(std::string const& reason, std::vector<std::string>& notes) {
    if (names_.empty()) { return; }
    std::string s;
    for (auto const& n : names_) { s += (s.empty() ? "" : ", ") + n; }
    notes.push_back(s + (names_.size() == 1 ? " has" : " have") + " no effect: " + reason);
    names_.clear();
  }

 private:
  merge_arguments const& args_;
  std::vector<std::string> names_;
};

std::vector<std::string> idle_notes(merge_arguments const& args, merge_method const& m) {
  std::vector<std::string> notes;
  idle_options idle(args);
  bool const random_prune = has_seed(m.prune);
  bool const random_cluster = has_seed(m.cluster.choice);
  auto const experts = static_cast<int>(args.experts.size());
  bool const budget = m.budget.stored > 0.0;
  if (m.budget.stored >= 1.0) {
    notes.push_back("--budget " + shortest(m.budget.stored) + " is all that the experts take or more: the merge is lossless");
  }
  if (!budget) {
    idle.add("--budget-weighting", args.budget_weighting.has_value());
    idle.explain("there is no --budget", notes);
  }
  if (m.groups >= experts && !budget) {
    idle.add("--preset", args.preset.has_value());
    idle.add_grouping();
    idle.add_joining();
    idle.add_pruning();
    idle.add_residual();
    idle.add("--seed", args.seed.has_value());
    idle.explain("with " + std::to_string(m.groups) + " groups for " + std::to_string(experts) +
                     " experts each keeps its own rows, so the merge is lossless",
                 notes);
    return notes;
  }
  if (!m.residuals) {
    idle.add("--residual-sweeps", args.residual_sweeps.has_value());
    idle.add("--rank-one", args.rank_one);
    idle.explain("no residuals are stored; choose --residual ternary, sign1, sign2, sign3, trellis1 or trellis2", notes);
  }
  // Two rows in a group give their shared row by themselves.
  if (m.residuals && !budget && args.residual_sweeps.value_or(1) > 0 && experts - m.groups < 2) {
    idle.add_joining();
    idle.add_pruning();
    idle.explain("no group can have more than two rows, and the row that suits two best follows from their residuals "
                 "(--residual-sweeps 0 merges them)",
                 notes);
    return notes;
  }
  if (m.groups == 1) {
    idle.add_grouping();
    idle.explain("one group leaves nothing to choose", notes);
  } else if (std::holds_alternative<braid::cluster::random>(m.cluster.choice)) {
    idle.add("--similarity", args.similarity.has_value());
    idle.explain("random groups don't look at the experts; only the reported similarity changes", notes);
  }
  if (std::holds_alternative<braid::prune::none>(m.prune)) {
    idle.add("--density", args.density.has_value());
    idle.explain("nothing is pruned; choose --prune dare, magnitude, magnitude-rows or magprune", notes);
  }
  if (!std::holds_alternative<braid::prune::magprune>(m.prune)) {
    idle.add("--epsilon", args.epsilon.has_value());
    idle.explain("it belongs to --prune magprune", notes);
  }
  if (!random_prune && (!random_cluster || m.groups == 1)) {
    idle.add("--seed", args.seed.has_value());
    idle.explain("no policy chosen here is random", notes);
  }
  return notes;
}

std::string describe(merge_method const& m, settings const& s, std::uint64_t seed) {
  std::string text = "prune " + s.prune;
  std::visit(
      [&](auto const& p) {
        if constexpr (requires { p.density; }) { text += ", density " + shortest(p.density); }
        if constexpr (requires { p.epsilon; }) { text += ", epsilon " + shortest(p.epsilon); }
      },
      m.prune);
  text += ", similarity " + s.similarity + ", cluster " + s.cluster + ", consensus " + s.consensus + ", groups " +
          std::to_string(s.groups) + ", lambda " + shortest(static_cast<double>(s.lambda));
  if (m.residuals) {
    std::string codes;
    int sweeps = 0;
    for (braid::residual_code const c : m.residual.codes()) {
      codes += (codes.empty() ? "" : ",") + std::string(name_of(c));
      m.residual.with(c, [&](auto const& policy) { sweeps = std::max(sweeps, policy.sweeps); });
    }
    text += ", residual " + codes + ", sweeps " + std::to_string(sweeps) + (m.residual.rank_one ? ", rank one" : "");
  }
  if (m.budget.stored > 0.0) {
    text += ", budget " + shortest(m.budget.stored) + " " + std::string(name_of(m.budget.weighting));
  }
  if (has_seed(m.prune) || has_seed(m.cluster.choice)) { text += ", seed " + std::to_string(seed); }
  return text;
}

}  // namespace

chosen_method choose_method(merge_arguments const& args) {
  settings s = defaults_of(args.preset);
  s.prune = spelled(args.prune.value_or(s.prune));
  s.density = args.density.value_or(s.density);
  s.epsilon = args.epsilon.value_or(s.epsilon);
  s.similarity = spelled(args.similarity.value_or(s.similarity));
  s.cluster = spelled(args.cluster.value_or(s.cluster));
  s.consensus = spelled(args.consensus.value_or(s.consensus));
  // Under a budget any number of groups may be worth its bytes.
  s.groups = args.groups.value_or(args.budget ? std::max(1, static_cast<int>(args.experts.size())) : s.groups);
  s.lambda = args.lambda.value_or(s.lambda);
  std::uint64_t const seed = args.seed.value_or(0);
  if (s.groups < 1 || s.groups > braid::max_experts) {
    throw braid::argument_error("--groups " + std::to_string(s.groups) + ": choose 1 to " +
                                std::to_string(braid::max_experts) + ", usually 2 to the number of experts");
  }
  auto similarity = policy_named<decltype(braid::similarity::any::choice)>("--similarity", s.similarity);
  auto cluster = policy_named<decltype(braid::cluster::any::choice)>("--cluster", s.cluster);
  std::visit(
      [&](auto& c) {
        if constexpr (requires { c.seed; }) { c.seed = seed; }
      },
      cluster);
  chosen_method chosen;
  merge_method& m = chosen.method;
  m.prune = policy_named<any_prune>("--prune", s.prune);
  apply_numbers(m.prune, s.density, s.epsilon, seed);
  m.similarity = std::visit([](auto const& policy) { return braid::similarity::any(policy); }, similarity);
  m.cluster = std::visit([](auto const& policy) { return braid::cluster::any(policy); }, cluster);
  m.consensus = policy_named<any_consensus>("--consensus", s.consensus);
  m.budget = choose_budget(args);
  choose_residual(args, s.residual, m);
  m.groups = s.groups;
  m.lambda = s.lambda;
  m.allow_nonfinite = args.allow_nonfinite;

  auto const experts = static_cast<int>(args.experts.size());
  bool const clusters = m.groups > 1 && (m.groups < experts || m.budget.stored > 0.0);
  if (clusters && experts > braid::cluster::exact::most_experts &&
      std::holds_alternative<braid::cluster::exact>(m.cluster.choice)) {
    throw braid::argument_error("--cluster exact is for up to " + std::to_string(braid::cluster::exact::most_experts) +
                                " experts, and there are " + std::to_string(experts) +
                                "; choose --cluster kmeans or agglomerative");
  }
  chosen.notes = idle_notes(args, m);
  chosen.description = describe(m, s, seed);
  return chosen;
}

}  // namespace program
