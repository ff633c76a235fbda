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

}  // namespace

llama<> model_of(braid::checkpoint const& checkpoint, weight_source const& weights) {
  try {
    return {llama_config::from_json(checkpoint.config(), (checkpoint.path() / "config.json").string()), weights};
  } catch (braid::shape_error const& e) { throw braid::shape_error(checkpoint.path().string() + ": " + e.what()); }
}

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

std::vector<double> keeper::scored(std::function<llama<>(std::size_t)> const& model_of) const {
  std::vector<double> accuracies;
  for (std::size_t n = 0; n < questions_.tasks.size(); ++n) {
    accuracies.push_back(accuracy(model_of(n), questions_.symbols, questions_.tasks[n].prompts));
  }
  return accuracies;
}

std::vector<double> keeper::unmerged() const {
  return scored([&](std::size_t n) { return model_of(models_.experts[n], weights_of(models_.experts[n])); });
}

std::vector<double> keeper::base() const {
  return scored([&](std::size_t) { return model_of(models_.base, weights_of(models_.base)); });
}

std::vector<double> keeper::rebuilt_from(braid::grouped_checkpoint const& grouped) const {
  return scored([&](std::size_t n) {
    auto const& expert = models_.experts[n];
    return model_of(expert, weights_of(grouped, grouped.expert_number(expert.name())));
  });
}

}  // namespace zoo
