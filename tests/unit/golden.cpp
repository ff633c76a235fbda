#include "support/golden.hpp"
#include "support/temp_dir.hpp"
#include "unit/io_support.hpp"

#include <braid/engine/run_recipe.hpp>
#include <braid/prune/mask.hpp>
#include <braid/recipe/parse.hpp>

#include <cmath>
#include <set>

using namespace braid_test;
namespace recipe = braid::recipe;

namespace {

using numbers = std::vector<float>;

numbers read_numbers(braid::checkpoint const& c, braid::tensor_meta const& t) {
  numbers x(static_cast<std::size_t>(t.elements()));
  auto const bytes = c.bytes(t);
  std::vector<std::byte> const copy(bytes.begin(), bytes.end());
  for (std::size_t i = 0; i < x.size(); ++i) { braid::detail::widen(t.type, copy.data() + i * braid::size_of(t.type), &x[i], 1); }
  return x;
}

/// A safetensors file as a checkpoint.
struct file_checkpoint {
  temp_dir dir;
  std::optional<braid::checkpoint> c;
  explicit file_checkpoint(std::string const& relative) {
    std::filesystem::copy_file(golden_dir() / relative, dir.path() / "model.safetensors");
    c.emplace(dir.path());
  }
};

/// Reference numbers, which are F64.
std::vector<double> read_doubles(braid::checkpoint const& c, braid::tensor_meta const& t) {
  if (t.type != braid::dtype::f64) {
    numbers const x = read_numbers(c, t);
    return {x.begin(), x.end()};
  }
  std::vector<double> x(static_cast<std::size_t>(t.elements()));
  std::memcpy(x.data(), c.bytes(t).data(), x.size() * 8);
  return x;
}

recipe::run_plan plan_of(nlohmann::json const& e) {
  auto r = recipe::parse_file(golden_dir() / e.at("recipe").get<std::string>());
  auto models = recipe::open_models(r, {.roots = {golden_dir()}});
  auto const options = e.at("options").get<std::vector<std::string>>();
  bool const cut = std::find(options.begin(), options.end(), "--unsafe-truncate-embeddings") != options.end();
  return recipe::plan(std::move(r), std::move(models), {.allow_truncated_vocabulary = cut});
}

/// A method of the task-arithmetic family with masks instead of its own pruning.
class masked_merge {
 public:
  masked_merge(std::string const& masks, recipe::run_plan const& plan) : masks_(masks), plan_(plan) {
    std::map<std::string, std::string> names;  // last component of a model to what the recipe calls it
    for (auto const& m : plan.models) {
      names[std::filesystem::path(m.reference.model.path).filename().string()] = to_text(m.reference);
    }
    for (auto const& t : masks_.c->tensors()) {
      auto const slash = t.name.find('/');
      policy_.set(t.name.substr(slash + 1), names.at(t.name.substr(0, slash)),
                  reinterpret_cast<std::uint8_t const*>(masks_.c->bytes(t).data()));
    }
  }

  [[nodiscard]] numbers operator()(recipe::run_tensor const& t) const {
    recipe::detail::tensor_inputs const inputs(plan_, t);
    braid::tensor_request request = inputs.request(false);
    for (char const* const p : {"density", "gamma", "epsilon"}) { request.parameters.of_model.erase(p); }
    std::vector<std::byte> out(static_cast<std::size_t>(t.elements()) * braid::size_of(t.out));
    std::string const& name = plan_.recipe.merge_method;
    bool const elects = name.ends_with("ties") || name == "della";
    if (elects) {
      merge<braid::consensus::weighted_ties>(request, out);
    } else {
      merge<braid::consensus::weighted_sum>(request, out);
    }
    numbers x(static_cast<std::size_t>(t.elements()));
    for (std::size_t i = 0; i < x.size(); ++i) { braid::detail::widen(t.out, out.data() + i * braid::size_of(t.out), &x[i], 1); }
    return x;
  }

