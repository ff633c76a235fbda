#pragma once

/// A zoo's models and questions, and how well models answer them.

#include "../zoo_support/evaluate.hpp"
#include "../zoo_support/served.hpp"
#include "../zoo_support/table.hpp"

#include <braid/io/checkpoint.hpp>
#include <braid/io/grouped_checkpoint.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace zoo {

struct models {
  braid::checkpoint base;
  std::vector<braid::checkpoint> experts;  // in the order of the tasks
};

/// Which prompts of each task are asked.
struct prompt_range {
  std::size_t first = 0;     ///< so many, from the start; 0: all
  std::size_t held_out = 0;  ///< but never the last so many
};

class keeper {
 public:
  /// @throws braid::argument_error where no prompt of a task is left
  explicit keeper(std::filesystem::path const& dir, prompt_range range = {});

  [[nodiscard]] zoo::models const& models() const noexcept { return models_; }
  [[nodiscard]] zoo::questions const& questions() const noexcept { return questions_; }
  [[nodiscard]] std::vector<std::string> tasks() const;
  [[nodiscard]] int experts() const { return static_cast<int>(models_.experts.size()); }
  [[nodiscard]] std::size_t prompts() const;  ///< of all tasks together

  /// The base's bytes over those of all experts.
  [[nodiscard]] double base_fraction() const;

  /// The experts in the order of their names, which is how merges count them.
  [[nodiscard]] std::vector<braid::checkpoint> experts_by_name() const;

  /// Accuracy of each expert on its own task, in the order of the tasks.
  /// @param weights of the experts, counted in the order of their names
  [[nodiscard]] std::vector<double> scored(expert_weights const& weights) const;

  /// Each expert as it was trained.
  [[nodiscard]] std::vector<double> unmerged() const;
  /// The base in every expert's place.
  [[nodiscard]] std::vector<double> base() const;
  /// Each expert from a merged checkpoint, its rows found through the index.
  [[nodiscard]] std::vector<double> served_from(braid::grouped_checkpoint const& grouped) const;

 private:
  [[nodiscard]] std::vector<double> scored(served_llama const& model) const;

  zoo::questions questions_;
  zoo::models models_;
};

}  // namespace zoo
