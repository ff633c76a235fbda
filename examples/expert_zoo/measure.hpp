#pragma once

/// What the frontier's points are made of: a plan for each, and the bench on which plans are measured.

#include "keeper.hpp"
#include "recipe.hpp"

#include "../zoo_support/frontier_point.hpp"
#include "../zoo_support/rivals.hpp"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace zoo {

/// What one draw gives.
struct outcome {
  std::vector<double> accuracy;  // in the order of the tasks
  stored_bytes bytes;
  double stored = 0.0;

  [[nodiscard]] double mean() const;
};

/// A zoo in memory, ready to be merged and asked. Remembers what it has measured, so that two points which are one
/// merge cost one.
class bench {
 public:
  bench(keeper const& zoo, bool through_files)
      : zoo_(zoo),
        tensors_(zoo_tensors::load(zoo.models().base, zoo.models().experts)),
        through_files_(through_files) {}

  [[nodiscard]] keeper const& zoo() const noexcept { return zoo_; }
  [[nodiscard]] zoo_tensors const& tensors() const noexcept { return tensors_; }

  [[nodiscard]] outcome unmerged() const;
  [[nodiscard]] outcome base() const;
  /// Experts that somebody rebuilt.
  [[nodiscard]] outcome rebuilt(rebuilt_zoo const& experts) const;
  /// Experts as braid merges them.
  [[nodiscard]] outcome merged(recipe const& r);

 private:
  [[nodiscard]] outcome of(std::vector<double> accuracy, stored_bytes const& stored) const;
  [[nodiscard]] outcome merged_in_memory(recipe const& r) const;
  [[nodiscard]] outcome merged_on_disk(recipe const& r) const;

  keeper const& zoo_;
  zoo_tensors tensors_;
  bool through_files_;
  std::map<std::string, outcome> known_;
};

/// A point that is still to be measured.
struct plan {
  std::string family;
  std::string name;
  std::string label;
  zoo::origin origin = origin::reference;
  bool random = false;                  // the mean over five seeds
  std::vector<float> lambdas = {1.0f};  // more than one: the one that gives the best mean accuracy at the first seed
  std::function<outcome(bench&, std::uint64_t seed, float lambda)> measure;
};

/// All plans for a zoo, family by family.
/// @param column_weights null, or what merges are measured with once more
std::vector<plan> frontier_plans(zoo_tensors const& zoo, std::shared_ptr<moments const> const& column_weights);

}  // namespace zoo