 private:
  template <class Consensus>
  void merge(braid::tensor_request const& request, std::vector<std::byte>& out) const {
    using method = braid::task_arithmetic<braid::cpu, braid::prune::mask, Consensus, braid::rescale::l1>;
    method(typename method::options{.prune = policy_}).merge_into(braid::cpu{1}, request, out.data());
  }

  file_checkpoint masks_;
  recipe::run_plan const& plan_;
  braid::prune::mask policy_;
};

/// A case, run: its own result beside mergekit's.
struct outcome {
  recipe::run_plan plan;
  temp_dir dir;
  std::optional<braid::checkpoint> ours;
  std::optional<file_checkpoint> theirs;
  std::optional<masked_merge> masked;
  std::set<std::string> with_masks;  // tensors that are compared given mergekit's masks

  explicit outcome(nlohmann::json const& e) : plan(plan_of(e)) {
    recipe::run(plan, dir.path() / "out", {}, braid::cpu{1});
    ours.emplace(dir.path() / "out");
    theirs.emplace(e.at("output").get<std::string>());
    if (!e.contains("masks")) { return; }
    masked.emplace(e.at("masks").get<std::string>(), plan);
    std::string const agree = e.at("agree").get<std::string>();
    if (agree != "exact") {
      for (auto const& t : plan.tensors) { with_masks.insert(t.name); }
    } else if (e.contains("ties_differ")) {
      for (auto const& t : e.at("ties_differ")) { with_masks.insert(t.get<std::string>()); }
    }
  }

  [[nodiscard]] recipe::run_tensor const& planned(std::string const& name) const {
    auto const it = std::find_if(plan.tensors.begin(), plan.tensors.end(), [&](auto const& t) { return t.name == name; });
    REQUIRE(it != plan.tensors.end());
    return *it;
  }

  [[nodiscard]] numbers result(braid::tensor_meta const& t) const {
    if (with_masks.count(t.name) != 0) { return (*masked)(planned(t.name)); }
    return read_numbers(*ours, t);
  }

  /// The largest magnitude in the expected tensor and its inputs.
  [[nodiscard]] float largest(std::string const& name, numbers const& expected) const {
    float most = 0.0f;
    for (float const x : expected) { most = std::max(most, std::abs(x)); }
    for (auto const& s : planned(name).inputs()) {
      for (float const x : read_numbers(plan.models[s.model].files, *s.tensor)) { most = std::max(most, std::abs(x)); }
    }
    return most;
  }
};

/// The cases of a class that braid merges as mergekit does: without those it refuses, and without rows by token.
std::vector<nlohmann::json> cases_of(std::string const& agree) {
  static std::set<std::string> const refused = {"keys-unknown", "parameters-unknown", "linear-zero-sum"};
  std::vector<nlohmann::json> all;
  for (auto const& e : golden_entries()) {
    if (e.at("agree") == agree && refused.count(e.at("name").get<std::string>()) == 0 && !e.contains("vocabulary")) { all.push_back(e); }
  }
  return all;
}

/// Tensors of both, which must have one name, type and shape.
std::vector<std::pair<braid::tensor_meta, braid::tensor_meta>> pairs_of(outcome const& o) {
  std::vector<std::pair<braid::tensor_meta, braid::tensor_meta>> all;
  auto const& theirs = o.theirs->c->tensors();
  auto const& ours = o.ours->tensors();
  REQUIRE(ours.size() == theirs.size());
  for (std::size_t i = 0; i < ours.size(); ++i) {
    CHECK(ours[i].name == theirs[i].name);
    CHECK(ours[i].type == theirs[i].type);
    REQUIRE(ours[i].shape == theirs[i].shape);
    all.emplace_back(ours[i], theirs[i]);
  }
  return all;
}

bool is_unstable(nlohmann::json const& e, std::string const& tensor) {
  if (!e.contains("unstable")) { return false; }
  auto const all = e.at("unstable").get<std::vector<std::string>>();
  return std::find(all.begin(), all.end(), tensor) != all.end();
}

std::size_t count_different(numbers const& a, numbers const& b) {
  std::size_t n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    n += braid::detail::bits_as<std::uint32_t>(a[i]) != braid::detail::bits_as<std::uint32_t>(b[i]) ? 1u : 0u;
  }
  return n;
}

