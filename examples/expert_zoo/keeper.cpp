#include "keeper.hpp"

#include <algorithm>
#include <numeric>

namespace zoo {

namespace {

std::uint64_t tensor_bytes(braid::checkpoint const& model) {
  auto const& tensors = model.tensors();
  return std::accumulate(tensors.begin(), tensors.end(), std::uint64_t{0},
                         [](std::uint64_t sum, braid::tensor_meta const& t) { return sum + t.bytes; });
}

llama_config config_of(braid::checkpoint const& model) {
  return llama_config::from_json(model.config(), (model.path() / "config.json").string());
}

}  // namespace

keeper::keeper(std::filesystem::path const& dir, prompt_range range)
    : questions_(read_questions(dir / "prompts.json")), models_{braid::checkpoint(dir / "base"), {}} {
  for (auto& task : questions_.tasks) {
    models_.experts.emplace_back(dir / task.name);
    auto& prompts = task.prompts;
    if (range.held_out >= prompts.size()) {
      throw braid::argument_error("task " + task.name + " has " + std::to_string(prompts.size()) +
                                  " prompts: hold out fewer than that, not " + std::to_string(range.held_out));
    }
    prompts.resize(prompts.size() - range.held_out);
    if (range.first != 0) { prompts.resize(std::min(prompts.size(), range.first)); }
  }
}

std::vector<std::string> keeper::tasks() const {
  std::vector<std::string> names;
  for (auto const& task : questions_.tasks) { names.push_back(task.name); }
  return names;
}

std::size_t keeper::prompts() const {
  std::size_t sum = 0;
  for (auto const& task : questions_.tasks) { sum += task.prompts.size(); }
  return sum;
}

double keeper::base_fraction() const {
  std::uint64_t experts = 0;
  for (auto const& e : models_.experts) { experts += tensor_bytes(e); }
  return static_cast<double>(tensor_bytes(models_.base)) / static_cast<double>(experts);
}

std::vector<braid::checkpoint> keeper::experts_by_name() const {
  std::vector<braid::checkpoint> sorted = models_.experts;
  std::sort(sorted.begin(), sorted.end(), [](auto const& a, auto const& b) { return a.name() < b.name(); });
  return sorted;
}

std::vector<double> keeper::scored(expert_weights const& weights) const {
  llama_config const config = config_of(models_.experts.front());
  for (auto const& e : models_.experts) {
    if (!(config_of(e) == config)) {
      throw braid::argument_error(e.path().string() + ": another shape of model than " +
                                  models_.experts.front().path().string() + "; a zoo's experts have one");
    }
  }
  return scored(served_model(config, weights, braid::cpu(1)));
}

std::vector<double> keeper::scored(served_llama const& model) const {
  std::vector<std::string> names = tasks();
  std::sort(names.begin(), names.end());
  std::vector<double> accuracies;
  for (auto const& task : questions_.tasks) {
    auto const number = static_cast<std::size_t>(std::lower_bound(names.begin(), names.end(), task.name) - names.begin());
    accuracies.push_back(accuracy(model, questions_.symbols, task.prompts, number));
  }
  return accuracies;
}

std::vector<double> keeper::unmerged() const { return scored(weights_of(experts_by_name())); }

std::vector<double> keeper::base() const {
  // One model that every expert's number stands for.
  return scored(weights_of(std::vector<braid::checkpoint>(models_.experts.size(), models_.base)));
}

std::vector<double> keeper::served_from(braid::grouped_checkpoint const& grouped) const {
  return scored(served_model(grouped, braid::cpu(1)));
}

}  // namespace zoo
