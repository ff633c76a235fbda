#pragma once

#include "measure.hpp"

namespace zoo {

/// A plan for every method that makes one model of several, as mergekit has it, with equal weights, density 0.7 and
/// defaults. Whatever a method makes of the experts, its distance from the base is then scaled by one of `sweep`, the
/// same for all methods, and the best on the prompts counts: a favour done to all of them alike. Methods for two models take
/// the experts one after the other, each with its share.
std::vector<plan> single_model_plans(std::vector<float> const& sweep);

}  // namespace zoo