double distance(numbers const& a, numbers const& b) {
  double most = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double const d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    most = d > most || d != d ? d : most;
  }
  return most;
}

}  // namespace

TEST_CASE("recipes without sums over tensors give mergekit's bits", "[recipe][golden]") {
  int compared = 0;
  for (auto const& e : cases_of("exact")) {
    std::string const name = e.at("name").get<std::string>();
    outcome const o(e);
    for (auto const& [ours, theirs] : pairs_of(o)) {
      INFO(name << ", " << ours.name);
      CHECK(count_different(o.result(ours), read_numbers(*o.theirs->c, theirs)) == 0);
      ++compared;
    }
  }
  CHECK(compared > 800);
}

TEST_CASE("recipes with sums over tensors agree with mergekit to 1e-6 of the largest number", "[recipe][golden]") {
  int compared = 0;
  for (auto const& e : cases_of("ulp2")) {
    std::string const name = e.at("name").get<std::string>();
    outcome const o(e);
    for (auto const& [ours, theirs] : pairs_of(o)) {
      if (is_unstable(e, ours.name)) { continue; }
      INFO(name << ", " << ours.name);
      numbers const expected = read_numbers(*o.theirs->c, theirs);
      auto const inputs = o.planned(ours.name).inputs();
      bool const adapted = std::any_of(inputs.begin(), inputs.end(), [](auto const& s) { return s.lora != nullptr; });
      if (o.plan.recipe.merge_method == "linear" && e.contains("bits") && !adapted) {
        CHECK(count_different(o.result(ours), expected) == 0);  // products are added unrounded in both
      }
      CHECK(distance(o.result(ours), expected) <= 1e-6 * static_cast<double>(o.largest(ours.name, expected)));
      ++compared;
    }
  }
  CHECK(compared > 1200);
}

TEST_CASE("random methods agree with mergekit given its masks", "[recipe][golden]") {
  int compared = 0;
  for (auto const& e : cases_of("mask")) {
    std::string const name = e.at("name").get<std::string>();
    if (!e.contains("masks")) { continue; }
    outcome const o(e);
    for (auto const& [ours, theirs] : pairs_of(o)) {
      INFO(name << ", " << ours.name);
      numbers const expected = read_numbers(*o.theirs->c, theirs);
      numbers const found = o.result(ours);
      if (o.planned(ours.name).parameters.of_tensor.at("rescale") == 0.0) {
        CHECK(count_different(found, expected) == 0);
      } else {
        CHECK(distance(found, expected) <= 1e-6 * static_cast<double>(o.largest(ours.name, expected)));
      }
      ++compared;
    }
  }
  CHECK(compared > 400);
}

TEST_CASE("in bfloat16 braid is never farther from the exact result than mergekit", "[recipe][golden]") {
  int compared = 0;
  for (auto const& e : cases_of("bf16")) {
    std::string const name = e.at("name").get<std::string>();
    outcome const o(e);
    file_checkpoint const reference(e.at("reference").get<std::string>());
    for (auto const& [ours, theirs] : pairs_of(o)) {
      INFO(name << ", " << ours.name);
      std::vector<double> const exact = read_doubles(*reference.c, reference.c->at(ours.name));
      auto const error = [&](numbers const& x) {
        double sum = 0.0;
        for (std::size_t i = 0; i < x.size(); ++i) { sum += std::pow(static_cast<double>(x[i]) - exact[i], 2); }
        return std::sqrt(sum / static_cast<double>(x.size()));
      };
      CHECK(error(o.result(ours)) <= error(read_numbers(*o.theirs->c, theirs)));
      ++compared;
    }
  }
  CHECK(compared > 300);
}

