#include "moments.hpp"
#include "keeper.hpp"
#include "output_file.hpp"

#include "../zoo_support/moments.hpp"
#include "../zoo_support/zoo_tensors.hpp"

#include <iostream>

namespace zoo {

void write_input_moments(std::string const& dir, std::string const& file, int prompts) {
  check_writable(file, "--moments");
  keeper const zoo(dir);
  auto const& questions = zoo.questions();
  std::map<std::string, std::vector<double>> mean;
  for (std::size_t n = 0; n < questions.tasks.size(); ++n) {
    auto const& all = questions.tasks[n].prompts;
    if (prompts < 1 || static_cast<std::size_t>(prompts) >= all.size()) {
      throw braid::argument_error("--moment-prompts " + std::to_string(prompts) + ": task " + questions.tasks[n].name +
                                  " has " + std::to_string(all.size()) + " prompts; take 1 or more, and leave some");
    }
    std::vector<prompt> const last(all.end() - prompts, all.end());
    braid::checkpoint const& expert = zoo.models().experts[n];
    auto const config = llama_config::from_json(expert.config(), (expert.path() / "config.json").string());
    auto const own =
        input_moments(config, weights_of(expert), questions.symbols, last, answer_limits(questions.symbols, last));
    for (auto const& [name, values] : own) {
      auto& sum = mean[name];
      sum.resize(values.size());
      for (std::size_t c = 0; c < values.size(); ++c) { sum[c] += values[c] / static_cast<double>(zoo.experts()); }
    }
  }
  moments m;
  m.prompts = prompts;
  for (auto const& t : zoo_tensors::load(zoo.models().base, zoo.models().experts).merged) {
    auto const found = mean.find(t.name);
    if (found == mean.end()) { continue; }  // not a linear layer of a Llama
    m.of.emplace(t.name, std::vector<float>(found->second.begin(), found->second.end()));
  }
  write_moments(file, m);
  std::cout << "Moments of " << m.of.size() << " weights on " << prompts << " prompts of each of "
            << questions.tasks.size() << " tasks; --frontier --column-weights FILE holds these prompts out.\n";
}

}  // namespace zoo