TEST_CASE("recipes with one vocabulary give mergekit's row for every token", "[recipe][golden]") {
  int cases = 0;
  for (auto const& e : golden_entries()) {
    if (!e.contains("vocabulary")) { continue; }
    ++cases;
    std::string const name = e.at("name").get<std::string>();
    outcome const o(e);
    auto const rows = golden_json(e.at("vocabulary").get<std::string>());
    auto const& tokens = o.plan.vocabulary->tokens.entries;
    CHECK(rows.size() == tokens.size());
    for (auto const& [ours, theirs] : pairs_of(o)) {
      INFO(name << ", " << ours.name);
      numbers const found = o.result(ours);
      numbers expected = read_numbers(*o.theirs->c, theirs);
      double const allowed = 1e-6 * static_cast<double>(o.largest(ours.name, expected));
      if (!o.planned(ours.name).owners.empty()) {
        numbers const original = expected;
        auto const cols = static_cast<std::ptrdiff_t>(ours.shape[1]);
        for (auto const& t : tokens) {
          auto const from = rows.at(t.token).get<std::ptrdiff_t>();
          std::copy_n(original.begin() + from * cols, cols, expected.begin() + t.id * cols);
        }
      }
      CHECK(distance(found, expected) <= allowed);
    }
    auto const written = recipe::read_vocabulary(nlohmann::json::parse(get_file(o.ours->path() / "tokenizer.json")), "tokenizer.json");
    auto const ids = written.ids();
    for (auto const& t : tokens) {
      INFO(name << ", " << t.token);
      REQUIRE(ids.count(t.token) == 1);
      CHECK(ids.at(t.token) == t.id);
    }
  }
  CHECK(cases == 7);
}

TEST_CASE("configs and plans are mergekit's", "[recipe][golden]") {
  int plans = 0;
  for (auto const& e : golden_entries()) {
    std::string const name = e.at("name").get<std::string>();
    if (name == "keys-unknown" || name == "parameters-unknown") { continue; }
    INFO(name);
    recipe::run_plan const p = plan_of(e);
    for (auto const& [key, v] : e.at("config").items()) {
      INFO(key);
      // What mergekit calls dtype is torch_dtype in the inputs' configs.
      CHECK(p.config.at(key == "dtype" ? "torch_dtype" : key) == v);
    }
    if (p.recipe.modules[0].slices.empty()) { CHECK(p.dropped.empty()); }  // whole models: everything is used
    if (!e.contains("plan")) { continue; }
    ++plans;
    for (auto const& expected : golden_json(e.at("plan").get<std::string>())) {
      auto const tensor = expected.at("name").get<std::string>();
      INFO(tensor);
      auto const it = std::find_if(p.tensors.begin(), p.tensors.end(), [&](auto const& t) { return t.name == tensor; });
      REQUIRE(it != p.tensors.end());
      std::multiset<std::string> ours;
      std::multiset<std::string> theirs;
      for (auto const& s : it->inputs()) { ours.insert(to_text(p.models[s.model].reference) + ":" + s.tensor->name); }
      for (std::size_t i = 0; i < expected.at("models").size(); ++i) {
        theirs.insert(expected.at("models")[i].get<std::string>() + ":" + expected.at("inputs")[i].get<std::string>());
      }
      CHECK(ours == theirs);
    }
  }
  CHECK(plans == 10);
}

TEST_CASE("recipes at which mergekit stops are refused, or merged with a reason", "[recipe][golden]") {
  // Rows of one element have no rank; braid gives them the probability of the density.
  std::set<std::string> const merged = {"della-edge", "della-one"};
  for (auto const& e : golden_entries("failures")) {
    std::string const name = e.at("name").get<std::string>();
    INFO(name);
    bool stopped = false;
    temp_dir const dir;
    try {
      recipe::run(plan_of(e), dir.path() / "out", {}, braid::cpu{1});
    } catch (braid::error const& problem) {
      stopped = true;
      CHECK(std::string(problem.what()).find('\n') == std::string::npos);
      CHECK_FALSE(std::filesystem::exists(dir.path() / "out"));
    }
    CHECK(stopped == (merged.count(name) == 0));
  }
}
